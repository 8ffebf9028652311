"""What a sampler is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from udc_defense.diffusion import Diffusion
from udc_defense.options import Option, parse_options, read_options
from udc_defense.registry import by_name

# What samplers share, as far as they take it; whatever else a signature holds is the sampler's own.
SHARED = ("steps", "generators")


def one_a_step(noise_level: int, steps: int) -> int:
    """Evaluations of a sampler that evaluates the network once a step, at most once per timestep."""
    return min(steps, noise_level)


@dataclass(frozen=True)
class Sampler:
    """Calling it yields the image after each network evaluation from x_t down to x_0; the last one is the result.

    Attributes:
        name: its file's.
        iterate: generator function of (diffusion, x, t, *, generators), of `steps` where they can be chosen, and of
            options of its own, such as `eta`.
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
        **options: Any,
    ) -> Iterator[Tensor]:
        if self.takes_steps:
            options["steps"] = steps
        return self.iterate(diffusion, x, t, generators=generators, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return by_name, (self.iterate.__module__, self.iterate.__name__)

    @property
    def takes_steps(self) -> bool:
        """Whether the number of its steps can be chosen."""
        return "steps" in signature(self.iterate).parameters

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """The parameters that it has and others lack."""
        return read_options(self.iterate, SHARED)

    def parse_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option of its own with its value, given or default.

        Raises:
            SettingError: one is unknown, or its value unusable.
        """
        return parse_options(f"purifier {self.name!r}", self.options, given)
