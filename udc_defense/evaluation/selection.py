"""What a noise level of its own for each photo is worth, from the rows of `results/purifiers.json`.

On `val` every photo is judged by a chooser that was calibrated on the other scenes; on `heldout` by that of all of
`val`. It is compared with the fixed level that is best on average on `val`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udc_defense.evaluation.bootstrap import bootstrap_difference
from udc_defense.evaluation.purifier_suite import PER_PHOTO, PROBE, SELECTED, SELECTION_EPSILONS, faced
from udc_defense.evaluation.runner import Results
from udc_defense.noise_level import Chooser, calibrate
from udc_defense.table import Interval

LEVELS = (0, *(purification.noise_level for purification in SELECTED))


@dataclass(frozen=True)
class Measured:
    """Of N photos under E attacks, the first of which is none.

    Attributes:
        scenes: what each photo is taken from, N; photos of one scene resemble each other.
        scores: of the detector, (N, E).
        quality: PSNR of the restored photo at every level, (N, E, L).
    """

    scenes: list[str]
    scores: NDArray[np.float64]
    quality: NDArray[np.float64]


def measured(results: Results, split: str) -> Measured:
    """The rows of a split, arranged."""
    probes = {eps: _by_image(faced(results, PROBE, split, eps)) for eps in SELECTION_EPSILONS}
    levels = {eps: [_by_image(faced(results, p, split, eps)) for p in SELECTED] for eps in SELECTION_EPSILONS}
    first, images = SELECTION_EPSILONS[0], list(probes[SELECTION_EPSILONS[0]])
    scores, quality = [], []
    for image in images:
        probe = probes[first][image]
        clean = [row[image]["psnr"]["defended_clean"] for row in levels[first]]
        scores.append([probe["detection"]["clean"]] + [probes[eps][image]["detection"]["attacked"] for eps in probes])
        attacked = [
            [probes[eps][image]["psnr"]["attacked_restored"]]
            + [row[image]["psnr"]["defended_attacked"] for row in levels[eps]]
            for eps in SELECTION_EPSILONS
        ]
        quality.append([[probe["psnr"]["restored"], *clean], *attacked])
    return Measured([image.partition("@")[0] for image in images], np.array(scores), np.array(quality))


def _by_image(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["image"]: row for row in rows}


def chooser_of(found: Measured, kept: list[int]) -> Chooser:
    """Calibrated on some of the photos, under all attacks alike."""
    return calibrate(found.scores[kept].ravel().tolist(), found.quality[kept].reshape(-1, len(LEVELS)).tolist(), LEVELS)


def chosen_quality(found: Measured, choosers: list[Chooser]) -> NDArray[np.float64]:
    """PSNR (N, E) at the level that each photo's chooser takes."""
    columns = [
        [LEVELS.index(chooser(score)) for score in row] for chooser, row in zip(choosers, found.scores, strict=True)
    ]
    return np.take_along_axis(found.quality, np.array(columns)[..., None], axis=2)[..., 0]


def choosers(results: Results, split: str) -> tuple[Measured, list[Chooser]]:
    """The rows of a split, and the chooser for each photo, which never saw its scene."""
    val = measured(results, "val")
    if split != "val":
        found = measured(results, split)
        return found, [chooser_of(val, list(range(len(val.scenes))))] * len(found.scenes)
    others = {own: [i for i, scene in enumerate(val.scenes) if scene != own] for own in val.scenes}
    by_scene = {scene: chooser_of(val, kept) for scene, kept in others.items()}
    return val, [by_scene[scene] for scene in val.scenes]


def calibration(results: Results) -> dict[str, Any]:
    """The chooser of all of `val` and what it belongs to, for `weights/noise_level.json`."""
    val = measured(results, "val")
    chooser = chooser_of(val, list(range(len(val.scenes))))
    return {
        "probe": PROBE.facts(),
        "purifier": PER_PHOTO.facts(),
        "cuts": list(chooser.cuts),
        "levels": list(chooser.levels),
        "checkpoints": results.checkpoints,
    }


def best_fixed(results: Results) -> int:
    """Index into `LEVELS` of the level with the highest mean on `val`."""
    return int(measured(results, "val").quality.mean(axis=(0, 1)).argmax())


def gain(results: Results, split: str) -> Interval:
    """Mean PSNR of the chosen levels over that of the best fixed one, with its interval over photos."""
    found, each = choosers(results, split)
    return bootstrap_difference(chosen_quality(found, each), found.quality[..., best_fixed(results)])


def table(results: Results, split: str) -> str:
    """Markdown: PSNR under the mixture of attacks."""
    found, each = choosers(results, split)
    fixed = best_fixed(results)
    lines = ["| level | no attack | " + " | ".join(f"ε = {eps:g}" for eps in SELECTION_EPSILONS) + " | mean |"]
    lines.append("|---" * (len(SELECTION_EPSILONS) + 3) + "|")
    for title, quality in (
        ("no purification", found.quality[..., 0]),
        (f"best fixed, t* = {LEVELS[fixed]}", found.quality[..., fixed]),
        ("chosen per photo", chosen_quality(found, each)),
        ("best per photo, with hindsight", found.quality.max(axis=2)),
    ):
        cells = [*quality.mean(axis=0), quality.mean()]
        lines.append(f"| {title} | " + " | ".join(f"{value:.2f}" for value in cells) + " |")
    return "\n".join(lines)


def gain_words(results: Results, split: str) -> str:
    """What the choice is worth, with its interval."""
    found, fixed = gain(results, split), LEVELS[best_fixed(results)]
    radii = ", ".join(f"{eps:g}" for eps in SELECTION_EPSILONS)
    return (
        f"For the diffusion model with 8 draws, a level for each photo gains {found.mean:+.2f} dB over t* = {fixed} "
        f"for all of them, on average over no attack and PGD-20 at ε = {radii} by who does not know it (95 % interval "
        f"over photos {found.low:+.2f} to {found.high:+.2f})."
    )


def published_table(measured: dict[str, Any]) -> str:
    """Markdown: the level that the published selection takes, by both distances."""
    distances = sorted({row["distance"] for row in measured["rows"]})
    lines = ["| ε (1/255) | " + " | ".join(distances) + " |", "|---" * (1 + len(distances)) + "|"]
    for eps in sorted({row["eps"] for row in measured["rows"]}):
        levels = {row["distance"]: row["level"] for row in measured["rows"] if row["eps"] == eps}
        lines.append(f"| {eps:g} | " + " | ".join(str(levels[distance]) for distance in distances) + " |")
    return "\n".join(lines)
