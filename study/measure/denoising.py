"""How good a denoiser the purifier is: PSNR per σ on captures, beside a classical one given the true σ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from udc_defense.checkpoints.load import checkpoint_sums, load_purifier
from udc_defense.metrics import psnr
from udc_defense.noise import normal, seeded
from udc_defense.photo.settings import Settings
from udc_defense.photo.stages import row_seed, simulate
from udc_defense.provenance import versions
from udc_defense.scenes import read_crops

TIMESTEPS = (5, 10, 20, 50, 100)
# Strength of non-local means in units of σ; the best of these on the measured crops is reported, in its favour.
STRENGTHS = (0.6, 0.8, 1.0, 1.2)


def measure(scenes: Path, crops: Path, seed: int) -> dict[str, Any]:
    """Mean PSNR of noisy captures, of x̂₀ in one step, and of OpenCV's colour non-local means, on the val crops.

    The "truth" is the capture itself, with the sensor noise that the purifier was trained to keep.
    """
    settings = Settings(seed=seed)
    captures = [(crop.name, simulate(crop.scene(scenes), settings, crop.name)) for crop in read_crops(crops, "val")]
    purifier = load_purifier()
    diffusion = purifier.diffusion
    rows = []
    for level in TIMESTEPS:
        signal = diffusion.level(level - 1)
        sigma = ((1 - signal) / signal) ** 0.5 / 2  # of noise on an image in [0, 1]
        scores: dict[str, list[float]] = {key: [] for key in ("noisy", "purifier", *(f"nlm {s}" for s in STRENGTHS))}
        for name, capture in captures:
            x0 = capture * 2 - 1
            x = diffusion.noised(x0, level - 1, normal(x0, [seeded(row_seed(seed, name, "denoise", level, "", 0))]))
            noisy = (x / signal**0.5 + 1) / 2
            with torch.no_grad():
                clean = (diffusion.clean(x, level - 1, diffusion.predict(x, level - 1)) + 1) / 2
            scores["noisy"].append(float(psnr(noisy, capture)))
            scores["purifier"].append(float(psnr(clean, capture)))
            for strength in STRENGTHS:
                scores[f"nlm {strength}"].append(float(psnr(_non_local_means(noisy, strength * sigma), capture)))
        means = {key: sum(values) / len(values) for key, values in scores.items()}
        best = max(value for key, value in means.items() if key.startswith("nlm"))
        rows.append(
            {
                "noise_level": level,
                "sigma_in_255ths": round(255 * sigma, 2),
                "noisy": round(means["noisy"], 2),
                "non_local_means": round(best, 2),
                "purifier": round(means["purifier"], 2),
            }
        )
    return {
        "command": "python -m study measure denoising --scenes DIR --crops DIR/crops.csv",
        "seed": seed,
        "versions": versions(),
        "checkpoints": checkpoint_sums("default", "diffusion"),
        "rows": rows,
    }


def _non_local_means(image: Tensor, sigma: float) -> Tensor:
    import cv2

    pixels = (image[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    strength = 255 * sigma
    cleaned = cv2.fastNlMeansDenoisingColored(pixels, None, h=strength, hColor=strength)
    return torch.from_numpy(cleaned.astype(np.float32) / 255).permute(2, 0, 1)[None]
