"""`python app.py` in a process of its own, and a client of bare HTTP, which can send what no polite one would."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from udc_defense.demo.fields import FIELDS

ROOT = Path(__file__).parents[2]


class Server(NamedTuple):
    """A demo that answers."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def served(
    folder: Path, *, app: Path = ROOT, user: int | None = None, path: tuple[Path, ...] = (), **environment: str
) -> Iterator[Server]:
    """`python app.py` on a free port of this machine, told that there is no Hub.

    Args:
        folder: its log and its cache.
        app: where `app.py` and the package are.
        user: who runs it.
        path: more folders where Python looks for modules, before all others.
        environment: more of it.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    modules = os.pathsep.join(map(str, (*path, app)))
    offline = {"HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder / "cache"), "PYTHONPATH": modules}
    where = {"PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=app,
            env=os.environ | environment | offline | where,
            stdout=log,
            stderr=log,
            user=user,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}", process, folder / "log")
        yield Server(f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait(timeout=20)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a demo answers, or has ended."""
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            httpx.get(url, timeout=2)
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError(f"no answer from {url}: {log.read_text()}")


class Answer(NamedTuple):
    """The end of a call: HTTP status, and the outputs or the sentence of an error."""

    status: int
    data: Any
    text: str


class Visitor:
    """Calls the demo's API."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def upload(self, data: bytes, name: str = "photo.png") -> dict[str, Any]:
        """What stands for an uploaded file in a call."""
        (path,) = self.http.post("/gradio_api/upload", files={"files": (name, data)}).json()
        return file(path)

    def run(self, photo: Any, **fields: Any) -> Answer:
        """`/run`, which takes every field."""
        return self.call("run", inputs(photo, **fields))

    def restore(self, photo: Any) -> Answer:
        """`/restore`, the quickest."""
        return self.call("restore", [photo, None])

    def call(self, endpoint: str, data: list[Any]) -> Answer:
        """An endpoint of the API, to its end."""
        joined = self.join(endpoint, data)
        return joined if joined.status != 200 else self.end(endpoint, joined.data)

    def end(self, endpoint: str, ticket: str) -> Answer:
        """Wait for the outputs."""
        events = self.http.get(f"/gradio_api/call/{endpoint}/{ticket}").text
        event, _, line = events.strip().split("\n\n")[-1].partition("\n")
        return _answer(event == "event: complete", json.loads(line.removeprefix("data: ")))

    def join(self, endpoint: str, data: list[Any]) -> Answer:
        """Queue for an endpoint; the answer's data are the ticket."""
        joined = self._post(f"call/{endpoint}", {"data": data})
        if joined.status_code != 200:
            return Answer(joined.status_code, None, joined.text)
        return Answer(200, joined.json()["event_id"], "")

    def leave(self, endpoint: str, ticket: str) -> None:
        """Give up, waiting or served."""
        self._post("cancel", {"session_hash": ticket, "fn_index": self._number(endpoint), "event_id": ticket})

    def event(self, handler: str, data: list[Any]) -> Answer:
        """An event of the page, as the browser asks for it, to its end."""
        session = secrets.token_hex(5)
        self._post("queue/join", {"data": data, "fn_index": self._number(handler), "session_hash": session})
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as events:
            for line in filter(None, events.iter_lines()):
                message = json.loads(line.removeprefix("data: "))
                if message["msg"] == "process_completed":
                    output = message["output"]
                    return _answer(message["success"], output["data"] if message["success"] else output)
        raise AssertionError("no end")

    def _number(self, handler: str) -> int:
        events = self.http.get("/config").json()["dependencies"]
        return next(event["id"] for event in events if event["api_name"] == handler)

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Not httpx makes the JSON: it refuses NaN."""
        headers = {"content-type": "application/json"}
        return self.http.post(f"/gradio_api/{path}", content=json.dumps(body), headers=headers)


def _answer(success: bool, result: Any) -> Answer:
    return Answer(200, result, "") if success else Answer(500, None, str(result["error"]))


def inputs(photo: Any, **fields: Any) -> list[Any]:
    """Of `/run`."""
    return [photo, *(FIELDS | fields).values()]


def file(path: str | None, **more: Any) -> dict[str, Any]:
    """Gradio's way to name a file."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}} | more
