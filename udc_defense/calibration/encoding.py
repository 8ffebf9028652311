"""How a file's values stand for light: the three domains of pairs, and curves that a calibration finds.

Curves map values in [0, 1] to linear light and back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from udc_defense.imaging import MAX_RADIANCE, inverse_tone_map, tone_map
from udc_defense.scenes import Domain

KNOTS = 48  # of a fitted curve
LEAST_PIXELS = 50  # of a knot
PROBE = 1 / 1024  # of the slope


@dataclass(frozen=True)
class Encoding:
    """A curve between a file's values and linear light.

    Attributes:
        decode: values -> light.
        encode: light -> values.
        top: the highest value that a file can hold; where pixels have it, their light is unknown.
    """

    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]
    top: float = 1.0

    def slope(self, light: Tensor) -> Tensor:
        """Light per step of the value, where this light is."""
        value = self.encode(light).clamp(PROBE, max(self.top, 1.0) - PROBE)
        return (self.decode(value + PROBE) - self.decode(value - PROBE)) / (2 * PROBE)


def srgb_to_linear(value: Tensor) -> Tensor:
    """IEC 61966-2-1."""
    return torch.where(value > 0.04045, ((value.clamp_min(0) + 0.055) / 1.055) ** 2.4, value / 12.92)


def linear_to_srgb(light: Tensor) -> Tensor:
    """The inverse of `srgb_to_linear`."""
    return torch.where(light > 0.0031308, 1.055 * light.clamp_min(0) ** (1 / 2.4) - 0.055, 12.92 * light)


ENCODINGS: dict[Domain, Encoding] = {
    "tonemapped": Encoding(inverse_tone_map, lambda light: tone_map(light.clamp_min(0))),
    "srgb": Encoding(srgb_to_linear, linear_to_srgb),
    "linear": Encoding(lambda value: value, lambda light: light, top=MAX_RADIANCE),
}


def file_step(values: Tensor) -> float:
    """The distance of a file's levels: 1/255 or 1/65535 where all values lie on such a grid, else 0."""
    for levels, slack in ((255, 1e-3), (65535, 0.1)):
        scaled = values.double() * levels
        if values.max() <= 1 and (scaled - scaled.round()).abs().max() < slack:
            return 1 / levels
    return 0.0


def fit_curve(light: Tensor, values: Tensor) -> Encoding:
    """The rising curve that a camera put on light: medians of the values over shares of the light, made monotone.

    Args:
        light: what the calibration predicts (N,).
        values: what the file holds there (N,).
    """
    order = light.argsort()
    light, values = light[order], values[order]
    pieces = np.array_split(np.arange(len(light)), min(KNOTS, max(2, len(light) // LEAST_PIXELS)))
    x = np.array([float(light[piece].median()) for piece in map(torch.from_numpy, pieces)])
    y = np.array([float(values[piece].median()) for piece in map(torch.from_numpy, pieces)])
    y = (np.maximum.accumulate(y) + np.minimum.accumulate(y[::-1])[::-1]) / 2
    rising = np.concatenate([[True], (np.diff(x) > 1e-6) & (np.diff(y) > 1e-5)])
    x, y = x[rising], y[rising]
    if x[0] > 0 and y[0] > 0:
        x, y = np.concatenate([[0.0], x]), np.concatenate([[0.0], y])
    return Encoding(lambda value: _along(value, y, x), lambda light: _along(light, x, y), top=1.0)


def _along(image: Tensor, x: np.ndarray, y: np.ndarray) -> Tensor:
    """Piecewise linear through the knots, and straight on beyond the last."""
    values = image.double().numpy()
    end = (y[-1] - y[-2]) / (x[-1] - x[-2])
    inside = np.interp(values, x, y)
    return torch.from_numpy(np.where(values > x[-1], y[-1] + end * (values - x[-1]), inside)).to(image)
