"""The protocol behind `results/detection.json`: how well purification tells attacked captures from clean ones.

On the 128² centre of every crop: random noise, and PGD-20 that knows nothing of the defense. On the crops marked
adaptive: PGD-20 that knows the detector, and damages the bare restorer while its score stays that of the clean capture.
The threshold is set on the clean captures of `val`; those of `heldout` say what it is worth.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from udc_defense.detection import roc, threshold
from udc_defense.evaluation.entry import Entry, jobs_of, rows_of
from udc_defense.evaluation.runner import CENTRE, Job, Results
from udc_defense.evaluation.spine import mean
from udc_defense.photo.settings import Settings
from udc_defense.purification import DEFAULT
from udc_defense.scenes import read_crops

FALSE_ALARMS = 0.05
OBLIVIOUS = (
    Entry("random signs, ε = 4", "random_noise"),
    *(Entry(f"PGD-20, ε = {eps:g}", "pgd", {"eps": eps}) for eps in (1.0, 2.0, 4.0, 8.0)),
)
AWARE = (
    Entry("PGD-20, ε = 4, knows the defense", "pgd", {"threat": "exact"}),
    Entry("PGD-20, ε = 4, evades the detector", "pgd", {"threat": "exact", "evade": True}),
)


def jobs(scenes: Path, crops: Path, split: str | None, seed: int) -> Iterator[Job]:
    """One job per crop and entry, the cheap entries of all crops first."""
    chosen = read_crops(crops, split)
    yield from jobs_of(OBLIVIOUS, chosen, scenes, seed)
    yield from jobs_of(AWARE, [crop for crop in chosen if crop.adaptive], scenes, seed)


def describe() -> dict[str, Any]:
    """The protocol in words and numbers, for the results file."""
    return {
        "images": f"{CENTRE}² centres of the crops, panel {Settings().panel}",
        "defense": DEFAULT.facts(),
        "score": "10 log10 of the mean squared difference of the images restored without and with purification",
        "false_alarms": FALSE_ALARMS,
        "calibrated_on": "the clean captures of val, conformal quantile",
    }


def scores(results: Results, entry: Entry, split: str, kind: str) -> list[float]:
    """The detector's scores of the `clean` or the `attacked` captures."""
    return [row["detection"][kind] for row in rows_of(results, entry, split)]


def calibration(results: Results) -> dict[str, Any]:
    """The threshold and what it belongs to, for `weights/detector.json`."""
    clean = scores(results, OBLIVIOUS[0], "val", "clean")
    return {
        "threshold": threshold(clean, FALSE_ALARMS),
        "false_alarms": FALSE_ALARMS,
        "captures": len(clean),
        "purifier": DEFAULT.facts(),
        "checkpoints": results.checkpoints,
    }


def table(results: Results, split: str) -> str:
    """Markdown: what the detector sees of each attack, and what the attack does."""
    limit = calibration(results)["threshold"]
    head = ("captures", "area under ROC", "noticed at the threshold", "restored", "purified, restored", "crops")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    clean = scores(results, OBLIVIOUS[0], split, "clean")
    plain = rows_of(results, OBLIVIOUS[0], split)
    lines.append(_line("clean", "", clean, limit, plain, ("restored", "defended_clean")))
    for entry in (*OBLIVIOUS, *AWARE):
        rows = rows_of(results, entry, split)
        if not rows:
            continue
        attacked = scores(results, entry, split, "attacked")
        area = roc(scores(results, entry, split, "clean"), attacked).area
        lines.append(
            _line(entry.title, f"{area:.2f}", attacked, limit, rows, ("attacked_restored", "defended_attacked"))
        )
    return "\n".join(lines)


def _line(
    title: str, area: str, found: list[float], limit: float, rows: list[dict[str, Any]], keys: tuple[str, str]
) -> str:
    share = sum(score > limit for score in found) / len(found)
    psnr = [f"{mean(rows, 'psnr', key):.2f}" for key in keys]
    return f"| {title} | {area} | {share:.0%} | {psnr[0]} | {psnr[1]} | {len(rows)} |"
