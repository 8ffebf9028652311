"""Projected gradient descent (arXiv 1706.06083) with a random start, in L∞ and in L2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from udc_defense.attacks.base import AttackResult, check_inputs, per_sample, register
from udc_defense.attacks.gradients import loss_and_grad
from udc_defense.attacks.objectives import Objective, mse
from udc_defense.errors import SettingError
from udc_defense.noise import Generators, split, uniform


@register("pgd")
def pgd(
    model: nn.Module,
    image: Tensor,
    reference: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 20,
    objective: Objective = mse,
    norm: Literal["linf", "l2"] = "linf",
    draws: int = 1,
    generator: Generators = None,
) -> Iterator[AttackResult]:
    """Maximise the objective within a ball around the image and within [0, 1]; step size ε/4, random start.

    The random start is not optional: where the reference is the model's own output, the gradient at δ = 0 is zero.

    Args:
        model: captures -> images, differentiable.
        image: captures (B, 3, H, W) in [0, 1].
        reference: what damage is measured against, same shape.
        eps: radius, or one per sample: of each value (`linf`), or root mean square over the image (`l2`).
        steps: gradient steps.
        objective: loss per sample, maximised.
        norm: `linf` (sign steps) or `l2` (steps along the gradient).
        draws: of the model's own noise, averaged per gradient.
        generator: of the random start, one or one per sample.

    Raises:
        SettingError: an argument is out of range, or the model cannot be attacked so.
    """
    check_inputs(model, image, reference, steps)
    if norm not in ("linf", "l2"):
        raise SettingError(f"norm {norm!r} is neither linf nor l2.")
    radius = per_sample(eps, image, "eps")
    project, direction = (_clip, torch.sign) if norm == "linf" else (_shrink, _unit)
    (generators,) = split(generator, len(image), 1)
    start = project(uniform(image, generators) * radius, radius)
    x = best = (image + start).clamp(0, 1)
    best_loss, losses = image.new_full((len(image),), -torch.inf), image.new_zeros(len(image), 0)
    for step in range(1, steps + 1):
        value, gradient = loss_and_grad(model, x, reference, objective, draws)
        best, best_loss, losses = _keep(x, value, best, best_loss, losses)
        x = (image + project(x + direction(gradient) * radius / 4 - image, radius)).clamp(0, 1)
        forwards = step * draws
        if step == steps:
            value = _loss(model, x, reference, objective, draws)
            best, best_loss, losses = _keep(x, value, best, best_loss, losses)
            forwards += draws
        yield AttackResult(best, losses, forwards, step * draws, step, steps)


def _keep(x: Tensor, value: Tensor, best: Tensor, best_loss: Tensor, losses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Best iterate of each sample, and the losses so far."""
    better = value > best_loss
    best = torch.where(better.view(-1, 1, 1, 1), x, best)
    return best, torch.where(better, value, best_loss), torch.cat([losses, value[:, None]], dim=1)


@torch.no_grad()
def _loss(model: nn.Module, x: Tensor, reference: Tensor, objective: Objective, draws: int) -> Tensor:
    return torch.stack([objective(model(x), reference) for _ in range(draws)]).mean(dim=0)


def _clip(delta: Tensor, radius: Tensor) -> Tensor:
    return delta.clamp(-radius, radius)


def _shrink(delta: Tensor, radius: Tensor) -> Tensor:
    """Project onto the ball of root-mean-square radius."""
    return delta * (radius / _rms(delta)).clamp_max(1.0)


def _unit(gradient: Tensor) -> Tensor:
    """The gradient scaled to a root mean square of 1."""
    return gradient / _rms(gradient)


def _rms(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp_min(1e-20) / values[0].numel() ** 0.5
