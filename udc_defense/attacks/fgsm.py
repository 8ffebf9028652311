"""Fast gradient sign method (arXiv 1412.6572): one gradient, one step, in L∞ and in L2."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from udc_defense.attacks.ball import Ball, Norm
from udc_defense.attacks.base import AttackResult, register
from udc_defense.attacks.objectives import Objective, mse
from udc_defense.attacks.search import Search
from udc_defense.noise import Generators, split

# How far from the image the gradient is taken, as a share of the way to a random point of the ball: far enough for a
# gradient in float32 where the one at the image is zero, near enough to be the image's own gradient elsewhere.
NEARBY = 0.01


@register("fgsm")
def fgsm(
    model: nn.Module,
    image: Tensor,
    reference: Tensor,
    *,
    eps: float | Tensor,
    objective: Objective = mse,
    norm: Norm = "linf",
    draws: int = 1,
    generator: Generators = None,
) -> Iterator[AttackResult]:
    """Take one full step of size ε from the image, along the gradient at a random point very near to it.

    At the image itself the gradient is zero wherever the reference is the model's own output. The better of the nearby
    point and the stepped image wins.

    Args:
        model: captures -> images, differentiable.
        image: captures (B, 3, H, W) in [0, 1].
        reference: what damage is measured against, same shape.
        eps: radius, or one per sample: of each value (`linf`), or root mean square over the image (`l2`).
        objective: loss per sample, maximised.
        norm: `linf` (the gradient's sign) or `l2` (along the gradient).
        draws: of the model's own noise, averaged per gradient.
        generator: of the nearby points, one or one per sample.

    Raises:
        SettingError: an argument is out of range, or the model cannot be attacked so.
    """
    search = Search(model, image, reference, objective, draws, steps=1)
    ball = Ball.around(image, eps, norm)
    (generators,) = split(generator, len(image), 1)
    _, gradient = search.gradient(torch.lerp(image, ball.start(generators), NEARBY))
    search.loss(ball.project(image + ball.steepest(gradient) * ball.radius))
    yield search.result(1)
