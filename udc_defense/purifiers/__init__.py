"""Purifiers: capture to capture, perturbation removed. One sampler of the diffusion model a file."""

from collections.abc import Callable, Iterator

from torch import Tensor

from udc_defense.purifiers.base import Sampler, one_a_step
from udc_defense.registry import Registry

SAMPLERS: Registry[Sampler] = Registry("udc_defense.purifiers", "purifier", helpers=("base", "diffusion"))


def register(
    name: str, *, evaluations: Callable[[int, int], int] = one_a_step
) -> Callable[[Callable[..., Iterator[Tensor]]], Sampler]:
    """Decorator: make a sampler of a generator function that yields once per network evaluation.

    Args:
        name: its file's name.
        evaluations: (noise level, steps) -> network evaluations of a draw, where it is not one a step.
    """

    def keep(iterate: Callable[..., Iterator[Tensor]]) -> Sampler:
        return SAMPLERS.register(name)(Sampler(name, iterate, evaluations))

    return keep
