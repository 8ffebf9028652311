"""How far a command is, with the time left: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

EVERY = 10.0  # seconds between lines where there is no terminal


class Meter:
    """Shows what is done of a total, on standard error.

    Args:
        unit: what is counted, in the singular.
        total: of all, if known.
        words: what is being done.
        shown: nothing at all otherwise, as in all but the first of several processes.
        leave: the bar stays on the terminal when it is full.
    """

    def __init__(
        self, unit: str, total: int | None = None, words: str = "", *, shown: bool = True, leave: bool = True
    ) -> None:
        self.unit, self.total, self.words = unit, total, words
        self.done, self.found = 0, 0  # of it, what was there at the start
        self.has_lines = shown and not sys.stderr.isatty()
        self.started = self.said = time.monotonic()
        self.bar = _bar(unit, total, words, leave) if shown and not self.has_lines else None

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def at(self, done: int, total: int | None = None, words: str | None = None) -> None:
        """So much is done; what is left out stays as it was. Other words begin anew."""
        if words is not None and words != self.words:
            self._begin(words)
        self.total = self.total if total is None else total
        if self.done == 0:  # the first of it may have been done by a run before
            self.found, self.started = done, time.monotonic()
        self.done = done
        if self.bar is not None:
            self.bar.total = self.total
            self.bar.update(done - self.bar.n)
        elif self.has_lines and time.monotonic() - self.said >= EVERY:
            self._say()

    def note(self, text: str) -> None:
        """Something short behind the bar, such as a loss."""
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)

    def _begin(self, words: str) -> None:
        self.words, self.done, self.started = words, 0, time.monotonic()
        if self.bar is not None:
            self.bar.reset(total=self.total)
            self.bar.set_description(words)

    def _say(self) -> None:
        """One line of text."""
        self.said = time.monotonic()
        whole = f" of {self.total}" if self.total else ""
        words = f"{self.words}: " if self.words else ""
        sys.stderr.write(f"{words}{self.done}{whole} {self.unit}s{self._left()}\n")
        sys.stderr.flush()

    def _left(self) -> str:
        if not self.total or self.done <= self.found:
            return ""
        seconds = (self.said - self.started) / (self.done - self.found) * (self.total - self.done)
        return f", about {in_words(seconds)} left"


def in_words(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3 h 20 min."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _bar(unit: str, total: int | None, words: str, leave: bool):  # type: ignore[no-untyped-def]  # tqdm has no types
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, desc=words or None, leave=leave)
