"""Many visitors at once: the queue answers, nobody gets what is another's, and memory comes back."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the extra `demo` is not installed")

from demo_server import Answer, Server, Visitor, inputs, served

# Fewer for a quick look.
CLIENTS, SECONDS = int(os.environ.get("LOAD_CLIENTS", 30)), float(os.environ.get("LOAD_SECONDS", 120))
QUEUE = 20  # places
STATUS = Path("/proc/self/status")

Digests = tuple[str, ...]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("demo")) as server:
        yield server


def photo(number: int) -> bytes:
    """Another one for every client, of another shape."""
    pixels = np.random.default_rng(number).integers(0, 255, (24 + number % 7, 24 + number % 5, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def uploaded(visitor: Visitor, number: int) -> dict[str, Any]:
    return visitor.upload(photo(number))


def run(visitor: Visitor, number: int) -> Answer:
    return visitor.run(uploaded(visitor, number), steps=1, seed=number)


def digests(visitor: Visitor, answer: Answer) -> Digests:
    """Of every stage, as this visitor can download it."""
    pictures = [stage["image"]["url"] for stage in answer.data[2]]
    return tuple(hashlib.sha256(visitor.http.get(picture).content).hexdigest() for picture in pictures)


def megabytes(server: Server) -> float:
    """Resident memory of the server."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1000


class Client(threading.Thread):
    """Runs its photo again and again until it is time to go; asks again after a while where all places are taken."""

    def __init__(self, url: str, number: int, until: float) -> None:
        super().__init__(daemon=True)
        self.visitor, self.number, self.until = Visitor(url), number, until
        self.results: list[Digests] = []
        self.refusals: list[Answer] = []
        self.well = False  # to the end, without an exception

    def run(self) -> None:
        while time.monotonic() < self.until:
            answer = run(self.visitor, self.number)
            if answer.status == 200:
                self.results.append(digests(self.visitor, answer))
            else:
                self.refusals.append(answer)
                time.sleep(0.5)
        self.well = True


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc")
def test_many_clients_at_once(server: Server) -> None:
    alone = Visitor(server.url)
    expected = [digests(alone, run(alone, number)) for number in range(CLIENTS)]
    assert len(set(expected)) == CLIENTS and all(len(stages) == 9 for stages in expected)
    before = megabytes(server)

    until = time.monotonic() + SECONDS
    clients = [Client(server.url, number, until) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    peak = before
    while any(client.is_alive() for client in clients):
        peak = max(peak, megabytes(server))
        time.sleep(1)
        assert time.monotonic() < until + 120, "somebody still waits"

    for client, result in zip(clients, expected, strict=True):
        assert client.well and client.results, "somebody was not served"
        assert set(client.results) == {result}, "a wrong or mixed result"
    refusals = [refusal for client in clients for refusal in client.refusals]
    assert all(refusal.status == 503 and "Queue is full" in refusal.text for refusal in refusals), refusals
    assert bool(refusals) == (CLIENTS > QUEUE + 1)
    after = megabytes(server)
    finished = sum(len(client.results) for client in clients)
    print(f"{finished} runs, {len(refusals)} times busy, {before:.0f} MB, at most {peak:.0f}, then {after:.0f}")
    assert peak < 1.5 * before
    assert after < 1.1 * before


def test_a_full_queue_says_so_and_a_stopped_run_makes_room(server: Server) -> None:
    visitor = Visitor(server.url)
    slow = visitor.join("run", inputs(uploaded(visitor, 0), attack="strong", defense="paper", threat="exact"))
    waiting = [visitor.join("restore", [uploaded(visitor, number), None]) for number in range(QUEUE + 2)]
    places = [ticket for ticket in waiting if ticket.status == 200]
    assert QUEUE <= len(places) <= QUEUE + 1, "the slow one may wait, too, when the first of the others comes"
    assert {refusal.status for refusal in waiting[len(places) :]} == {503}
    assert "Queue is full" in waiting[-1].text

    visitor.leave("run", slow.data)
    # Served before the slow one would have ended: the client gives up after a minute, that one takes several.
    assert visitor.end("restore", places[-1].data).status == 200
