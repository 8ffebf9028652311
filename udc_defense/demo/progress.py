"""The status line: where a run stands, and how long the rest will take."""

from __future__ import annotations

import html
import time
from dataclasses import replace

from udc_defense.demo.engine import Phase
from udc_defense.photo.stages import Step

REFRESH = 0.1  # s: a browser need not draw more status lines


class Clock:
    """Time since its making, and how long the rest will take at this pace."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def left(self, share: float) -> str:
        """` · about 4 s left` when this share is done; empty at first."""
        return f" · about {_duration(self.seconds * (1 - share) / share)} left" if share > 0.05 else ""


class Progress(Clock):
    """Where a run stands: which phase, and how far."""

    def __init__(self, plan: list[Phase]) -> None:
        super().__init__()
        self.plan, self.index, self.step, self.images = plan, 0, 0, 0
        self.shown = self.started

    def update(self, step: Step) -> bool:
        """Take a step in; true where it brought new images."""
        self.step = step.step
        if self.index < len(self.plan):  # the library knows better how many steps there are
            self.plan[self.index] = replace(self.plan[self.index], steps=step.steps)
        grown = len(step.result.images) > self.images
        if grown:
            self.images, self.index, self.step = len(step.result.images), self.index + 1, 0
        return grown

    def due(self) -> bool:
        """Whether the last line is old enough for another: an attack may take hundreds of steps a second."""
        due = time.monotonic() - self.shown >= REFRESH
        self.shown = time.monotonic() if due else self.shown
        return due

    @property
    def share(self) -> float:
        total = sum(phase.total for phase in self.plan)
        done = sum(phase.total for phase in self.plan[: self.index])
        if self.index < len(self.plan):
            done += min(self.step * self.plan[self.index].cost, self.plan[self.index].total)
        return done / total

    def words(self) -> str:
        if self.index >= len(self.plan):
            return "Finishing"
        phase = self.plan[self.index]
        step = f", step {self.step} of {phase.steps}" if phase.steps > 1 else ""
        return f"{self.index + 1} of {len(self.plan)} · {phase.words}{step}{self.left(self.share)}"

    def line(self) -> str:
        return status("running", self.words(), self.share)


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{round(seconds / 60)} min"


def status(state: str, words: str, share: float = 0.0) -> str:
    """The status line. State is idle, running, done, stopped or failed: style and tests read it."""
    bar = f'<i style="width:{100 * share:.1f}%"></i>'
    return (
        f'<div class="udc-status" data-state="{state}" role="status"><span>{html.escape(words)}</span>'
        f'<div class="udc-bar">{bar}</div></div>'
    )


def stopping(line: str) -> str:
    """The status line between Stop and the end of the step that is at work."""
    return status("running", "Stopping after this step") if 'data-state="running"' in line else line


def stopped(line: str) -> str:
    """The status line after Stop: what was finished stays, and so does a line that says no run is on."""
    return status("stopped", "Stopped. What was finished stays below.") if 'data-state="running"' in line else line
