"""The rows of `results/purifiers.json` and `results/cost.json` as Markdown, and as a figure of what saves how much."""

from __future__ import annotations

from io import StringIO
from statistics import median
from typing import Any

from udc_defense.evaluation.entry import rows_of
from udc_defense.evaluation.purifier_suite import (
    BARE,
    CHOICE_EPS,
    CHOSEN,
    EPSILONS,
    FAMILIES,
    REPORTED,
    faced,
    knowing,
    smallest,
)
from udc_defense.evaluation.runner import Results
from udc_defense.evaluation.spine import mean
from udc_defense.purification import DEFAULT, Purification

ATTACKED, UNDEFENDED = "defended_attacked", "attacked_restored"


def grid_table(results: Results) -> str:
    """Markdown: every candidate on val at the ε of choice; the best of each family is bold."""
    lines = _head("purifier", "clean (dB)", f"PGD-20, ε = {CHOICE_EPS:g} (dB)")
    for family, candidates in FAMILIES.items():
        for purification in candidates:
            rows = faced(results, purification, "val", CHOICE_EPS)
            title = f"{family}, {words(purification)}"
            title = f"**{title}**" if purification == CHOSEN[family] else title
            lines.append(_line(title, *(f"{mean(rows, 'psnr', key):.2f}" for key in ("defended_clean", ATTACKED))))
    return "\n".join(lines)


def table(results: Results, cost: dict[str, Any], split: str) -> str:
    """Markdown: the chosen purifier of every family, what it saves and what it costs."""
    attacks = [f"PGD-20, ε = {eps:g}" for eps in EPSILONS]
    knows = ("knows the defense, ε = 4", "how", "C&W needs δ of (1/255)", "and leaves")
    lines = _head("purifier", "clean", *attacks, *knows, "evaluations", "ms per MP", "peak MiB at ¼ MP")
    costs = {row["family"]: row for row in cost["rows"]}
    lines.append(_undefended(results, split))
    for family, purification in REPORTED.items():
        rows = [faced(results, purification, split, eps) for eps in EPSILONS]
        if not all(rows):
            continue
        known = rows_of(results, knowing(purification), split)
        searched = rows_of(results, smallest(purification), split)
        spent = costs.get(family)
        title = f"{family}, {words(purification)}"
        lines.append(
            _line(
                f"**{title}** (the default)" if purification == DEFAULT else title,
                f"{mean(rows[1], 'psnr', 'defended_clean'):.2f}",
                *(f"{mean(found, 'psnr', ATTACKED):.2f}" for found in rows),
                f"{mean(known, 'psnr', ATTACKED):.2f}" if known else "",
                known[0]["threat"] if known else "",
                *(_needed(searched, ATTACKED) if searched else [""] * 2),
                *(_spent(spent) if spent else [""] * 3),
            )
        )
    return "\n".join(lines)


def figure(results: Results, cost: dict[str, Any], split: str) -> str:
    """Robustness against cost, SVG: for each family the attacker who does not know it, and the one who does."""
    import matplotlib as mpl

    mpl.use("svg")
    # The same bytes for the same numbers.
    mpl.rcParams["svg.hashsalt"] = "udc-defense"
    from matplotlib import pyplot as plt

    milliseconds = {row["family"]: row["milliseconds_per_megapixel"] for row in cost["rows"]}
    # A purifier that is the choice of several families is one point.
    families = {p: family for family, p in reversed(REPORTED.items()) if faced(results, p, split, CHOICE_EPS)}
    unknowing = {p: mean(faced(results, p, split, CHOICE_EPS), "psnr", ATTACKED) for p in families}
    fig, axes = plt.subplots(figsize=(10, 5.5), layout="constrained")
    placed: list[tuple[float, float]] = []
    for number, purification in enumerate(sorted(families, key=lambda p: -unknowing[p]), start=1):
        x, y = milliseconds[families[purification]], unknowing[purification]
        known = mean(rows_of(results, knowing(purification), split), "psnr", ATTACKED)
        colour = "tab:gray" if purification.is_transform else "tab:blue"
        colour = "tab:red" if purification == DEFAULT else colour
        axes.plot([x, x], [y, known], color=colour, linewidth=0.8)
        axes.plot(x, y, "o", color=colour, label=f"{number}  {families[purification]}, {words(purification)}")
        axes.plot(x, known, "o", color=colour, markerfacecolor="white")
        while any(abs(y - other) < 0.35 and 1 / 1.4 < x / beside < 1.4 for beside, other in placed):
            y -= 0.05  # numbers must not lie on each other
        placed.append((x, y))
        axes.annotate(str(number), (x, y), xytext=(6, -3), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="milliseconds per megapixel, one CPU thread", ylabel="PSNR, dB")
    axes.set_title("PGD-20, ε = 4/255: filled, who does not know the defense; hollow, who does", fontsize=10)
    axes.grid(alpha=0.3)
    fig.legend(loc="outside right upper", fontsize=8, frameon=False, handlelength=1)
    text = StringIO()
    fig.savefig(text, format="svg", metadata={"Date": None})
    plt.close(fig)
    return text.getvalue()


def words(purification: Purification) -> str:
    """What distinguishes it within its family."""
    if purification.is_transform:
        return f"{purification.strength:g}"
    if purification.per_photo:
        return "t* chosen"
    guided = f", strength {purification.guidance:g}" if purification.guide else ""
    return f"t* = {purification.noise_level}{guided}"


def _undefended(results: Results, split: str) -> str:
    """The line of no purifier: who attacks the restorer alone knows all there is."""
    rows = [faced(results, next(iter(CHOSEN.values())), split, eps) for eps in EPSILONS]
    searched = rows_of(results, BARE, split)
    images = {row["image"] for row in searched}
    adaptive = [row for row in rows[EPSILONS.index(CHOICE_EPS)] if row["image"] in images]
    known = [f"{mean(adaptive, 'psnr', UNDEFENDED):.2f}", "exact", *_needed(searched, UNDEFENDED)] if searched else []
    values = [f"{mean(found, 'psnr', UNDEFENDED):.2f}" for found in rows]
    return _line("none", f"{mean(rows[0], 'psnr', 'restored'):.2f}", *values, *(known or [""] * 4), "0", "0", "0")


def _needed(rows: list[dict[str, Any]], key: str) -> list[str]:
    """Size of C&W's δ, and what the system, with noise of its own, makes of it."""
    size = median(row["search"]["delta_rms"] for row in rows)
    return [f"{size:.2f}", f"{mean(rows, 'psnr', key):.2f}"]


def _spent(row: dict[str, Any]) -> list[str]:
    return [str(row["evaluations"]), f"{row['milliseconds_per_megapixel']:,.0f}", str(round(row["peak_mib_over_idle"]))]


def _head(*cells: str) -> list[str]:
    return [_line(*cells), "|---" * len(cells) + "|"]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
