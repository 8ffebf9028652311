"""The page: what it says first, its sections in order, and the template that they go into."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from udc_defense.errors import SettingError
from udc_defense.evaluation.bootstrap import RESAMPLES
from udc_defense.evaluation.rows import NONE, Cell, Target, among, difference, interval
from udc_defense.output import write_file
from udc_defense.report import figures, words
from udc_defense.report.examples import examples
from udc_defense.report.runs import Run, read_runs
from udc_defense.report.study import Condition, Study
from udc_defense.report.tables import Tables, flags
from udc_defense.table import Column, Interval, Table
from udc_defense.threats import WORDS

HERE = Path(__file__).parent
FORMATS = {"csv": "text/csv", "tex": "text/x-tex", "md": "text/markdown"}


@dataclass(frozen=True)
class Headline:
    """What a run found out about its first restorer, in numbers; the template has the words.

    Attributes:
        best: the worst case of the defense that keeps most in it; None where none but trivial ones were measured.
        kept: PSNR in `best`.
        clean: of that defense without an attack.
        gained: `kept` over the undefended restorer under the worst attack on that one, paired.
        undefended: that restorer without an attack and under it; None where it was not measured.
        rival: the trivial defense that keeps most, what it keeps, and what `best` has over it, paired.
        levels: means over the images of `best`, in words and dB, from no attack to the worst.
    """

    condition: Condition
    best: Cell | None
    kept: Interval | None
    clean: Interval | None
    undefended: tuple[Interval | None, Interval | None] | None
    gained: Interval | None
    rival: tuple[Cell, Interval | None, Interval | None] | None
    levels: list[tuple[str, Interval]]


def write_report(folders: Sequence[Path], target: Path) -> None:
    """One HTML page about one run, or about several side by side.

    Args:
        folders: that `udc-defense evaluate` has written, or is still writing.
        target: the HTML file; one that is there is replaced.

    Raises:
        SettingError: a folder is no run, holds no row yet or is damaged; jinja2 or matplotlib is not installed.
    """
    runs = read_runs(folders)
    write_file(target, _render(runs).encode())


def _render(runs: Sequence[Run]) -> str:
    try:
        import matplotlib  # noqa: F401
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise SettingError(
            f'a report needs {error.name}; install it with pip install "udc-defense[report]".'
        ) from error

    study = Study(runs)
    tables = Tables(study)
    script = (HERE / "script.js").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"dB": Column("", 1).text, "signed": Column("", 1, signed=True).text, "downloads": downloads}
    environment.filters["apart"] = figures.apart
    template = environment.from_string((HERE / "template.html.j2").read_text(encoding="utf-8"))
    return template.render(
        runs=runs,
        study=study,
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        script=script,
        script_sum=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        headlines=[headline(study, run) for run in runs],
        raised=[flag for run in runs for flag in flags(run.summary) if flag.get("raised")],
        honesty=tables.honesty(),
        comparison=tables.comparison(),
        details=tables.details() + tables.transfer(),
        figures=[*figures.curves(study), *figures.costs(study)],
        examples=examples(runs),
        attacks=_attack_words(study),
        threats=WORDS,
        resamples=RESAMPLES,
        words=words,
    )


def headline(study: Study, run: Run) -> Headline:
    """Of the run's first condition: the others are in the table."""
    condition = next(c for c in study.conditions if c.run == run.name)
    defense, other = study.best(condition), study.best(condition, trivial=True)
    bare, alone = study.worst(condition, NONE), study.pairs.get((condition, NONE))
    best, rival = (study.worst(condition, target.defense) if target else None for target in (defense, other))
    return Headline(
        condition,
        best,
        interval(best.attacked) if best else None,
        interval(among(defense.clean(), best.attacked)) if best and defense else None,
        (interval(among(alone.clean(), bare.attacked)), interval(bare.attacked)) if alone and bare else None,
        difference(best.attacked, bare.attacked) if best and bare else None,
        (rival, interval(rival.attacked), difference(best.attacked, rival.attacked)) if best and rival else None,
        _levels(study, condition, defense, best) if best and defense else [],
    )


def _levels(study: Study, condition: Condition, defense: Target, best: Cell) -> list[tuple[str, Interval]]:
    """From no attack to the worst one, all on the images of `best`."""
    blind, aware = (study.worst(condition, defense.defense, knows=knows) for knows in (False, True))
    bare, alone = study.worst(condition, NONE), study.pairs.get((condition, NONE))
    values = {
        "no attack, no defense": alone.clean() if alone else {},
        "no attack, defended": defense.clean(),
        "random noise, no defense": best.values("noise_restored"),
        "attacker does not know the defense": blind.attacked if blind else {},
        "attacker knows the defense": aware.attacked if aware else {},
        "attacked, no defense": bare.attacked if bare else {},
    }
    levels = {said: interval(among(found, best.attacked)) for said, found in values.items()}
    return [(said, level) for said, level in levels.items() if level is not None]


def downloads(table: Table) -> list[dict[str, str]]:
    """A table as files inside the page."""
    texts = {"csv": table.csv(), "tex": table.latex(), "md": table.markdown()}
    return [
        {"kind": kind, "name": f"{table.key}.{kind}", "uri": f"data:{FORMATS[kind]};charset=utf-8,{quote(text)}"}
        for kind, text in texts.items()
    ]


def _attack_words(study: Study) -> dict[str, str]:
    """What the attacks of the rows do, each in the first line of its own documentation."""
    from udc_defense.attacks import ATTACKS

    used: set[Any] = {row.get("attack") for run in study.runs for row in run.rows}
    return {name: ATTACKS.get(name).summary for name in ATTACKS.names() if name in used}
