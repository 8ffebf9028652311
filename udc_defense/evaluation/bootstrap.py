"""How sure a mean over images is, and a difference between two defenses that were measured on the same ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from udc_defense.errors import SettingError


class Difference(NamedTuple):
    """The mean of first - second, and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_difference(
    first: ArrayLike, second: ArrayLike, *, seed: int = 0, resamples: int = 10_000, confidence: float = 0.95
) -> Difference:
    """Paired percentile interval of the mean difference, over images (Efron & Tibshirani 1993, ch. 13).

    An image's conditions (the ε of an attack) are drawn together: its rows resemble each other, and counted one by one
    they would make the interval too narrow.

    Args:
        first: (images, conditions), in dB or whatever is compared.
        second: the same images and conditions in the same order.
        seed: of the resampling.
        resamples: of the images, with replacement.
        confidence: in 0…1, both excluded.

    Raises:
        SettingError: shapes differ, fewer than two images, values that are not finite, or a parameter out of range.
    """
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.ndim != 2 or one.shape != other.shape or len(one) < 2 or not one.size:
        raise SettingError(f"values of shape {one.shape} and {other.shape} are not two equal sets of 2 images or more.")
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise SettingError(f"values of shape {one.shape} to be compared are not all finite.")
    if resamples < 1:
        raise SettingError(f"{resamples} resamples: an interval needs at least 1.")
    if not 0 < confidence < 1:
        raise SettingError(f"confidence {confidence:g} is not in 0…1.")
    each = (one - other).mean(axis=1)
    # How often each image is drawn, in each resample.
    times = np.random.default_rng(seed).multinomial(len(each), np.full(len(each), 1 / len(each)), size=resamples)
    low, high = np.quantile(times @ each / len(each), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(float(each.mean()), float(low), float(high))


def bootstrap_mean(values: ArrayLike, *, seed: int = 0) -> Difference:
    """The mean of one value per image (images,), and its 95 % interval: the difference from nothing.

    Raises:
        SettingError: fewer than two images, or values that are not finite.
    """
    column = np.asarray(values, dtype=float).reshape(-1, 1)
    return bootstrap_difference(column, np.zeros_like(column), seed=seed)
