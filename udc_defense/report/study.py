"""The rows of all runs in groups, and what is said of a group: means over images with intervals, the worst attack.

Everything is computed from rows, so that a run that is not finished is reported as far as it went, and two runs are
compared image by image.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np

from udc_defense.evaluation.bootstrap import bootstrap_difference
from udc_defense.evaluation.protocol import EOT
from udc_defense.report.runs import Run

NONE = "none"  # the defense of those that have none
OBLIVIOUS = "oblivious"
RESAMPLES = 2000
PARTS = (("nfe",), ("seconds", "restore"), ("seconds", "purify"))  # of a row: what a defense costs


class Interval(NamedTuple):
    """A mean over images and the ends of its 95 % bootstrap interval, which one image does not have."""

    mean: float
    low: float | None
    high: float | None


class Condition(NamedTuple):
    """What was defended: rows of different conditions are never averaged."""

    run: str
    restorer: str
    degradation: str


class Setting(NamedTuple):
    """An attack as it was set, and what it knows. ε in 1/255, None of an attack that has no radius."""

    title: str
    norm: str | None
    eps: float | None
    threat: str


class Budget(NamedTuple):
    """What an attacker may do to be compared with others."""

    norm: str
    eps: float


@dataclass(frozen=True)
class Cell:
    """The rows, one per image, of one attack on one defense in one condition."""

    condition: Condition
    defense: str
    trivial: bool
    setting: Setting
    rows: Sequence[dict[str, Any]]

    def values(self, stage: str, metric: str = "psnr") -> dict[str, float]:
        """By image, where it was measured and is finite. Without a defense, the restorer is all that is defended."""
        if self.defense == NONE:
            stage = {"defended_clean": "restored", "defended_attacked": "attacked_restored"}.get(stage, stage)
        found = {row["image"]: (row.get(metric) or {}).get(stage) for row in self.rows}
        numbers = {image: value for image, value in found.items() if isinstance(value, int | float)}
        return {image: float(value) for image, value in numbers.items() if math.isfinite(value)}

    @property
    def attacked(self) -> dict[str, float]:
        return self.values("defended_attacked")

    @property
    def clean(self) -> dict[str, float]:
        return self.values("defended_clean")

    @property
    def family(self) -> str:
        """The attack without its radius and what it knows: what is the same along a curve."""
        row = self.rows[0]
        return repr([row.get(key) for key in ("attack", "objective", "steps", "draws", "options")])

    @property
    def drop(self) -> float:
        """Mean of what the attack takes, in dB; attacks that ran on different images stay comparable."""
        clean, attacked = self.clean, self.attacked
        return fmean([clean[image] - attacked[image] for image in clean.keys() & attacked.keys()] or [-math.inf])


def interval(values: Mapping[str, float]) -> Interval | None:
    """Of a mean over images; None without one."""
    return difference(values, dict.fromkeys(values, 0.0))


def difference(first: Mapping[str, float], second: Mapping[str, float]) -> Interval | None:
    """Of the mean of first - second over the images that both have; None where there is none."""
    images = sorted(first.keys() & second.keys())
    if not images:
        return None
    one, other = (np.array([[values[image]] for image in images]) for values in (first, second))
    if len(images) == 1:
        return Interval(float(one[0, 0] - other[0, 0]), None, None)
    return Interval(*bootstrap_difference(one, other, resamples=RESAMPLES))


def among(values: Mapping[str, float], images: Iterable[str]) -> dict[str, float]:
    """Those of these images."""
    return {image: values[image] for image in images if image in values}


def number(rows: Iterable[Mapping[str, Any]], *path: str, of: Callable[[list[float]], float] = fmean) -> float | None:
    """Mean, or another summary, of a nested value over the rows that have it."""
    found = []
    for row in rows:
        value: Any = row
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            found.append(float(value))
    return of(found) if found else None


class Study:
    """All cells of all runs; `budget` is the norm and ε at which most attacks were measured."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        cells = [cell for run in runs for cell in _cells(run)]
        # They ask whether more draws per gradient find more, on a few images, and are no attacks to be compared.
        self.convergence = [cell for cell in cells if cell.setting.title.startswith(EOT)]
        self.cells = [cell for cell in cells if not cell.setting.title.startswith(EOT)]

    @cached_property
    def budget(self) -> Budget | None:
        """None where no attack with a radius was measured."""
        settings = {cell.setting for cell in self.cells}
        found = Counter(Budget(s.norm, s.eps) for s in settings if s.norm and s.eps)
        return found.most_common(1)[0][0] if found else None

    @cached_property
    def conditions(self) -> list[Condition]:
        """Run by run, as `run.json` lists degradations and restorers: the first is what the headline is about."""
        facts = {run.name: run.facts for run in self.runs}

        def place(condition: Condition) -> tuple[int, int, int]:
            listed = facts[condition.run]
            degradations, restorers = (listed.get(key) or [] for key in ("degradations", "restorers"))
            run = list(facts).index(condition.run)
            return run, _place(condition.degradation, degradations), _place(condition.restorer, restorers)

        return sorted(dict.fromkeys(cell.condition for cell in self.cells), key=place)

    @cached_property
    def pairs(self) -> dict[tuple[Condition, str], list[Cell]]:
        """The cells of every condition and defense: no defense first, the trivial ones last, the runs side by side."""
        kinds = list(dict.fromkeys(condition[1:] for condition in self.conditions))
        names = [defense.get("name") for run in self.runs for defense in run.facts.get("defenses") or []]
        names += [cell.defense for cell in self.cells]

        def place(cell: Cell) -> tuple[int, bool, bool, int]:
            """Sorting is stable: cells keep the order of their runs."""
            return kinds.index(cell.condition[1:]), cell.trivial, cell.defense != NONE, names.index(cell.defense)

        found: dict[tuple[Condition, str], list[Cell]] = {}
        for cell in sorted(self.cells, key=place):
            found.setdefault((cell.condition, cell.defense), []).append(cell)
        return found

    def defenses(self, condition: Condition) -> list[str]:
        return [defense for other, defense in self.pairs if other == condition]

    def trivial(self, condition: Condition, defense: str) -> bool:
        return self.pairs[condition, defense][0].trivial

    def worst(self, condition: Condition, defense: str, *, knows: bool | None = None) -> Cell | None:
        """The attack within the budget that takes most; of those who know the defense, or do not, where asked."""
        cells = [
            cell
            for cell in self.pairs.get((condition, defense), [])
            if (cell.setting.norm, cell.setting.eps) == self.budget
            and (knows is None or knows == (cell.setting.threat != OBLIVIOUS))
            and cell.drop > -math.inf
        ]
        return max(cells, key=lambda cell: cell.drop, default=None)

    def clean(self, condition: Condition, defense: str, metric: str = "psnr") -> dict[str, float]:
        """Of every image without an attack."""
        return self.over_attacks(condition, defense, "defended_clean", metric)

    def over_attacks(self, condition: Condition, defense: str, stage: str, metric: str = "psnr") -> dict[str, float]:
        """Means by image over all attacks, of a stage that none of them touches."""
        found: dict[str, list[float]] = {}
        for cell in self.pairs[condition, defense]:
            for image, value in cell.values(stage, metric).items():
                found.setdefault(image, []).append(value)
        return {image: fmean(values) for image, values in found.items()}

    def cost(self, condition: Condition, defense: str) -> dict[str, float | None]:
        """Of one image: `evaluations`, `seconds`, `peak_memory_mb`; medians of the rows where it was not measured."""
        run = next(run for run in self.runs if run.name == condition.run)
        if condition.restorer in (run.facts.get("restorers") or [])[:1]:  # it was, with the first restorer
            for entry in (run.summary or {}).get("cost") or []:
                if entry["defense"] == defense:
                    return entry
        rows = [row for cell in self.pairs[condition, defense] for row in cell.rows]
        evaluations, restore, purify = (number(rows, *path, of=median) for path in PARTS)
        # Purification was timed with restoration, of the clean and of the attacked image.
        return {"evaluations": evaluations, "seconds": restore if purify is None else purify / 2}

    def best(self, condition: Condition, *, trivial: bool = False) -> Cell | None:
        """The worst case of the defense that keeps most in it, among the trivial ones or among the others.

        One that was attacked by somebody who knows it comes before any that was not: that one has proved nothing.
        """
        names = [d for d in self.defenses(condition) if d != NONE and self.trivial(condition, d) == trivial]
        known = [name for name in names if self.worst(condition, name, knows=True)]
        cells = [cell for name in known or names if (cell := self.worst(condition, name)) is not None]
        return max(cells, key=lambda cell: fmean(cell.attacked.values()), default=None)

    def curve(self, condition: Condition, defense: str, *, knows: bool) -> list[Cell]:
        """One cell for each ε: the worst of the attacks that were run at every ε where most were."""
        cells = [
            cell
            for cell in self.pairs[condition, defense]
            if self.budget and cell.setting.norm == self.budget.norm and knows == (cell.setting.threat != OBLIVIOUS)
        ]
        radii: dict[tuple[str, str], dict[float, Cell]] = {}
        for cell in cells:
            if cell.setting.eps and cell.drop > -math.inf:
                radii.setdefault((cell.family, cell.setting.threat), {})[cell.setting.eps] = cell
        longest = max(radii.values(), key=lambda found: (len(found), sum(c.drop for c in found.values())), default={})
        complete = [found for found in radii.values() if found.keys() >= longest.keys()]
        return [max((found[eps] for found in complete), key=lambda cell: cell.drop) for eps in sorted(longest)]


def _place(name: str, names: Sequence[str]) -> int:
    """In a list; what it lacks comes last."""
    return names.index(name) if name in names else len(names)


def _cells(run: Run) -> list[Cell]:
    found: dict[tuple[Condition, str, Setting], list[dict[str, Any]]] = {}
    for row in run.rows:
        if row.get("made_on"):  # another restorer's adversarial image: the transfer matrix has it
            continue
        condition = Condition(run.name, row["restorer"], row["degradation"])
        eps = row.get("eps")
        # An attack with a radius that takes no norm is one in L∞.
        norm = row.get("norm") or (None if eps is None else "linf")
        found.setdefault((condition, row["defense"], Setting(row["title"], norm, eps, row["threat"])), []).append(row)
    return [
        Cell(condition, defense, bool(rows[0].get("trivial")), setting, rows)
        for (condition, defense, setting), rows in found.items()
    ]
