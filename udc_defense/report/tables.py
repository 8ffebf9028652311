"""The tables of the report: the honesty list, then what it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import Any

from udc_defense.evaluation.rows import (
    CERTIFIED,
    NONE,
    Cell,
    Target,
    among,
    difference,
    interval,
    number,
    on_shared_images,
)
from udc_defense.report import words
from udc_defense.report.study import Condition, Study
from udc_defense.table import Column, Interval, Table, Value

ENDS = "In brackets, 95 % bootstrap intervals over images."
GAIN = (
    "The effective gain is by how much the error of the output (RMSE) grows, in units of what the attacker may change."
)
KMAC = Column("kMAC per pixel", 1)
SYSTEM = (Column("Effective gain"), KMAC)
Row = list[Value]


class Tables:
    """Every table that the rows of a study can fill. What all rows have in common is left out of them."""

    def __init__(self, study: Study) -> None:
        self.study = study
        conditions = study.conditions
        self._varying = [
            name for name in Condition._fields if len({getattr(condition, name) for condition in conditions}) > 1
        ]

    def honesty(self) -> list[Table]:
        """The honesty list, in its order; what was not measured has no rows."""
        made = (self.headline, self.knowledge, self.trivial, self.clean_cost, self.spread, self.checks)
        return [make() for make in (*made, self.convergence, self.cost)]

    def details(self) -> list[Table]:
        """What the honesty list is made of."""
        return [table for table in (self.certified(), self.metrics(), self.attacks()) if table.rows]

    def headline(self) -> Table:
        rows: list[Row] = []
        for condition, defense, cell in self._worst():
            gained = None if defense == NONE else difference(cell.attacked, self._undefended(condition))
            levels = [self._clean(condition, cell), interval(cell.attacked), gained]
            attack = [cell.setting.title, self._attacker(cell), len(cell.attacked)]
            rows.append([*self._labels(condition, defense), *levels, *self._system(condition, cell), *attack])
        columns: list[str | Column] = ["Without attack, dB", "Worst attack, dB"]
        columns += [Column("Gained over no defense, dB", signed=True), *SYSTEM]
        columns += ["Attack", "Attacker", Column("Images", 0)]
        caption = (
            "PSNR of the defended restorer without an attack and under the attack that leaves least of it, "
            f"{self._budget()}, on the images that every such attack met. What is gained is over the undefended "
            f"restorer under the worst attack on that one, on the same images. {GAIN} {ENDS}"
        )
        return self._table("headline", "The worst threat", caption, columns, rows)

    def knowledge(self) -> Table:
        rows: list[Row] = []
        for condition, defense in self._defended():
            found = [self.study.worst(condition, defense, knows=knows) for knows in (False, True)]
            there = [cell for cell in found if cell is not None]
            if not there:
                continue
            levels = [interval(cell.attacked) if cell else "not measured" for cell in found]
            rows.append(
                [
                    *self._labels(condition, defense),
                    self._clean(condition, there[-1]),
                    interval(there[-1].values("noise_restored")),
                    *levels,
                    difference(there[0].attacked, there[1].attacked) if len(there) == 2 else None,
                    *self._system(condition, there[-1]),
                    there[-1].setting.title,
                    len(there[-1].attacked),
                ]
            )
        columns: list[str | Column] = ["No attack, dB", "Random noise, no defense, dB", "Does not know it, dB"]
        columns += ["Knows it, dB", "Taken by knowing, dB", *SYSTEM, "Attack", Column("Images", 0)]
        caption = (
            "The worst attacker who does not know the defense beside the worst who does, "
            f"{self._budget()}, on the images that all of them attacked; beside them random noise that has the size of "
            f"the last one's perturbation. {GAIN} {ENDS}"
        )
        return self._table("knowledge", "Does the attacker know the defense?", caption, columns, rows)

    def trivial(self) -> Table:
        rows: list[Row] = []
        for condition in self.study.conditions:
            best = self.study.best(condition)
            kept = best.worst(self.study.budget) if best else None
            if best is None or kept is None:
                continue
            for defense in self.study.defenses(condition):
                target = self.study.pairs[condition, defense]
                worst = target.worst(self.study.budget)
                if worst is None or not (target.trivial or defense == NONE):
                    continue
                saved = difference(kept.attacked, worst.attacked)
                clean = difference(best.clean(), target.clean())
                level, knows = interval(worst.attacked), self._attacker(worst)
                system = self._system(condition, worst)
                rows.append([*self._labels(condition, defense), level, *system, knows, best.defense, saved, clean])
        columns: list[str | Column] = ["Worst attack, dB", *SYSTEM, "Attacker", "Compared"]
        columns += [Column(f"Better {when} attack, dB", signed=True) for when in ("under the worst", "without")]
        caption = (
            "What the best defense has over the trivial ones and over none, each under its own worst attack, "
            f"{self._budget()}. A gain whose interval holds 0 is none; a gain over a "
            f"defense that nobody who knows it has attacked would be greater. {GAIN} {ENDS}"
        )
        return self._table("trivial", "Trivial defenses", caption, columns, rows)

    def clean_cost(self) -> Table:
        rows: list[Row] = []
        for condition, defense in self._defended():
            row: Row = [*self._labels(condition, defense)]
            target = self.study.pairs[condition, defense]
            for metric in ("psnr", "ssim"):
                levels = (interval(target.clean(metric, stage)) for stage in ("restored", "defended_clean"))
                row += [*levels, target.clean_cost(metric)]
            rows.append([*row, target.kmac_per_pixel, len(target.clean())])
        columns: list[str | Column] = ["Restored, dB", "Defended, dB", "Cost, dB"]
        columns += [Column(title, 3) for title in ("Restored, SSIM", "Defended, SSIM", "Cost, SSIM")]
        columns += [KMAC, Column("Images", 0)]
        caption = (
            "What the defense takes from images that nobody attacked: of every image the mean over all answers that "
            f"were measured. {ENDS}"
        )
        return self._table("clean", "Clean cost", caption, columns, rows)

    def spread(self) -> Table:
        rows: list[Row] = []
        for condition, defense in self._defended():
            worst = self._asked(self.study.pairs[condition, defense])
            if worst is None:
                continue
            row: Row = [*self._labels(condition, defense), worst.setting.title]
            for stage in ("defended_attacked", "defended_clean"):
                kinds = (number(worst.rows, "resubmission", stage, kind) for kind in ("mean", "std", "worst"))
                row += [_mean(worst.values(stage)), *kinds]
            times = number(worst.rows, "resubmission", "defended_clean", "n", of=max)
            rows.append([*row, *self._system(condition, worst), times])
        columns: list[str | Column] = ["Attack"]
        for what in ("attacked", "clean"):
            columns += [f"{what.capitalize()}, one shot", "mean", "± std", f"worst of N, {what}"]
        caption = (
            "PSNR in dB of one answer, and of N answers to the same image under fresh noise: their mean, standard "
            "deviation, and the worst one, which an attacker who may ask again will take. The clean control is the "
            "worst of N without any attack: what luck alone does. Means over images."
        )
        columns += [*SYSTEM, Column("N", 0)]
        return self._table("spread", "One shot, or the worst of many", caption, columns, rows)

    def _asked(self, target: Target) -> Cell | None:
        """The worst attack within the budget whose image the defense was asked about again, else any such attack."""
        asked = [cell for cell in target.cells if number(cell.rows, "resubmission", "defended_attacked", "n")]
        compared = [c for c in target.compared(self.study.budget) if c.setting in {cell.setting for cell in asked}]
        return min(compared or on_shared_images(asked), key=lambda cell: cell.mean, default=None)

    def checks(self) -> Table:
        rows: list[Row] = []
        for run in self.study.runs:
            for flag in flags(run.summary):
                raised = "yes" if flag.get("raised") else "no"
                where = [str(flag.get("defense") or "–"), words.restorer(str(flag.get("restorer") or "–"))]
                rows.append([str(flag.get("check")), raised, str(flag.get("words")), *where, run.name])
        columns = ["Check", "Raised", "What was seen", "Defense", "Restorer"]
        if several := len(self.study.runs) > 1:
            columns.append("Run")
        caption = (
            "Signs that an evaluation is too kind to its defense, after AutoAttack's checks (arXiv 2003.01690). "
            "Where one is raised, do not trust the numbers before it is understood."
        )
        rows.sort(key=lambda row: row[1] == "no")
        rows = rows if several else [row[:-1] for row in rows]
        return Table("checks", "Sanity checks", caption, [Column(title) for title in columns], rows, len(columns))

    def convergence(self) -> Table:
        found: dict[tuple[Condition, str], dict[int, Cell]] = {}
        for pair, target in self.study.pairs.items():
            for cell in target.convergence:
                found.setdefault(pair, {})[int(number(cell.rows, "draws") or 1)] = cell
        counts = sorted({draws for cells in found.values() for draws in cells})
        rows: list[Row] = []
        for condition, defense in filter(found.__contains__, self.study.pairs):
            cells = found[condition, defense]
            fewest, most = min(cells), max(cells)
            levels = [_mean(cells[n].attacked) if n in cells else None for n in counts]
            gained = difference(cells[most].attacked, cells[fewest].attacked) if most > fewest else None
            system = self._system(condition, cells[most])
            rows.append([*self._labels(condition, defense), *levels, gained, *system, len(cells[most].attacked)])
        columns: list[str | Column] = [f"{n} {'draw' if n == 1 else 'draws'}, dB" for n in counts]
        columns += [Column("Change by more draws, dB", signed=True), *SYSTEM, Column("Images", 0)]
        caption = (
            "PSNR under an attack that averages its gradient over so many draws of the defense's noise (expectation "
            f"over transformation, arXiv 1802.00420). A change well below 0 says: the attack has not converged. {ENDS}"
        )
        return self._table("convergence", "Does averaging over noise converge?", caption, columns, rows)

    def cost(self) -> Table:
        rows: list[Row] = []
        for condition, defense, cell in self._worst():
            spent = self.study.cost(condition, defense)
            rows.append(
                [
                    *self._labels(condition, defense),
                    self.study.pairs[condition, defense].kmac_per_pixel,
                    *(spent.get(key) for key in ("evaluations", "seconds", "peak_memory_mb")),
                    number(cell.rows, "seconds", "attack", of=median),
                    *(number(cell.rows, "search", kind, of=median) for kind in ("forwards", "backwards")),
                    number(cell.rows, "peak_memory_mb", of=max),
                ]
            )
        columns: list[str | Column] = [KMAC, Column("Evaluations", 0), Column("Time, s", 3)]
        columns.append(Column("Peak memory, MB", 0))
        columns += [Column("Worst attack: time, s", 1), Column("forwards", 0), Column("backwards", 0)]
        columns.append(Column("its peak memory, MB", 0))
        caption = (
            "For one image: thousands of multiplications for a pixel, of purifier and restorer with all draws; network "
            "evaluations of the purifier, median time of both, and the peak memory of the process; then what the worst "
            f"attack took, with its evaluations of the attacked model. Measured on {self._hardware()}."
        )
        return self._table("cost", "Cost", caption, columns, rows)

    def certified(self) -> Table:
        rows: list[Row] = []
        for (condition, defense), target in self.study.pairs.items():
            if target.lipschitz is None:
                continue
            worst, clean = target.worst(self.study.budget), target.clean()
            floors = [interval(target.certified(eps)) for eps in CERTIFIED]
            found = [target.lipschitz, interval(clean), *floors, interval(worst.attacked) if worst else None]
            rows.append([*self._labels(condition, defense), *found, len(clean)])
        columns: list[str | Column] = [Column("Gain, at most", 3), "Without attack, dB"]
        columns += [f"ε = {eps:g}/255, dB" for eps in CERTIFIED]
        columns += ["Worst attack found, dB", Column("Images", 0)]
        caption = (
            "PSNR that no attack can undercut which changes each value by at most ε, whatever it knows: the restorer's "
            "gain is bounded, as its weights prove, and RMSE grows by at most gain · ε. Beside it the worst "
            f"attack that was tried, {self._budget()}, on the images that every such attack met. {ENDS}"
        )
        return self._table("certified", "Certified", caption, columns, rows)

    def metrics(self) -> Table:
        rows: list[Row] = []
        for condition, defense, cell in self._worst():
            for metric, (title, digits) in words.METRICS.items():
                clean = self.study.pairs[condition, defense].clean(metric)
                levels = [interval(among(clean, cell.attacked)), interval(cell.values("defended_attacked", metric))]
                if levels[1] is not None:
                    # Decimals differ from row to row, those of a column do not.
                    texts = [None if level is None else Column("", digits).text(level) for level in levels]
                    rows.append([*self._labels(condition, defense), title, *texts])
        caption = (
            f"Every metric without an attack and under the worst one, {self._budget()}; ↑ more is better, ↓ less is. "
            f"{ENDS}"
        )
        return self._table("metrics", "Other metrics", caption, ["Metric", "Without attack", "Worst attack"], rows)

    def attacks(self) -> Table:
        rows: list[Row] = []
        for (condition, defense), target in self.study.pairs.items():
            for cell in sorted((cell for cell in target.cells if cell.attacked), key=lambda cell: cell.mean):
                setting, stages = cell.setting, ("noise_restored", "attacked_restored")
                rows.append(
                    [
                        *self._labels(condition, defense),
                        setting.title,
                        self._attacker(cell),
                        words.norm(setting.norm),
                        None if setting.eps is None else f"{setting.eps:g}",
                        number(cell.rows, "search", "delta_rms", of=median),
                        _mean(among(target.clean(), cell.attacked)),
                        *(_mean(cell.values(stage)) for stage in stages),
                        interval(cell.attacked),
                        *self._system(condition, cell),
                        len(cell.attacked),
                    ]
                )
        columns: list[str | Column] = ["Attack", "Attacker", "Norm", "ε, 1/255", "δ RMS, 1/255", "No attack, dB"]
        columns += ["Random noise, dB", "The same image undefended, dB", "Attacked, dB", *SYSTEM, Column("Images", 0)]
        caption = (
            "All that was measured, what leaves least first, each attack on all the images that it met: lines of other "
            "images do not compare. The random noise has the attack's own magnitudes with "
            f"random signs, and meets the undefended restorer. {ENDS}"
        )
        return self._table("attacks", "Every attack", caption, columns, rows)

    def transfer(self) -> list[Table]:
        """A matrix for each degradation and attack of each run that measured one."""
        return [
            _matrix(entry, f"transfer-{n}-{m}", run.name if len(self.study.runs) > 1 else "")
            for n, run in enumerate(self.study.runs, start=1)
            for m, entry in enumerate((run.summary or {}).get("transfer") or [], start=1)
        ]

    def comparison(self) -> Table:
        """Every run beside the first one, image by image."""
        rows: list[Row] = []
        for condition, defense in self.study.pairs:
            first = condition._replace(run=self.study.runs[0].name)
            if condition == first or (first, defense) not in self.study.pairs:
                continue
            here, there = self.study.worst(condition, defense), self.study.worst(first, defense)
            clean = difference(*(self.study.pairs[where, defense].clean() for where in (condition, first)))
            if here is None or there is None:
                continue
            images = sorted(here.attacked.keys() & there.attacked.keys())
            levels = [interval(among(cell.attacked, images)) for cell in (there, here)]
            moved = difference(here.attacked, there.attacked)
            system = self._system(condition, here)
            rows.append([*self._labels(condition, defense), *levels, moved, clean, *system, len(images)])
        columns: list[str | Column] = [f"Worst attack in {self.study.runs[0].name}, dB", "Worst attack here, dB"]
        columns += [Column("Change, dB", signed=True), Column("Change without attack, dB", signed=True)]
        caption = (
            f"Each run against {self.study.runs[0].name}, each under its own worst attack, {self._budget()}; all on "
            f"the images that both have attacked. {ENDS}"
        )
        columns += [*SYSTEM, Column("Shared images", 0)]
        return self._table("comparison", "The runs compared", caption, columns, rows)

    def _table(self, key: str, title: str, caption: str, columns: Sequence[str | Column], rows: list[Row]) -> Table:
        labels = [Column(name.capitalize()) for name in self._named()]
        made = [column if isinstance(column, Column) else Column(column) for column in columns]
        return Table(key, title, caption, labels + made, rows, len(labels))

    def _labels(self, condition: Condition, defense: str) -> list[str]:
        found = condition._asdict() | {"defense": defense, "degradation": words.degradation(condition.degradation)}
        found["restorer"] = words.restorer(condition.restorer)
        return [str(found[name]) for name in self._named()]

    def _clean(self, condition: Condition, cell: Cell) -> Interval | None:
        """Of the images of an attack, without it."""
        return interval(among(self.study.pairs[condition, cell.defense].clean(), cell.attacked))

    def _system(self, condition: Condition, cell: Cell) -> list[Value]:
        """What an attack is multiplied by, and what the defended restorer costs."""
        return [cell.gain, self.study.pairs[condition, cell.defense].kmac_per_pixel]

    def _named(self) -> list[str]:
        """What tells rows apart; the runs stand side by side."""
        names = ("restorer", "degradation", "split", "size", "defense", "run")
        return [name for name in names if name in ("defense", *self._varying)]

    def _defended(self) -> Iterator[tuple[Condition, str]]:
        return ((condition, defense) for condition, defense in self.study.pairs if defense != NONE)

    def _worst(self) -> Iterator[tuple[Condition, str, Cell]]:
        for condition, defense in self.study.pairs:
            if (cell := self.study.worst(condition, defense)) is not None:
                yield condition, defense, cell

    def _attacker(self, cell: Cell) -> str | None:
        """What the attacker knows of the defense; there is nothing to know of none."""
        return None if cell.defense == NONE else words.threat(cell.setting.threat)

    def _undefended(self, condition: Condition) -> dict[str, float]:
        worst = self.study.worst(condition, NONE)
        return worst.attacked if worst else {}

    def _budget(self) -> str:
        return words.budget(self.study.budget) if self.study.budget else "no attack"

    def _hardware(self) -> str:
        return " and ".join(
            dict.fromkeys(str(run.facts.get("hardware", "unknown hardware")) for run in self.study.runs)
        )


def flags(summary: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The sanity checks of a finished run."""
    return (summary or {}).get("flags") or []


def _mean(values: dict[str, float]) -> float | None:
    return fmean(values.values()) if values else None


def _matrix(entry: dict[str, Any], key: str, run: str) -> Table:
    where = [run, words.degradation(str(entry.get("degradation", ""))), str(entry.get("attack", ""))]
    title = ", ".join(["Transfer between restorers", *filter(None, where)])
    caption = (
        "PSNR in dB of the restorer of the column, given the images that were attacked on the restorer of the row "
        f"(ε = {entry.get('eps', '?')}/255); the diagonal is the white-box attack."
    )
    columns = [Column("Attacked on"), *(Column(words.restorer(str(name))) for name in entry["columns"])]
    rows = [[words.restorer(str(name)), *values] for name, values in zip(entry["rows"], entry["psnr"], strict=True)]
    return Table(key, title, caption, columns, rows)
