"""What is calibrated on `val`: the detector's threshold, and a noise level of its own for each photo.

On `val` every photo is judged by a chooser that was calibrated on the other scenes; on `heldout` by that of all of
`val`. It is compared with the fixed level that is best on average on `val`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.data import VAL, Rows, about, rows
from udc_defense.detection import threshold
from udc_defense.evaluation.bootstrap import bootstrap_difference
from udc_defense.evaluation.rows import value
from udc_defense.noise_level import Chooser, calibrate
from udc_defense.purification import DEFAULT, Purification, defense_name
from udc_defense.table import Column, Interval, Table, Value

# The default sampler for the selection of a level, the probe whose score selects, and what the selection ends in.
SELECTED = tuple(Purification("one_step", level, draws=8) for level in (5, 10, 15, 20, 30, 40, 50, 75, 100))
PROBE = Purification("one_step", 50)
PER_PHOTO = Purification("one_step", draws=8, per_photo=True)
LEVELS = (0, *(purification.noise_level for purification in SELECTED))
EPSILONS = (1, 2, 4, 8)  # and none: the clean capture of each row
FALSE_ALARMS = 0.05


def suspicion(found: Rows, kind: str) -> list[float]:
    """The detector's scores of the `clean` or the `attacked` captures."""
    return [(row["detection"] or {})[kind] for row in found]


def detector() -> dict[str, Any]:
    """The threshold and what it belongs to, for `weights/detector.json`: a conformal quantile of val."""
    clean = suspicion(rows("detection", VAL, "random signs, ε = 4"), "clean")
    return {
        "threshold": threshold(clean, FALSE_ALARMS),
        "false_alarms": FALSE_ALARMS,
        "captures": len(clean),
        "purifier": DEFAULT.facts(),
        "checkpoints": about("detection")["checkpoints"],
    }


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


def measured(split: str) -> Measured:
    """The rows of a split, arranged."""

    def faced(purification: Purification, eps: int) -> dict[str, Any]:
        found = rows("purifiers", split, f"PGD-20, ε = {eps}", defense_name(purification))
        return {row["image"]: row for row in found}

    probes = {eps: faced(PROBE, eps) for eps in EPSILONS}
    levels = {eps: [faced(purification, eps) for purification in SELECTED] for eps in EPSILONS}
    first, images = EPSILONS[0], sorted(probes[EPSILONS[0]])
    scores, quality = [], []
    for image in images:
        probe = probes[first][image]
        clean = [value(row[image], "defended_clean") for row in levels[first]]
        scores.append([probe["detection"]["clean"]] + [probes[eps][image]["detection"]["attacked"] for eps in probes])
        attacked = [
            [value(probes[eps][image], "attacked_restored")]
            + [value(row[image], "defended_attacked") for row in levels[eps]]
            for eps in EPSILONS
        ]
        quality.append([[value(probe, "restored"), *clean], *attacked])
    return Measured([image.partition("@")[0] for image in images], np.array(scores), np.array(quality, dtype=float))


def chooser_of(found: Measured, kept: list[int]) -> Chooser:
    """Calibrated on some of the photos, under all attacks alike."""
    return calibrate(found.scores[kept].ravel().tolist(), found.quality[kept].reshape(-1, len(LEVELS)).tolist(), LEVELS)


def chosen_quality(found: Measured, choosers: list[Chooser]) -> NDArray[np.float64]:
    """PSNR (N, E) at the level that each photo's chooser takes."""
    columns = [
        [LEVELS.index(chooser(score)) for score in row] for chooser, row in zip(choosers, found.scores, strict=True)
    ]
    return np.take_along_axis(found.quality, np.array(columns)[..., None], axis=2)[..., 0]


def choosers(split: str) -> tuple[Measured, list[Chooser]]:
    """The rows of a split, and the chooser for each photo, which never saw its scene."""
    val = measured(VAL)
    if split != VAL:
        found = measured(split)
        return found, [chooser_of(val, list(range(len(val.scenes))))] * len(found.scenes)
    others = {own: [i for i, scene in enumerate(val.scenes) if scene != own] for own in val.scenes}
    by_scene = {scene: chooser_of(val, kept) for scene, kept in others.items()}
    return val, [by_scene[scene] for scene in val.scenes]


def level() -> dict[str, Any]:
    """The chooser of all of `val` and what it belongs to, for `weights/noise_level.json`."""
    val = measured(VAL)
    chooser = chooser_of(val, list(range(len(val.scenes))))
    return {
        "probe": PROBE.facts(),
        "purifier": PER_PHOTO.facts(),
        "cuts": list(chooser.cuts),
        "levels": list(chooser.levels),
        "checkpoints": about("purifiers")["checkpoints"],
    }


def best_fixed() -> int:
    """Index into `LEVELS` of the level with the highest mean on `val`."""
    return int(measured(VAL).quality.mean(axis=(0, 1)).argmax())


def gain(split: str) -> Interval:
    """Mean PSNR of the chosen levels over that of the best fixed one, with its interval over photos."""
    found, each = choosers(split)
    return bootstrap_difference(chosen_quality(found, each), found.quality[..., best_fixed()])


def table(split: str) -> str:
    """Markdown: PSNR under the mixture of attacks."""
    found, each = choosers(split)
    fixed = best_fixed()
    kinds = {
        "no purification": found.quality[..., 0],
        f"best fixed, t* = {LEVELS[fixed]}": found.quality[..., fixed],
        "chosen per photo": chosen_quality(found, each),
        "best per photo, with hindsight": found.quality.max(axis=2),
    }
    lines: list[list[Value]] = [
        [title, *map(float, kind.mean(axis=0)), float(kind.mean())] for title, kind in kinds.items()
    ]
    heads = ["level", "no attack", *(f"ε = {eps}" for eps in EPSILONS), "mean"]
    return Table("", "", "", [Column(head) for head in heads], lines).markdown().rstrip()
