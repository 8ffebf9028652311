"""The tables of the report: the honesty list, then what it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import Any

from udc_defense.report import words
from udc_defense.report.study import NONE, Cell, Condition, Study, among, difference, interval, number
from udc_defense.table import Column, Table, Value

ENDS = "In brackets, 95 % bootstrap intervals over images."
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
        return [table for table in (self.metrics(), self.attacks()) if table.rows]

    def headline(self) -> Table:
        rows: list[Row] = []
        for condition, defense, cell in self._worst():
            gained = None if defense == NONE else difference(cell.attacked, self._undefended(condition))
            levels = [interval(cell.clean), interval(cell.attacked), gained]
            attack = [cell.setting.title, self._attacker(cell), len(cell.attacked)]
            rows.append([*self._labels(condition, defense), *levels, *attack])
        columns: list[str | Column] = ["Without attack, dB", "Worst attack, dB"]
        columns += [Column("Gained over no defense, dB", signed=True), "Attack", "Attacker", Column("Images", 0)]
        caption = (
            "PSNR of the defended restorer without an attack and under the attack that takes most from it, "
            f"{self._budget()}. The gain is over the undefended restorer under the worst attack on that one, on the "
            f"same images. {ENDS}"
        )
        return self._table("headline", "The worst threat", caption, columns, rows)

    def knowledge(self) -> Table:
        rows: list[Row] = []
        for condition, defense in self._defended():
            found = [self.study.worst(condition, defense, knows=knows) for knows in (False, True)]
            there = [cell for cell in found if cell is not None]
            if not there:
                continue
            # Side by side means: on the same images.
            images = sorted(set.intersection(*(set(cell.attacked) for cell in there)))
            levels = [interval(among(cell.attacked, images)) if cell else "not measured" for cell in found]
            rows.append(
                [
                    *self._labels(condition, defense),
                    interval(among(self.study.clean(condition, defense), images)),
                    interval(among(there[-1].values("noise_restored"), images)),
                    *levels,
                    difference(there[0].attacked, there[1].attacked) if len(there) == 2 else None,
                    there[-1].setting.title,
                    len(images),
                ]
            )
        columns: list[str | Column] = ["No attack, dB", "Random noise, no defense, dB", "Does not know it, dB"]
        columns += ["Knows it, dB", "Taken by knowing, dB", "Attack", Column("Images", 0)]
        caption = (
            "The worst attacker who does not know the defense beside the worst who does, "
            f"{self._budget()}, on the images that both attacked; beside them random noise that has the size of the "
            f"last one's perturbation. {ENDS}"
        )
        return self._table("knowledge", "Does the attacker know the defense?", caption, columns, rows)

    def trivial(self) -> Table:
        rows: list[Row] = []
        for condition in self.study.conditions:
            best = self.study.best(condition)
            if best is None:
                continue
            for defense in self.study.defenses(condition):
                worst = self.study.worst(condition, defense)
                if worst is None or not (worst.trivial or defense == NONE):
                    continue
                saved = difference(best.attacked, worst.attacked)
                clean = difference(best.clean, self.study.clean(condition, defense))
                level, knows = interval(worst.attacked), self._attacker(worst)
                rows.append([*self._labels(condition, defense), level, knows, best.defense, saved, clean])
        columns: list[str | Column] = ["Worst attack, dB", "Attacker", "Compared"]
        columns += [Column(f"Better {when} attack, dB", signed=True) for when in ("under the worst", "without")]
        caption = (
            "What the best defense has over the trivial ones and over none, each under its own worst attack, "
            f"{self._budget()}. A gain whose interval holds 0 is none; a gain over a "
            f"defense that nobody who knows it has attacked would be greater. {ENDS}"
        )
        return self._table("trivial", "Trivial defenses", caption, columns, rows)

    def clean_cost(self) -> Table:
        rows: list[Row] = []
        for condition, defense in self._defended():
            row: Row = [*self._labels(condition, defense)]
            for metric in ("psnr", "ssim"):
                before = self.study.over_attacks(condition, defense, "restored", metric)
                after = self.study.clean(condition, defense, metric)
                row += [interval(before), interval(after), difference(before, after)]
            rows.append([*row, len(after)])
        columns: list[str | Column] = ["Restored, dB", "Defended, dB", "Cost, dB"]
        columns += [Column(title, 3) for title in ("Restored, SSIM", "Defended, SSIM", "Cost, SSIM")]
        caption = f"What the defense takes from images that nobody attacked. {ENDS}"
        return self._table("clean", "Clean cost", caption, [*columns, Column("Images", 0)], rows)

    def spread(self) -> Table:
        rows: list[Row] = []
        for condition, defense in self._defended():
            cells = self.study.pairs[condition, defense]
            asked = [cell for cell in cells if number(cell.rows, "resubmission", "defended_attacked", "n")]
            worst = self.study.worst(condition, defense)
            if worst not in asked:
                worst = max(asked, key=lambda cell: cell.drop, default=None)
            if worst is None:
                continue
            row: Row = [*self._labels(condition, defense), worst.setting.title]
            for stage, one in (("defended_attacked", worst.attacked), ("defended_clean", worst.clean)):
                kinds = ("mean", "std", "worst")
                row += [fmean(one.values()), *(number(worst.rows, "resubmission", stage, kind) for kind in kinds)]
            rows.append([*row, number(worst.rows, "resubmission", "defended_clean", "n", of=max)])
        columns: list[str | Column] = ["Attack"]
        for what in ("attacked", "clean"):
            columns += [f"{what.capitalize()}, one shot", "mean", "± std", f"worst of N, {what}"]
        caption = (
            "PSNR in dB of one answer, and of N answers to the same image under fresh noise: their mean, standard "
            "deviation, and the worst one, which an attacker who may ask again will take. The clean control is the "
            "worst of N without any attack: what luck alone does. Means over images."
        )
        return self._table("spread", "One shot, or the worst of many", caption, [*columns, Column("N", 0)], rows)

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
        for cell in self.study.convergence:
            draws = int(number(cell.rows, "draws") or 1)
            found.setdefault((cell.condition, cell.defense), {})[draws] = cell
        counts = sorted({draws for cells in found.values() for draws in cells})
        rows: list[Row] = []
        for condition, defense in filter(found.__contains__, self.study.pairs):
            cells = found[condition, defense]
            fewest, most = min(cells), max(cells)
            levels = [_mean(cells[n].attacked) if n in cells else None for n in counts]
            gained = difference(cells[most].attacked, cells[fewest].attacked) if most > fewest else None
            rows.append([*self._labels(condition, defense), *levels, gained, len(cells[most].attacked)])
        columns: list[str | Column] = [f"{n} {'draw' if n == 1 else 'draws'}, dB" for n in counts]
        columns += [Column("Change by more draws, dB", signed=True), Column("Images", 0)]
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
                    *(spent.get(key) for key in ("evaluations", "seconds", "peak_memory_mb")),
                    number(cell.rows, "seconds", "attack", of=median),
                    *(number(cell.rows, "search", kind, of=median) for kind in ("forwards", "backwards")),
                    number(cell.rows, "peak_memory_mb", of=max),
                ]
            )
        columns: list[str | Column] = [Column("Evaluations", 0), Column("Time, s", 3), Column("Peak memory, MB", 0)]
        columns += [Column("Worst attack: time, s", 1), Column("forwards", 0), Column("backwards", 0)]
        columns.append(Column("its peak memory, MB", 0))
        caption = (
            "For one image: network evaluations of the purifier, median time of purification and restoration, and the "
            "peak memory of the process; then what the worst attack took, with its evaluations of the attacked model. "
            f"Measured on {self._hardware()}."
        )
        return self._table("cost", "Cost", caption, columns, rows)

    def metrics(self) -> Table:
        rows: list[Row] = []
        for condition, defense, cell in self._worst():
            for metric, (title, digits) in words.METRICS.items():
                stages = ("defended_clean", "defended_attacked")
                levels = [interval(cell.values(stage, metric)) for stage in stages]
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
        for (condition, defense), cells in self.study.pairs.items():
            for cell in sorted(cells, key=lambda cell: -cell.drop):
                setting, stages = cell.setting, ("noise_restored", "attacked_restored")
                rows.append(
                    [
                        *self._labels(condition, defense),
                        setting.title,
                        self._attacker(cell),
                        words.norm(setting.norm),
                        None if setting.eps is None else f"{setting.eps:g}",
                        number(cell.rows, "search", "delta_rms", of=median),
                        _mean(cell.clean),
                        *(_mean(cell.values(stage)) for stage in stages),
                        interval(cell.attacked),
                        len(cell.attacked),
                    ]
                )
        columns: list[str | Column] = ["Attack", "Attacker", "Norm", "ε, 1/255", "δ RMS, 1/255", "No attack, dB"]
        columns += ["Random noise, dB", "The same image undefended, dB", "Attacked, dB", Column("Images", 0)]
        caption = (
            "All that was measured, what takes most first. The random noise has the attack's own magnitudes with "
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
            clean = difference(self.study.clean(condition, defense), self.study.clean(first, defense))
            if here is None or there is None:
                continue
            images = sorted(here.attacked.keys() & there.attacked.keys())
            levels = [interval(among(cell.attacked, images)) for cell in (there, here)]
            moved = difference(here.attacked, there.attacked)
            rows.append([*self._labels(condition, defense), *levels, moved, clean, len(images)])
        columns: list[str | Column] = [f"Worst attack in {self.study.runs[0].name}, dB", "Worst attack here, dB"]
        columns += [Column("Change, dB", signed=True), Column("Change without attack, dB", signed=True)]
        caption = (
            f"Each run against {self.study.runs[0].name}, each under its own worst attack, {self._budget()}; all on "
            f"the images that both have attacked. {ENDS}"
        )
        return self._table("comparison", "The runs compared", caption, [*columns, Column("Shared images", 0)], rows)

    def _table(self, key: str, title: str, caption: str, columns: Sequence[str | Column], rows: list[Row]) -> Table:
        labels = [Column(name.capitalize()) for name in self._named()]
        made = [column if isinstance(column, Column) else Column(column) for column in columns]
        return Table(key, title, caption, labels + made, rows, len(labels))

    def _labels(self, condition: Condition, defense: str) -> list[str]:
        found = condition._asdict() | {"defense": defense, "degradation": words.degradation(condition.degradation)}
        found["restorer"] = words.restorer(condition.restorer)
        return [found[name] for name in self._named()]

    def _named(self) -> list[str]:
        """What tells rows apart; the runs stand side by side."""
        return [name for name in ("restorer", "degradation", "defense", "run") if name in ("defense", *self._varying)]

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
        cell = self.study.worst(condition, NONE)
        return cell.attacked if cell else {}

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
