"""What a sampler is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from udc_defense.diffusion import Diffusion
from udc_defense.registry import by_name


def one_a_step(noise_level: int, steps: int) -> int:
    """Evaluations of a sampler that evaluates the network once a step, at most once per timestep."""
    return min(steps, noise_level)


@dataclass(frozen=True)
class Sampler:
    """Calling it yields the image after each network evaluation from x_t down to x_0; the last one is the result.

    Attributes:
        name: its file's.
        iterate: generator function of (diffusion, x, t, *, steps, generators), and of `eta` where it has one.
        evaluations: (noise level t + 1, steps) -> network evaluations of a draw.
    """

    name: str
    iterate: Callable[..., Iterator[Tensor]]
    evaluations: Callable[[int, int], int]

    def __call__(
        self,
        diffusion: Diffusion,
        x: Tensor,
        t: int,
        *,
        steps: int,
        generators: list[torch.Generator],
        **options: float,
    ) -> Iterator[Tensor]:
        return self.iterate(diffusion, x, t, steps=steps, generators=generators, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return by_name, (self.iterate.__module__, self.iterate.__name__)

    @property
    def has_eta(self) -> bool:
        """Its randomness can be chosen."""
        return "eta" in signature(self.iterate).parameters
