"""DDPM's ancestral sampling (arXiv 2006.11239, algorithm 2; variance β̃), as in the paper and in DiffPure."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from udc_defense.diffusion import Diffusion
from udc_defense.noise import normal
from udc_defense.purifiers import register


@register("ddpm", evaluations=lambda noise_level, steps: noise_level)
def ddpm(diffusion: Diffusion, x: Tensor, t: int, *, generators: list[torch.Generator]) -> Iterator[Tensor]:
    """Every timestep from t down to 0: t + 1 network evaluations."""
    for now in range(t, -1, -1):
        signal, before = diffusion.level(now), diffusion.level(now - 1)
        alpha = signal / before
        x0 = diffusion.clean(x, now, diffusion.predict(x, now))
        x = (before**0.5 * (1 - alpha) * x0 + alpha**0.5 * (1 - before) * x) / (1 - signal)  # eq. 7
        if now > 0:
            deviation = ((1 - before) / (1 - signal) * (1 - alpha)) ** 0.5
            x = x + deviation * normal(x, generators)
        yield x
