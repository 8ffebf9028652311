"""What a decoder hands on: numbers as stored, and what is needed to show them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from udc_defense.errors import ImageError


@dataclass(frozen=True)
class Picture:
    """A decoded picture whose colours are still those of its file.

    Attributes:
        colours: float32 (H, W, C) in [0, 1]; C is 1 (grey), 3 (RGB) or 4 (CMYK, 1 is full ink).
        alpha: float32 (H, W, 1) in [0, 1], 1 is opaque; None where everything is. Colours are not premultiplied.
        profile: the ICC profile of the colours; None means sRGB.
        orientation: EXIF's, 1…8, that is still to be applied.
        eight_bit: the colours are whole 255ths.
    """

    colours: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    orientation: int = 1
    eight_bit: bool = False


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture by the size that its header states.

    Raises:
        ImageError: it has no pixels, or more than allowed.
    """
    if width < 1 or height < 1:
        raise ImageError("has no pixels.")
    if width * height > max_pixels:
        raise ImageError(f"{width}x{height} pixels, more than the {max_pixels / 1e6:g} MP allowed.")


def unit_floats(values: np.ndarray) -> np.ndarray:
    """Floats as float32.

    Raises:
        ImageError: they are not all finite and in [0, 1].
    """
    low, high = (float(value) for value in (values.min(), values.max())) if values.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ImageError(f"holds floating-point values from {low:.4g} to {high:.4g}, not in 0…1.")
    return values.astype(np.float32)
