"""What a PSF does, in figures: energy within a radius, contrast that is left of detail, and a picture of both."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from udc_defense.errors import SettingError

if TYPE_CHECKING:
    from udc_defense.optics import Panel

RADII = (0.5, 3.5, 7, 15, 30, 60, 100, 200)  # pixels
FREQUENCIES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5)  # cycles per pixel
DARKEST = 1e-8  # of the light, in the picture
COLOURS = ("#c0392b", "#1e8449", "#2456a6")


def energy_within(psf: Tensor, radius: float) -> Tensor:
    """Share of the light (3,) that falls within a radius in pixels of the middle of a PSF (3, K, K)."""
    return (psf.double() * (_distance(psf.shape[-1]) <= radius)).sum((-2, -1))


def contrast(psf: Tensor, frequency: float) -> Tensor:
    """MTF (3,): the contrast that is left of stripes of so many cycles per pixel, mean of those across and along."""
    axis = torch.arange(psf.shape[-1], dtype=torch.float64) - psf.shape[-1] // 2
    wave = torch.polar(torch.ones_like(axis), -2 * torch.pi * frequency * axis)
    lines = torch.stack([psf.double().sum(dim) for dim in (-2, -1)]).to(wave.dtype)
    return (lines @ wave).abs().mean(dim=0)


def _distance(side: int) -> Tensor:
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    return torch.hypot(*torch.meshgrid(axis, axis, indexing="ij"))


def plot_psf(panel: Panel) -> bytes:
    """A PNG: the PSF in logarithmic scale, energy within a radius, and MTF.

    Raises:
        SettingError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingError('a plot needs matplotlib: pip install "udc-defense[report]".') from error
    psf = panel.psf
    figure = Figure(figsize=(13, 4), layout="constrained")
    picture, energy, mtf = figure.subplots(1, 3)
    reach = psf.shape[-1] // 2
    shown = picture.imshow(
        psf.mean(dim=0).clamp_min(DARKEST).log10().numpy(), cmap="magma", extent=(-reach, reach, reach, -reach)
    )
    figure.colorbar(shown, ax=picture, label="log10 of the share of light per pixel")
    picture.set(title=panel.title, xlabel="pixels", ylabel="pixels")
    radii = [radius for radius in (0.5, *range(1, reach + 1))]
    frequencies = [step / 200 for step in range(101)]
    within = torch.stack([energy_within(psf, radius) for radius in radii])
    kept = torch.stack([contrast(psf, frequency) for frequency in frequencies])
    for channel, (name, colour) in enumerate(zip(("red", "green", "blue"), COLOURS, strict=True)):
        energy.semilogx(radii, within[:, channel], color=colour, label=name)
        mtf.plot(frequencies, kept[:, channel], color=colour, label=name)
    energy.set(title="Energy within a radius", xlabel="pixels", ylabel="share of the light", ylim=(0, 1.02))
    mtf.set(title="Contrast of detail (MTF)", xlabel="cycles per pixel", ylabel="contrast left", ylim=(0, 1.02))
    mtf.legend()
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()
