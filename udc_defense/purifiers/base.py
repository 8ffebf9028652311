"""What a sampler sees of the diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

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

    def level(self, t: int) -> float:
        """ᾱ_t; 1 at t = -1, the image itself."""
        return float(self.signal[t]) if t >= 0 else 1.0


class Sampler(Protocol):
    """Yields the image after each reverse step from x_t down to x_0; the last one is the result."""

    def __call__(
        self, diffusion: Diffusion, x: Tensor, t: int, *, steps: int, generators: list[torch.Generator]
    ) -> Iterator[Tensor]: ...
