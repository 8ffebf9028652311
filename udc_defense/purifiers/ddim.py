"""DDIM (arXiv 2010.02502, eq. 12) over few evenly spaced timesteps: deterministic, or with noise added at each step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor

from udc_defense.diffusion import Diffusion
from udc_defense.noise import normal
from udc_defense.options import Between
from udc_defense.purifiers import register


@register("ddim")
def ddim(
    diffusion: Diffusion,
    x: Tensor,
    t: int,
    *,
    steps: int,
    generators: list[torch.Generator],
    eta: Annotated[float, Between(0, 1)] = 0.0,
) -> Iterator[Tensor]:
    """`steps` network evaluations from t down, at most one per timestep.

    Args:
        eta: randomness; 0 is deterministic, 1 is as random as DDPM over these timesteps, and is DDPM over all of them.
    """
    timesteps = torch.linspace(t, -1, min(steps, t + 1) + 1).round().int().tolist()
    for now, after in pairwise(timesteps):
        signal, target = diffusion.level(now), diffusion.level(after)
        epsilon = diffusion.predict(x, now)
        variance = eta**2 * (1 - target) / (1 - signal) * (1 - signal / target)  # eq. 16
        x = diffusion.clean(x, now, epsilon) * target**0.5 + epsilon * (1 - target - variance) ** 0.5
        if variance > 0:
            x = x + variance**0.5 * normal(x, generators)
        yield x
