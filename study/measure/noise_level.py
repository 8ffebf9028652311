"""The noise level that UAD-RS (arXiv 2307.16865) selects for the val crops, under each ε, with both distances.

The clean captures are of scenes to train on; those to be purified are of `val`, and the task network is the restorer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from study.selection import LEVELS
from udc_defense.checkpoints.load import checkpoint_sums, load_restorer
from udc_defense.defense import Defense
from udc_defense.evaluation.jobs import CENTRE, Job, prepared
from udc_defense.noise_level import Distance, features_by_level, nearest, pooled
from udc_defense.photo.settings import Settings
from udc_defense.photo.source import from_crop
from udc_defense.provenance import versions
from udc_defense.purification import Purification
from udc_defense.scenes import read_crops
from udc_defense.training.data import SimulatedCaptures, list_scenes

LAYER = "encoder.3"  # the coarsest scale of the restorer
EPSILONS = (0.0, 1.0, 2.0, 4.0, 8.0)
CLEAN = 128
DISTANCES: tuple[Distance, ...] = ("frechet", "kid")


def measure(scenes: Path, crops: Path, seed: int) -> dict[str, Any]:
    """Selected level and all distances, per ε and kind of distance."""
    restorer = load_restorer()
    with torch.no_grad():
        clean = torch.cat([pooled(restorer, LAYER, captured) for captured in _training_captures(scenes, crops, seed)])
    rows: list[dict[str, Any]] = []
    for eps in EPSILONS:
        suspicious = _val_captures(Defense(restorer), scenes, crops, eps, seed)
        features = features_by_level(_purifier, restorer, LAYER, suspicious, LEVELS, seed=seed)
        for distance in DISTANCES:
            found = nearest(clean, features, distance)
            scores = {str(level): round(score, 6) for level, score in found.scores.items()}
            rows.append({"eps": eps, "distance": distance, "level": found.level, "scores": scores})
    return {
        "command": "python -m study measure noise_level --scenes DIR --crops DIR/crops.csv",
        "seed": seed,
        "layer": LAYER,
        "clean": f"{CLEAN} captures of {CENTRE}² of scenes that the crop list does not name",
        "versions": versions(),
        "checkpoints": checkpoint_sums("default", "diffusion"),
        "rows": rows,
    }


def _purifier(level: int) -> torch.nn.Module:
    return Purification("one_step", level, draws=8).load()


def _training_captures(scenes: Path, crops: Path, seed: int) -> list[Tensor]:
    shape: dict[str, Any] = {"length": CLEAN, "size": CENTRE, "crops": 1, "seed": seed}
    drawn = SimulatedCaptures(list_scenes(scenes, crops), [Settings().panel], **shape)
    return [drawn[i][0] for i in range(CLEAN)]


def _val_captures(bare: Defense, scenes: Path, crops: Path, eps: float, seed: int) -> list[Tensor]:
    """Attacked as in the protocols, by PGD-20 that does not know the defense."""
    settings = Settings(attack="pgd", eps=eps, seed=seed) if eps else Settings(attack="none", seed=seed)
    found = [prepared(bare, Job(from_crop(crop, scenes), settings, ())).images for crop in read_crops(crops, "val")]
    return [images.get("attacked_input", images["captured"]) for images in found]
