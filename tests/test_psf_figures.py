"""Figures of a PSF against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from udc_defense.optics import PANELS
from udc_defense.psf_figures import contrast, energy_within, plot_psf


def gaussian(sigma: float, side: int = 61) -> torch.Tensor:
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    line = torch.exp(-(axis**2) / (2 * sigma**2))
    psf = torch.outer(line, line)
    return (psf / psf.sum()).expand(3, -1, -1)


@pytest.mark.parametrize("frequency", [0.0, 0.02, 0.1, 0.2])
def test_contrast_of_a_gaussian(frequency: float) -> None:
    """exp(-2 π² σ² f²)."""
    expected = math.exp(-2 * math.pi**2 * 1.5**2 * frequency**2)
    torch.testing.assert_close(contrast(gaussian(1.5), frequency), torch.full((3,), expected, dtype=torch.float64))


def test_energy_of_a_gaussian() -> None:
    """1 - exp(-r²/2σ²)."""
    for radius in (4.0, 8.0):
        expected = 1 - math.exp(-(radius**2) / (2 * 5.0**2))
        assert energy_within(gaussian(5.0), radius).tolist() == pytest.approx([expected] * 3, abs=0.01)
    assert energy_within(gaussian(5.0), 0.5).tolist() == pytest.approx([float(gaussian(5.0)[0, 30, 30])] * 3)


def test_plot_is_a_picture() -> None:
    data = plot_psf(PANELS["toled"])
    assert data.startswith(b"\x89PNG") and len(data) > 10_000
