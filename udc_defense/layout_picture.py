"""A panel from a picture of one of its cells: tiled over the lens, and diffracted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from udc_defense.errors import PanelError
from udc_defense.optics import APERTURE_STEP, FOCAL_LENGTH, LENS_DIAMETER, PIXEL, PSF_RADIUS, Lens, compute_psf

BAND = 0.025  # µm to either side of a channel's wavelength, where half of its light lies
RANGES = {
    "pitch of the cell": (2 * APERTURE_STEP, 5000.0, "µm"),
    "focal length": (0.5, 50.0, "mm"),
    "f-number": (0.7, 32.0, ""),
    "pixel of the sensor": (0.3, 20.0, "µm"),
    "wavelength": (380.0, 780.0, "nm"),
    "diameter of the lens": (0.1, 15.0, "mm"),
}
DEFAULT_FOCAL_LENGTH = FOCAL_LENGTH / 1000  # mm
DEFAULT_F_NUMBER = FOCAL_LENGTH / LENS_DIAMETER
DEFAULT_PIXEL = PIXEL


@dataclass(frozen=True, eq=False)
class CellLayout:
    """One cell of a panel, repeated over the plane: amplitudes (H, W) in [0, 1], `pitch` µm wide."""

    cell: np.ndarray
    pitch: float

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Amplitude at coordinates in µm, linear between the cell's samples."""
        height, width = self.cell.shape
        column, row = (axis / self.pitch * width - 0.5 for axis in (x, y))
        left, top = np.floor(column).astype(int), np.floor(row).astype(int)
        right_share, low_share = column - left, row - top

        def at(down: int, right: int) -> np.ndarray:
            return self.cell[(top + down) % height, (left + right) % width]

        upper = at(0, 0) * (1 - right_share) + at(0, 1) * right_share
        lower = at(1, 0) * (1 - right_share) + at(1, 1) * right_share
        return upper * (1 - low_share) + lower * low_share


def psf_of_picture(
    picture: Tensor,
    *,
    pitch: float,
    focal_length: float = DEFAULT_FOCAL_LENGTH,
    f_number: float = DEFAULT_F_NUMBER,
    pixel: float = DEFAULT_PIXEL,
    wavelengths: Sequence[float] | None = None,
    reach: int = PSF_RADIUS,
) -> tuple[Tensor, float]:
    """The PSF of a panel whose cell is drawn: white lets light pass, black blocks it.

    Args:
        picture: one cell (1, 3, H, W) in [0, 1], the share of the amplitude that passes; its mean over channels counts.
        pitch: width of the cell in µm; its height follows from the picture.
        focal_length: of the lens, mm.
        f_number: focal length over the lens's diameter.
        pixel: side of a pixel of the capture, µm.
        wavelengths: of red, green and blue in nm; those of a usual sensor by default.
        reach: of the PSF in pixels, K = 2·reach + 1.

    Returns:
        The PSF (3, K, K), each channel of unit sum, and the share of the light that passes the cell.

    Raises:
        PanelError: a number is out of its range, or the cell lets no light pass.
    """
    diameter = focal_length / f_number if f_number else math.inf
    numbers = dict(zip(RANGES, (pitch, focal_length, f_number, pixel, 0.0, diameter), strict=True))
    for name, (low, high, unit) in RANGES.items():
        for value in (wavelengths or ()) if name == "wavelength" else [numbers[name]]:
            if not low <= value <= high:
                raise PanelError(f"a {name} of {value:g} {unit}".rstrip() + f" is not in {low:g}…{high:g}.")
    if not 1 <= reach <= 400:
        raise PanelError(f"a PSF of {2 * reach + 1}² pixels is not of 3² to 801².")
    cell = _sampled(picture, pitch)
    if cell.max() == 0:
        raise PanelError("the cell of the layout is black: no light passes.")
    lens = Lens(focal_length * 1000, diameter * 1000, pixel)
    if wavelengths is not None:
        lens = Lens(lens.focal_length, lens.diameter, pixel, tuple(_lines(nm / 1000) for nm in wavelengths))
    return compute_psf(CellLayout(cell, pitch), radius=reach, lens=lens), float((cell**2).mean())


def _sampled(picture: Tensor, pitch: float) -> np.ndarray:
    """The cell on at most two samples per step of the aperture, so that nothing finer aliases."""
    grey = picture.mean(dim=1, keepdim=True)
    height, width = grey.shape[-2:]
    most = max(2, round(2 * pitch / APERTURE_STEP))
    if width > most:
        grey = F.interpolate(grey, size=(max(1, round(height * most / width)), most), mode="area")
    return grey[0, 0].clamp(0, 1).numpy().astype(np.float64)


def _lines(wavelength: float) -> tuple[tuple[float, float], ...]:
    return ((wavelength - BAND, 0.25), (wavelength, 0.5), (wavelength + BAND, 0.25))
