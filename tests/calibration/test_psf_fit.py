"""The search for a PSF: its products against plain convolution, its result against the PSF that made the data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from udc_defense.calibration.noise_fit import fit_noise
from udc_defense.calibration.psf_fit import Exposure, Grid, fit_psf
from udc_defense.imaging import convolve


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("size", "reach"), [((20, 31), 4), ((9, 7), 12), ((1, 1), 3), ((33, 20), 0)])
class TestGrid:
    def test_prediction_is_the_captures_convolution(self, size: tuple[int, int], reach: int) -> None:
        scene, psf = random(*size), random(2 * reach + 1, 2 * reach + 1, seed=1)
        grid = Grid(*size, reach)
        ours = Exposure(grid, grid.spectrum(scene), scene, scene).predicted(psf)
        expected = convolve(scene.expand(1, 3, -1, -1), psf.expand(3, -1, -1))[0, 0]
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-5)

    def test_adjoint(self, size: tuple[int, int], reach: int) -> None:
        """<A h, r> = <h, Aᵀ r>."""
        grid = Grid(*size, reach)
        exposure = Exposure(grid, grid.spectrum(random(*size)), random(*size), random(*size))
        psf, image = random(2 * reach + 1, 2 * reach + 1, seed=1), random(*size, seed=2)
        left, right = (exposure.predicted(psf) * image).sum(), (psf * exposure.correlated(image)).sum()
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def test_whole_shifts_are_rolls() -> None:
    grid = Grid(20, 24, 3)
    scene = torch.zeros(20, 24)
    scene[10, 12] = 1
    moved = grid.frame(grid.spectrum(scene, (2.0, -3.0)))
    torch.testing.assert_close(moved, scene.roll((2, -3), (0, 1)), atol=1e-5, rtol=0)


def test_psf_comes_back() -> None:
    """Without noise, from scenes with detail, and with a tenth of the pixels spoilt and not trusted."""
    truth = random(7, 7, seed=3) ** 4
    truth[0] = 0.0
    grid, exposures = Grid(60, 50, 3), []
    for seed in (4, 5):
        scene = random(60, 50, seed=seed)
        recorded = Exposure(grid, grid.spectrum(scene), scene, scene).predicted(truth)
        trusted = random(60, 50, seed=seed + 10) > 0.1
        exposures.append(Exposure(grid, grid.spectrum(scene), torch.where(trusted, recorded, 99.0), trusted.float()))
    found = fit_psf(exposures, torch.full((7, 7), 0.1), steps=150)
    assert found.min() >= 0
    torch.testing.assert_close(found, truth, atol=2e-3, rtol=0)


@pytest.mark.parametrize(("shot", "read"), [(4e-4, 1e-5), (4e-4, 0.0), (0.0, 1e-4)])
def test_noise_comes_back(shot: float, read: float) -> None:
    """A tenth of the pixels is spoilt, and a known variance comes on top."""
    generator = torch.Generator().manual_seed(1)
    light = random(200_000) ** 2 * 3
    known = torch.full_like(light, 2e-5)
    residual = torch.randn(light.shape, generator=generator) * (shot * light + read + known).sqrt()
    residual[::10] = 0.5
    noise = fit_noise(light, residual, known)
    assert noise.shot == pytest.approx(shot, rel=0.4, abs=2e-5)
    assert noise.read == pytest.approx(read, rel=0.4, abs=2e-5)
