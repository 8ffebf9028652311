"""DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): deterministic, second order, one network evaluation a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from udc_defense.diffusion import Diffusion
from udc_defense.purifiers import register


@register("dpm_solver")
def dpm_solver(
    diffusion: Diffusion, x: Tensor, t: int, *, steps: int, generators: list[torch.Generator]
) -> Iterator[Tensor]:
    """`steps` network evaluations from t down, at most one per timestep; no noise is drawn.

    With σ = e^-λ the algorithm's e^-h is a ratio of two σ.
    """
    before: tuple[Tensor, float] | None = None  # x̂₀ and h of the previous step
    for now, after in pairwise(diffusion.timesteps(t, steps)):
        x0 = direction = diffusion.clean(x, now, diffusion.predict(x, now))
        ratio = diffusion.sigma(after) / diffusion.sigma(now)
        # The last step ends at λ = ∞, to which nothing can be extrapolated: of first order it gives x̂₀.
        h = -math.log(ratio) if ratio > 0 else math.inf
        if before is not None and after >= 0:
            direction = x0 + h / (2 * before[1]) * (x0 - before[0])
        scale, target = diffusion.level(now) ** 0.5, diffusion.level(after) ** 0.5
        x = ratio * target / scale * x + target * (1 - ratio) * direction
        before = x0, h
        yield x
