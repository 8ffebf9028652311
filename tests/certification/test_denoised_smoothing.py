"""Denoised smoothing: the timestep is that of the noise, and with a Gaussian prior the output the posterior mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from udc_defense.certification.denoised import Denoised
from udc_defense.certification.noise import Gaussian
from udc_defense.checkpoints.load import load_purifier
from udc_defense.diffusion import Diffusion
from udc_defense.errors import SettingError
from udc_defense.metrics import psnr
from udc_defense.noise import seeded

PRIOR = 0.3  # standard deviation of images around ½, in [-1, 1] twice that


def gaussian_prior(last: int = 150) -> Any:
    """A purifier whose noise predictor is exact for independent Gaussian values."""
    signal = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)

    def predict(x: Tensor, t: int) -> Tensor:
        level = float(signal[t])
        mean = x * level**0.5 * (2 * PRIOR) ** 2 / (level * (2 * PRIOR) ** 2 + 1 - level)
        return (x - level**0.5 * mean) / (1 - level) ** 0.5

    module = nn.Module()
    module.diffusion, module.signal, module.last_timestep = Diffusion(predict, signal), signal, last  # type: ignore
    return module


@pytest.mark.parametrize("t", [0, 29, 149])
def test_the_output_is_the_posterior_mean_for_the_noise_that_was_added(t: int) -> None:
    purifier = gaussian_prior()
    sigma = purifier.diffusion.sigma(t) / 2
    noisy = 0.5 + torch.randn(1, 3, 4, 4, generator=seeded(0), dtype=torch.float64)
    expected = 0.5 + (noisy - 0.5) * PRIOR**2 / (PRIOR**2 + sigma**2)  # Gaussian prior, Gaussian noise in [0, 1]
    assert torch.allclose(Denoised(nn.Identity(), purifier, sigma)(noisy), expected, atol=1e-12)


def test_the_nearest_timestep_is_taken() -> None:
    purifier = gaussian_prior()
    levels = [purifier.diffusion.sigma(t) / 2 for t in range(150)]
    assert Denoised(nn.Identity(), purifier, 0.6 * levels[40] + 0.4 * levels[41]).timestep == 40


@pytest.mark.parametrize("sigma", [0.001, 0.5])
def test_noise_that_the_purifier_was_not_trained_for_is_refused(sigma: float) -> None:
    with pytest.raises(SettingError, match=f"sigma {sigma:g} is not in 0.0050…0.2"):
        Denoised(nn.Identity(), gaussian_prior(), sigma)


def test_the_embedded_purifier_removes_smoothing_noise_and_draws_none() -> None:
    purifier, sigma = load_purifier(), 0.1
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    image = torch.stack([x, y, 0.5 * (x + y)])[None]
    noisy = image + Gaussian(sigma).draw(image, [seeded(0)])
    model = Denoised(nn.Identity(), purifier, sigma)
    with torch.inference_mode():
        once, again = model(noisy), model(noisy)
    assert torch.equal(once, again)
    assert float(psnr(once, image)) > float(psnr(noisy, image)) + 6
