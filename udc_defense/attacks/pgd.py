"""Projected gradient descent (arXiv 1706.06083) with a random start, restarts and momentum, in L∞ and in L2."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from udc_defense.attacks.ball import Ball, Norm
from udc_defense.attacks.base import AttackResult, register
from udc_defense.attacks.objectives import Objective, mse
from udc_defense.attacks.search import Search
from udc_defense.errors import SettingError
from udc_defense.noise import Generators, split


@register("pgd")
def pgd(
    model: nn.Module,
    image: Tensor,
    reference: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 20,
    objective: Objective = mse,
    norm: Norm = "linf",
    draws: int = 1,
    generator: Generators = None,
    restarts: int = 1,
    momentum: float = 0.0,
) -> Iterator[AttackResult]:
    """Maximise the objective within a ball around the image and within [0, 1]; step size ε/4, random start.

    The random start is not optional: where the reference is the model's own output, the gradient at δ = 0 is zero.

    Args:
        model: captures -> images, differentiable.
        image: captures (B, 3, H, W) in [0, 1].
        reference: what damage is measured against, same shape.
        eps: radius, or one per sample: of each value (`linf`), or root mean square over the image (`l2`).
        steps: gradient steps of each restart.
        objective: loss per sample, maximised.
        norm: `linf` (sign steps) or `l2` (steps along the gradient).
        draws: of the model's own noise, averaged per gradient.
        generator: of the random starts, one or one per sample.
        restarts: runs from random starts of their own; the best iterate of all wins.
        momentum: share of the last direction that is kept (arXiv 1710.06081); 0 is plain PGD.

    Raises:
        SettingError: an argument is out of range, or the model cannot be attacked so.
    """
    if restarts < 1:
        raise SettingError(f"{restarts} restarts: an attack needs at least 1.")
    if not 0 <= momentum < 1:
        raise SettingError(f"momentum {momentum:g} is not in 0…1, 1 excluded.")
    search = Search(model, image, reference, objective, draws, steps * restarts)
    ball = Ball.around(image, eps, norm)
    for restart, generators in enumerate(split(generator, len(image), restarts)):
        x, direction = ball.start(generators), torch.zeros_like(image)
        for step in range(1, steps + 1):
            _, gradient = search.gradient(x)
            direction = momentum * direction + _scaled(gradient)
            x = ball.project(x + ball.steepest(direction) * ball.radius / 4)
            if step == steps:
                search.loss(x)
            yield search.result(restart * steps + step)


def _scaled(gradient: Tensor) -> Tensor:
    """To a mean magnitude of 1 per sample, so that momentum does not depend on the loss's scale."""
    return gradient / gradient.flatten(1).abs().mean(dim=1).view(-1, 1, 1, 1).clamp_min(1e-20)
