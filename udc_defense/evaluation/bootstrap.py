"""How sure a mean over images is, and a difference between two defenses that were measured on the same ones."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from udc_defense.errors import SettingError
from udc_defense.table import Interval

RESAMPLES = 10_000


def bootstrap_difference(
    first: ArrayLike, second: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Interval:
    """Paired percentile interval of the mean of first - second, over images (Efron & Tibshirani 1993, ch. 13).

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
    means = _drawn(len(each), resamples, seed) @ each / len(each)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(each.mean()), float(low), float(high))


@lru_cache(maxsize=8)
def _drawn(images: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each image is drawn, in each resample (resamples, images)."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
