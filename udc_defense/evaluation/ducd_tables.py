"""Tables of `results/ducd.json`: how faithful the surrogate is, what attacks on it do, and what it tells of members."""

from __future__ import annotations

from typing import Any

from udc_defense.evaluation.ducd import EPS, STEPS

GOAL = 35.0  # dB of fidelity
MODELS = {
    "capture": "the capture (control)",
    "target": "target",
    "surrogate": "surrogate",
    "smoothed": "surrogate, smoothed",
}


def verdict(results: dict[str, Any]) -> str:
    """Fidelity and transfer in one paragraph, in whatever direction they point."""
    made, transfer = results["distillation"], results["transfer"]
    near = made["fidelity"]
    goal = "reached" if near["mean"] >= GOAL else "missed"
    taken = {name: transfer["clean"] - transfer[name] for name in ("white_box", "transferred", "noise")}
    return (
        f"From {made['queries']:,} answers of the default restorer to captures of {made['scenes']} scenes, "
        f"{made['size']}², a surrogate learns to answer as it does: on other scenes the PSNR between the two is "
        f"{near['mean']:.1f} dB (worst {near['worst']:.1f}; at 256² {made['fidelity_256']['mean']:.1f}), "
        f"so the goal of {GOAL:g} dB is {goal}. PGD-{STEPS} at ε = {255 * EPS:g}/255 that is made on the surrogate "
        f"takes {taken['transferred']:.1f} dB from the target, {transfer['share']:.0%} of what it takes when it is "
        f"made on the target itself ({taken['white_box']:.1f} dB); random noise of that size takes "
        f"{taken['noise']:.1f} dB."
    )


def membership_table(results: dict[str, Any]) -> str:
    """Markdown: how well PSNR, and its gain over the capture, tell images of the target's training from others."""
    found = results["membership"]
    lines = ["| asked | by PSNR | by the gain in PSNR |", "|---|---|---|"]
    for name, words in MODELS.items():
        # A capture gains nothing over itself.
        gain = "" if name == "capture" else _area(found[name]["gain"])
        lines.append(f"| {words} | {_area(found[name]['psnr'])} | {gain} |")
    return "\n".join(lines)


def digits_table(results: dict[str, Any]) -> str:
    """Markdown: the published setting, a classifier."""
    found = results["digits"]
    lines = ["| asked | accuracy | area under ROC |", "|---|---|---|"]
    for name, area in found["mean_auc"].items():
        lines.append(f"| {MODELS[name]} | {found['mean_accuracy'][name]:.1%} | {area:.3f} |")
    gained = found["auc_of_target_over_smoothed"]
    told = (
        f"{found['members']} members, as many others, {found['queries']:,} queries, {len(found['splits'])} splits; "
        f"the smoothed surrogate takes {gained['mean']:.3f} (95 % {gained['low']:.3f} to {gained['high']:.3f}) off "
        "the area."
    )
    return "\n".join(lines) + f"\n\n{told}"


def _area(found: dict[str, float]) -> str:
    return f"{found['auc']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
