"""A line of a table: an attack as it is set, what it knows, and the purifier it meets; and its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from udc_defense.evaluation.runner import CENTRE, Cell, Job, Results, restorer_facts
from udc_defense.photo.settings import Settings
from udc_defense.purification import DEFAULT, Purification
from udc_defense.scenes import Crop


@dataclass(frozen=True)
class Entry:
    """What a protocol measures on the 128² centres of many crops; `restorer` is an embedded name."""

    title: str
    attack: str
    changes: dict[str, Any] = field(default_factory=dict)
    purification: Purification = DEFAULT
    restorer: str = "default"

    def settings(self, seed: int) -> Settings:
        return Settings(attack=self.attack, seed=seed, **self.changes)


def jobs_of(
    entries: Sequence[Entry], crops: Sequence[Crop], scenes: Path, seed: int, val: Sequence[Crop] = ()
) -> Iterator[Job]:
    """One job per entry and crop, entry by entry; a universal perturbation is fitted on `val`."""
    for entry in entries:
        fitted_on = tuple(val) if entry.attack == "universal" else ()
        cell = Cell(entry.settings(seed), (entry.purification,), size=CENTRE, fitted_on=fitted_on)
        yield from (Job(crop, str(scenes), cell, entry.restorer) for crop in crops)


def rows_of(results: Results, entry: Entry, split: str) -> list[dict[str, Any]]:
    """The rows of one entry."""
    wanted = {"split": split, "size": CENTRE, "purifier": entry.purification.facts()} | restorer_facts(entry.restorer)
    return results.of_setting(wanted | asdict(entry.settings(results.seed)))
