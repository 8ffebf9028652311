"""A Gaussian prior of captures, for which the exact noise predictor and every sampler have a closed form."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDPMScheduler
from tiny_networks import purifier
from torch import Tensor, nn

from udc_defense.diffusion import Diffusion
from udc_defense.noise import seeded
from udc_defense.purifiers.diffusion import DiffusionPurifier

MEAN, DEVIATION = 0.3, 0.25  # of the prior, in the network's range [-1, 1]
SCHEDULER = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)
SIGNAL = SCHEDULER.alphas_cumprod.double()


class GaussianNetwork(nn.Module):
    """The exact noise predictor for x₀ ~ N(m, s²), from the score of N(√ᾱ m, ᾱ s² + 1 - ᾱ)."""

    config = {"block_out_channels": (1,)}

    def __init__(self, mean: float = MEAN, deviation: float = DEVIATION, signal: Tensor = SIGNAL) -> None:
        super().__init__()
        self.mean, self.deviation, self.signal, self.calls = mean, deviation, signal, 0

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        self.calls += 1
        signal = self.signal[t].view(-1, 1, 1, 1).to(x)
        variance = signal * self.deviation**2 + 1 - signal
        return SimpleNamespace(sample=(x - signal**0.5 * self.mean) * (1 - signal) ** 0.5 / variance)


def gaussian(sampler: str, level: int, **options: Any) -> DiffusionPurifier:
    return purifier(GaussianNetwork(), SCHEDULER, sampler=sampler, noise_level=level, **options)


def gaussian_diffusion(signal: Tensor = SIGNAL) -> Diffusion:
    network = GaussianNetwork(signal=signal)
    return Diffusion(lambda x, t: network(x, torch.full((len(x),), t)).sample, signal)


def picture(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=dtype)
