"""Runs that nobody listens to are stopped: gradio computes what was asked for even where the answer is never fetched.

It notices a visitor who leaves in the middle of an answer, but not one who never came for it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

PATIENCE = 10.0  # s between asking for a run and listening to it
ANSWER = re.compile(r"/call/(?:v2/)?[^/]+/(\w+)/?$")
ANSWERS = re.compile(r"/queue/data/?$")


def listener(scope: Any) -> str | None:
    """The event or session whose answers a request waits for; None where it waits for none."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    if answer := ANSWER.search(scope["path"]):
        return answer[1]
    if ANSWERS.search(scope["path"]):
        return next(iter(parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [])), None)
    return None


class Listeners:
    """Who listens at present, and the watch that stops what has nobody for `PATIENCE` seconds.

    Args:
        queue: gradio's.
    """

    def __init__(self, queue: Any) -> None:
        self.queue, self.open, self.heard = queue, Counter[str](), dict[str, float]()
        self.task: asyncio.Task[None] | None = None

    @contextmanager
    def present(self, name: str) -> Iterator[None]:
        """While an event's or a session's answers are listened to."""
        self.open[name] += 1
        try:
            yield
        finally:
            self.open[name] -= 1

    def watch(self) -> None:
        """Look at the queue every second until it is empty; called in its loop after something was queued."""
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while events := self._alive():
            for event in events:
                if self._forsaken(event):
                    await self.queue.clean_events(event_id=event._id)
            await asyncio.sleep(min(1.0, PATIENCE / 4))
        self.heard.clear()

    def _alive(self) -> list[Any]:
        waiting = [event for line in self.queue.event_queue_per_concurrency_id.values() for event in line.queue]
        running = [event for jobs in self.queue.active_jobs for event in jobs or ()]
        return [event for event in waiting + running if event.alive]

    def _forsaken(self, event: Any) -> bool:
        now = time.monotonic()
        if self.open[event._id] > 0 or self.open[event.session_hash] > 0:
            self.heard[event._id] = now
        return now - self.heard.get(event._id, event.enqueue_time) > PATIENCE
