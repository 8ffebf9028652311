"""What an attack is, and what it gives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from udc_defense.errors import SettingError
from udc_defense.registry import Registry


@dataclass(frozen=True)
class AttackResult:
    """An attack after `step` of `steps` steps.

    Attributes:
        image: the best adversarial image so far, (B, 3, H, W) in [0, 1].
        losses: of the iterate at each step, (B, evaluations).
        forwards: model evaluations per sample, draws counted.
        backwards: gradients per sample, draws counted.
        step: steps done.
        steps: steps of the whole attack.
    """

    image: Tensor
    losses: Tensor
    forwards: int
    backwards: int
    step: int
    steps: int


class Attack:
    """Calling it runs the attack to its end; `iterate` takes the same arguments and yields after every step."""

    def __init__(self, name: str, iterate: Callable[..., Iterator[AttackResult]]) -> None:
        functools.update_wrapper(self, iterate)
        self.name, self.iterate = name, iterate

    def __call__(self, *args: Any, **options: Any) -> AttackResult:
        *_, result = self.iterate(*args, **options)
        return result

    def __repr__(self) -> str:
        return f"<attack {self.name}>"


ATTACKS: Registry[Attack] = Registry("udc_defense.attacks", "attack", helpers=("base", "gradients", "objectives"))


def register(name: str) -> Callable[[Callable[..., Iterator[AttackResult]]], Attack]:
    """Decorator: make an attack of a generator function that yields an `AttackResult` per step."""

    def keep(iterate: Callable[..., Iterator[AttackResult]]) -> Attack:
        return ATTACKS.register(name)(Attack(name, iterate))

    return keep


def per_sample(value: float | Tensor, image: Tensor, name: str) -> Tensor:
    """A number, or one per sample, as (B, 1, 1, 1).

    Raises:
        SettingError: negative, not finite, or of another length than the batch.
    """
    values = torch.as_tensor(value, dtype=image.dtype, device=image.device)
    if values.dim() > 1 or (values.dim() == 1 and len(values) != len(image)):
        raise SettingError(f"{name} has the shape {tuple(values.shape)}, not one value or {len(image)}.")
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise SettingError(f"{name} {values.tolist()} is negative or not finite.")
    return values.expand(len(image)).reshape(-1, 1, 1, 1)


def check_inputs(model: nn.Module, image: Tensor, reference: Tensor, steps: int) -> None:
    """Refuse what would fail obscurely later.

    Raises:
        SettingError: wrong shapes or ranges, values that are not finite, no steps.
    """
    if image.dim() != 4 or image.shape != reference.shape:
        raise SettingError(
            f"image {tuple(image.shape)} and reference {tuple(reference.shape)} are not equal (B, 3, H, W)."
        )
    if not bool(torch.isfinite(image).all()) or image.min() < 0 or image.max() > 1:
        raise SettingError("the image to attack has values outside [0, 1] or that are not finite.")
    if not bool(torch.isfinite(reference).all()):
        raise SettingError("the reference has values that are not finite.")
    if steps < 1:
        raise SettingError(f"{steps} steps: an attack needs at least 1.")
