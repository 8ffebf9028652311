"""The targets of all runs, in order, and which defense is the best.

Everything is computed from rows, so that a run that is not finished is reported as far as it went, and two runs are
compared image by image. What the worst attack on a target is, is said in `udc_defense.evaluation.rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from statistics import median
from typing import NamedTuple

from udc_defense.evaluation.rows import (
    NONE,
    Budget,
    Cell,
    Target,
    common_budget,
    number,
    on_shared_images,
    targets,
    worst_of,
)
from udc_defense.report.runs import Run

PARTS = (("nfe",), ("seconds", "restore"), ("seconds", "purify"))  # of a row: what a defense costs


class Condition(NamedTuple):
    """What was defended: rows of different conditions are never averaged."""

    run: str
    restorer: str
    degradation: str
    split: str | None
    size: int | None


class Study:
    """Everything that was attacked in all runs; `budget` is what attackers may do to be compared."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        found = [(run.name, target) for run in runs for target in targets(run.rows)]
        self.budget: Budget | None = common_budget(target for _, target in found)
        self._found = [
            (Condition(run, target.restorer, target.degradation, target.split, target.size), target)
            for run, target in found
        ]

    @cached_property
    def conditions(self) -> list[Condition]:
        """Run by run, as `run.json` lists degradations and restorers: the first is what the headline is about."""
        facts = {run.name: run.facts for run in self.runs}

        def place(condition: Condition) -> tuple[int, int, int]:
            listed = facts[condition.run]
            degradations, restorers = (listed.get(key) or [] for key in ("degradations", "restorers"))
            run = list(facts).index(condition.run)
            return run, _place(condition.degradation, degradations), _place(condition.restorer, restorers)

        return sorted(dict.fromkeys(condition for condition, _ in self._found), key=place)

    @cached_property
    def pairs(self) -> dict[tuple[Condition, str], Target]:
        """Every condition and defense: no defense first, the trivial ones last, the runs side by side."""
        kinds = list(dict.fromkeys(condition[1:] for condition in self.conditions))
        names = [defense.get("name") for run in self.runs for defense in run.facts.get("defenses") or []]
        names += [target.defense for _, target in self._found]

        def place(found: tuple[Condition, Target]) -> tuple[int, bool, bool, int]:
            """Sorting is stable: targets keep the order of their runs."""
            condition, target = found
            trivial, defended = target.trivial, target.defense != NONE
            return kinds.index(condition[1:]), trivial, defended, names.index(target.defense)

        return {(condition, target.defense): target for condition, target in sorted(self._found, key=place)}

    def defenses(self, condition: Condition) -> list[str]:
        return [defense for other, defense in self.pairs if other == condition]

    def worst(self, condition: Condition, defense: str, *, knows: bool | None = None) -> Cell | None:
        """The attack within the budget that leaves least; of those who know the defense, or do not, where asked."""
        target = self.pairs.get((condition, defense))
        return target.worst(self.budget, knows=knows) if target else None

    def cost(self, condition: Condition, defense: str) -> dict[str, float | None]:
        """Of one image: `evaluations`, `seconds`, `peak_memory_mb`; medians of the rows where it was not measured."""
        run = next(run for run in self.runs if run.name == condition.run)
        if condition.restorer in (run.facts.get("restorers") or [])[:1]:  # it was, with the first restorer
            for entry in (run.summary or {}).get("cost") or []:
                if entry["defense"] == defense:
                    return entry
        rows = self.pairs[condition, defense].rows
        evaluations, restore, purify = (number(rows, *path, of=median) for path in PARTS)
        # Purification was timed with restoration, of the clean and of the attacked image.
        return {"evaluations": evaluations, "seconds": restore if purify is None else purify / 2}

    def best(self, condition: Condition, *, trivial: bool = False) -> Target | None:
        """The defense that keeps most under its worst attack, among the trivial ones or among the others.

        One that was attacked by somebody who knows it comes before any that was not: that one has proved nothing.
        """
        found = [t for (other, defense), t in self.pairs.items() if other == condition and defense != NONE]
        found = [target for target in found if target.trivial == trivial and target.worst(self.budget)]
        known = [target for target in found if target.worst(self.budget, knows=True)]

        def kept(target: Target) -> float:
            worst = target.worst(self.budget)
            assert worst is not None
            return worst.mean

        return max(known or found, key=kept, default=None)

    def curve(self, condition: Condition, defense: str, *, knows: bool) -> list[Cell]:
        """One cell for each ε: the worst of the attacks that were run at every ε where most were, on shared images."""
        target = self.pairs[condition, defense]
        shared = [image for cell in target.compared(self.budget)[:1] for image in cell.attacked]
        radii: dict[tuple[str, str], dict[float, Cell]] = {}
        for cell in target.cells:
            setting = cell.setting
            within = self.budget and setting.norm == self.budget.norm and cell.knows == knows
            if within and setting.eps and (found := cell.on(shared)).attacked:
                radii.setdefault((cell.family, setting.threat), {})[setting.eps] = found
        longest = max(radii.values(), key=lambda found: (len(found), -sum(c.mean for c in found.values())), default={})
        complete = [found for found in radii.values() if found.keys() >= longest.keys()]
        worst = [worst_of([found[eps] for found in complete]) for eps in sorted(longest)]
        return on_shared_images([cell for cell in worst if cell])


def _place(name: str, names: Sequence[str]) -> int:
    """In a list; what it lacks comes last."""
    return names.index(name) if name in names else len(names)
