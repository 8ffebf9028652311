"""Robustness against cost: what every purifier keeps, over what it takes."""

from __future__ import annotations

from io import StringIO

from study.data import HELDOUT, results
from study.tables import faced, knowing, reported, titled
from udc_defense.evaluation.rows import mean
from udc_defense.purification import parse_defense


def figure() -> str:
    """Robustness against cost, SVG: for each family the attacker who does not know it, and the one who does."""
    import matplotlib as mpl

    mpl.use("svg")
    # The same bytes for the same numbers.
    mpl.rcParams["svg.hashsalt"] = "udc-defense"
    from matplotlib import pyplot as plt

    milliseconds = {row["family"]: row["milliseconds_per_megapixel"] for row in results("cost")["rows"]}
    # A purifier that is the choice of several families is one point.
    families = {defense: family for family, defense in reversed(reported().items())}
    unknowing = {defense: mean(faced(defense, HELDOUT, 4), "defended_attacked") or 0.0 for defense in families}
    fig, axes = plt.subplots(figsize=(10, 5.5), layout="constrained")
    placed: list[tuple[float, float]] = []
    for number, defense in enumerate(sorted(families, key=lambda name: -unknowing[name]), start=1):
        x, y = milliseconds[families[defense]], unknowing[defense]
        known = mean(knowing(defense), "defended_attacked") or 0.0
        purification = parse_defense(defense)
        colour = "tab:gray" if purification and purification.is_transform else "tab:blue"
        colour = "tab:red" if defense == "default" else colour
        axes.plot([x, x], [y, known], color=colour, linewidth=0.8)
        axes.plot(x, y, "o", color=colour, label=f"{number}  {titled(families[defense], defense)}")
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
