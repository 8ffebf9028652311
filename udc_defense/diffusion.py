"""A diffusion's schedule: images noised, denoised and moved between timesteps (arXiv 2006.11239)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Diffusion:
    """A variance-preserving diffusion with its noise predictor.

    Attributes:
        predict: (x_t, t) -> ε̂ (B, 3, H, W).
        signal: ᾱ_t, the cumulative product of 1 - β, float64 (T,).
    """

    predict: Callable[[Tensor, int], Tensor]
    signal: Tensor

    def noised(self, x0: Tensor, t: int, epsilon: Tensor) -> Tensor:
        """x_t of x_0 (arXiv 2006.11239, eq. 4)."""
        return x0 * self.level(t) ** 0.5 + epsilon * (1 - self.level(t)) ** 0.5

    def clean(self, x: Tensor, t: int, epsilon: Tensor) -> Tensor:
        """x̂₀ of x_t and ε̂, the same equation solved."""
        return (x - (1 - self.level(t)) ** 0.5 * epsilon) / self.level(t) ** 0.5

    def noise_of(self, x: Tensor, t: int, x0: Tensor) -> Tensor:
        """ε̂ of x_t and x̂₀, the same equation solved once more."""
        return (x - self.level(t) ** 0.5 * x0) / (1 - self.level(t)) ** 0.5

    def moved(self, x: Tensor, t: int, after: int, epsilon: Tensor) -> Tensor:
        """From x_t to `after` along ε̂: Euler's step of the probability flow, DDIM's (arXiv 2010.02502, eq. 13)."""
        return self.noised(self.clean(x, t, epsilon), after, epsilon)

    def level(self, t: int) -> float:
        """ᾱ_t; 1 at t = -1, the image itself."""
        return float(self.signal[t]) if t >= 0 else 1.0

    def sigma(self, t: int) -> float:
        """√((1 - ᾱ_t) / ᾱ_t), the noise of x_t / √ᾱ_t = x_0 + σ ε; 0 at t = -1. Its logarithm is -λ."""
        return ((1 - self.level(t)) / self.level(t)) ** 0.5

    def timesteps(self, t: int, steps: int) -> list[int]:
        """For solvers of second order: `steps` distinct timesteps from t down, t + 1 at most, then -1.

        √σ falls evenly, as near as whole timesteps allow (arXiv 2206.00364, eq. 5 with ρ = 2 and σ_min = 0). Even in
        t, second order is lost at small t, where σ grows as √t; even in λ, the first of few steps are too long.
        """
        count = min(steps, t + 1)
        roots = ((1 - self.signal[: t + 1]) / self.signal[: t + 1]) ** 0.25
        aims = torch.linspace(1, 0, count + 1).to(roots)[:-1] * roots[t]
        chosen: list[int] = []
        for later, nearest in zip(reversed(range(count)), (roots - aims[:, None]).abs().argmin(dim=1), strict=True):
            # At least one timestep for each of the later ones, and none twice.
            chosen.append(min(max(int(nearest), later), chosen[-1] - 1 if chosen else t))
        return [*chosen, -1]
