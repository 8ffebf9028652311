"""Shot and read noise of a camera, from what its captures differ by from their prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BINS = 24
LEAST_PIXELS = 200  # of a bin
SURE = 4  # one pixel in so many is used, those of a bin whose light is known best
NORMAL_MEDIAN = 0.6745  # of |z|


@dataclass(frozen=True)
class Noise:
    """Variance of recorded light l: shot·l + read."""

    shot: float
    read: float

    def variance(self, light: Tensor) -> Tensor:
        return self.shot * light.clamp_min(0) + self.read


def fit_noise(predicted: Tensor, residual: Tensor, known: Tensor) -> Noise:
    """The noise that explains the residuals, beside variances that are known.

    Medians of bins of equal light, so that the few pixels that a lamp or an edge spoils do not count.

    Args:
        predicted: light (N,).
        residual: recorded minus predicted light (N,).
        known: variance that roundings and uncertain light bring (N,).
    """
    order = predicted.argsort()
    light, variance = [], []
    for piece in np.array_split(order.numpy(), max(2, min(BINS, len(order) // LEAST_PIXELS))):
        chosen = torch.from_numpy(piece)
        chosen = chosen[known[chosen].argsort()[: max(1, len(chosen) // SURE)]]
        spread = residual[chosen].abs().median() / NORMAL_MEDIAN
        light.append(float(predicted[chosen].mean()))
        variance.append(max(float(spread**2 - known[chosen].median()), 0.0))
    return _non_negative_line(np.array(light), np.array(variance))


def _non_negative_line(x: np.ndarray, y: np.ndarray) -> Noise:
    """The line a·x + b, a, b ≥ 0, that fits relative to its size."""
    weights = 1 / np.maximum(y, np.median(y) * 0.1 + 1e-20)
    design = np.stack([x, np.ones_like(x)], axis=1) * weights[:, None]
    shot, read = np.linalg.lstsq(design, y * weights, rcond=None)[0]
    if read < 0:
        shot, read = float(np.sum(weights**2 * x * y) / np.sum((weights * x) ** 2)), 0.0
    elif shot < 0:
        shot, read = 0.0, float(np.sum(weights**2 * y) / np.sum(weights**2))
    return Noise(max(float(shot), 1e-12), float(read))
