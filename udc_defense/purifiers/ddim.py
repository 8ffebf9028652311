"""DDIM with η = 0 (arXiv 2010.02502, eq. 12): deterministic, over few evenly spaced timesteps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from udc_defense.purifiers import register
from udc_defense.purifiers.base import Diffusion


@register("ddim")
def ddim(diffusion: Diffusion, x: Tensor, t: int, *, steps: int, generators: list[torch.Generator]) -> Iterator[Tensor]:
    """`steps` network evaluations from t down, at most one per timestep."""
    timesteps = torch.linspace(t, -1, min(steps, t + 1) + 1).round().int().tolist()
    for now, after in zip(timesteps, timesteps[1:], strict=False):
        epsilon = diffusion.predict(x, now)
        x = diffusion.noised(diffusion.clean(x, now, epsilon), after, epsilon)
        yield x
