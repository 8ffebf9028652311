"""The figures, as SVG in the colours of the page: light or dark is decided where it is looked at.

matplotlib draws with colours that stand for CSS variables, and leaves text as text, in the fonts of the page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from udc_defense.evaluation.rows import NONE, Cell, among, interval
from udc_defense.report import words
from udc_defense.report.study import Condition, Study
from udc_defense.table import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

SERIES = 6
WIDTH, HEIGHT, LINE = 4.6, 3.2, 0.17  # inches: of a figure without its legend, and of a line of that
INK, GRID, PAPER = "#010101", "#020202", "#030303"
VARIABLES = {INK: "--ink", GRID: "--line", PAPER: "--panel"} | {f"#04040{n}": f"--series-{n}" for n in range(SERIES)}
MARKERS = "osD^vP"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "udc-defense",  # the same bytes for the same numbers
    "font.size": 10.5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.columnspacing": 1.2,
    "legend.handlelength": 1.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "lines.markersize": 5.5,
    "errorbar.capsize": 2.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Figure:
    """An inline SVG, and what it shows in words."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Look:
    """Colour and marker of a defense; it has them in every figure."""

    colour: str
    marker: str

    @staticmethod
    def of(study: Study, condition: Condition, defense: str) -> Look:
        """Ink for none; another colour, or the next marker, for each defense of each run."""
        if defense == NONE:
            return Look(INK, "x")
        names = list(dict.fromkeys(name for _, name in study.pairs if name != NONE))
        place = names.index(defense) + len(names) * [run.name for run in study.runs].index(condition.run)
        return Look(f"#04040{place % SERIES}", MARKERS[place // SERIES % len(MARKERS)])


def curves(study: Study) -> Iterator[Figure]:
    """Robustness over ε, a figure for each restorer and degradation: who knows the defense, and who does not."""
    if study.budget is None:
        return
    for panel in _panels(study):
        canvas, axes = _canvas()
        radii: set[float] = set()
        for condition in panel:
            for defense in study.defenses(condition):
                look, name = Look.of(study, condition, defense), _name(study, condition, defense)
                blind, aware = (study.curve(condition, defense, knows=knows) for knows in (False, True))
                for cells, hollow in ((blind, defense != NONE), (aware, False)):
                    points = _over_eps(study, condition, defense, cells)
                    radii |= {eps for eps, _ in points}
                    _draw(axes, points, look, name if cells is (aware or blind) else "", hollow)
        if not radii:
            continue
        axes.set(xlabel=f"ε (1/255), {words.norm(study.budget.norm)}", ylabel="PSNR, dB")
        axes.set_xscale("symlog", base=2, linthresh=min(radii - {0}))
        axes.set_xticks(sorted(radii), [f"{eps:g}" for eps in sorted(radii)])
        axes.minorticks_off()
        caption = (
            "PSNR over the radius of the attack, with 95 % intervals: the worst of the attacks that were run at every "
            "radius. Filled, on a solid line: the attacker who knows the defense. Hollow, dashed: the one who does "
            "not. ε = 0 is no attack."
        )
        yield Figure(f"Robustness over ε{_of(study, panel[0])}", caption, _svg(canvas, axes))


def costs(study: Study) -> Iterator[Figure]:
    """Cost against robustness, a figure for each restorer and degradation."""
    from matplotlib.ticker import LogLocator

    for panel in _panels(study):
        canvas, axes = _canvas()
        for condition in panel:
            for defense in study.defenses(condition):
                worst = study.worst(condition, defense)
                seconds = study.cost(condition, defense).get("seconds")
                level = interval(worst.attacked) if worst else None
                if level is not None and seconds:
                    hollow = defense != NONE and not study.worst(condition, defense, knows=True)
                    points = [(1000 * seconds, level)]
                    _draw(axes, points, Look.of(study, condition, defense), _name(study, condition, defense), hollow)
        axes.set(xscale="log", xlabel="milliseconds per image, restoration included", ylabel="PSNR, worst attack, dB")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        caption = (
            "What a defense keeps under its worst attack over what it costs; up and to the left is better. Hollow: no "
            "attacker who knows the defense was measured."
        )
        if axes.has_data():
            yield Figure(f"Cost against robustness{_of(study, panel[0])}", caption, _svg(canvas, axes))


def _panels(study: Study) -> list[list[Condition]]:
    """Conditions that differ by their run only share a figure."""
    found: dict[tuple[object, ...], list[Condition]] = {}
    for condition in study.conditions:
        found.setdefault(condition[1:], []).append(condition)
    return list(found.values())


def _of(study: Study, condition: Condition) -> str:
    """Which panel this is, where there are more."""
    if len(_panels(study)) == 1:
        return ""
    varying = [name for name in ("split", "size") if len({getattr(one, name) for one in study.conditions}) > 1]
    further = [f"{getattr(condition, name)}" + ("²" if name == "size" else "") for name in varying]
    return ": " + ", ".join([words.restorer(condition.restorer), words.degradation(condition.degradation), *further])


def _name(study: Study, condition: Condition, defense: str) -> str:
    name = "no defense" if defense == NONE else defense
    return f"{condition.run}: {name}" if len(study.runs) > 1 else name


def _over_eps(study: Study, condition: Condition, defense: str, cells: list[Cell]) -> list[tuple[float, Interval]]:
    """(ε, PSNR) after the level without attack at 0, on the same images; empty without attack."""
    found = [(cell.setting.eps or 0.0, interval(cell.attacked)) for cell in cells]
    clean = interval(among(study.pairs[condition, defense].clean(), cells[0].attacked if cells else ()))
    return [(eps, level) for eps, level in ((0.0, clean), *found) if level is not None] if found else []


def _canvas() -> tuple[Canvas, Axes]:
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH, HEIGHT), layout="constrained")
        return canvas, canvas.subplots()


def _draw(axes: Axes, points: list[tuple[float, Interval]], look: Look, name: str, hollow: bool) -> None:
    if not points:
        return
    below = [0.0 if level.low is None else level.mean - level.low for _, level in points]
    above = [0.0 if level.high is None else level.high - level.mean for _, level in points]
    axes.errorbar(
        [x for x, _ in points],
        [level.mean for _, level in points],
        yerr=[below, above],
        color=look.colour,
        marker=look.marker,
        markerfacecolor=PAPER if hollow else look.colour,
        linestyle="--" if hollow else "-",
        linewidth=1.4,
        elinewidth=0.9,
        label=name or None,
    )


def _svg(canvas: Canvas, axes: Axes) -> str:
    """Without prologue and metadata; CSS variables for colours."""
    import matplotlib as mpl

    # A dollar would begin a formula.
    handles, labels = axes.get_legend_handles_labels()
    columns = 1 if max(map(len, labels), default=0) > 22 else 2
    canvas.set_figheight(HEIGHT + LINE * math.ceil(len(labels) / columns))
    text = StringIO()
    with mpl.rc_context(STYLE):
        canvas.legend(handles, [label.replace("$", r"\$") for label in labels], loc="outside lower left", ncols=columns)
        canvas.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)


def apart(svg: str, name: str) -> str:
    """The same picture with ids of its own: figures share a page."""
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", svg)
