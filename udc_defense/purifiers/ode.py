"""The probability-flow ODE (arXiv 2011.13456, eq. 13) by Heun's method: deterministic, second order.

In the coordinates x / √ᾱ over σ = √((1 - ᾱ) / ᾱ) it reads d(x / √ᾱ) / dσ = ε̂ (arXiv 2206.00364, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from udc_defense.diffusion import Diffusion
from udc_defense.purifiers import register
from udc_defense.purifiers.base import one_a_step


@register("ode", evaluations=lambda noise_level, steps: 2 * one_a_step(noise_level, steps) - 1)
def ode(diffusion: Diffusion, x: Tensor, t: int, *, steps: int, generators: list[torch.Generator]) -> Iterator[Tensor]:
    """`steps` steps from t down, at most one per timestep, of two network evaluations; the last, to σ = 0, has one."""
    for now, after in pairwise(diffusion.timesteps(t, steps)):
        slope = diffusion.predict(x, now)
        moved = diffusion.moved(x, now, after, slope)
        yield moved
        if after >= 0:
            slope = (slope + diffusion.predict(moved, after)) / 2
            moved = diffusion.moved(x, now, after, slope)
            yield moved
        x = moved
