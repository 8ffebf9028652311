"""Noise of the same size in a random direction: what an attack must beat to be one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from udc_defense.attacks.ball import Ball, Norm, rms
from udc_defense.attacks.base import AttackResult, register
from udc_defense.attacks.objectives import Objective, mse
from udc_defense.attacks.search import Search
from udc_defense.noise import Generators, normal, split


@register("random_noise", white_box=False)
def random_noise(
    model: nn.Module,
    image: Tensor,
    reference: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 1,
    objective: Objective = mse,
    norm: Norm = "linf",
    draws: int = 1,
    generator: Generators = None,
) -> Iterator[AttackResult]:
    """Add ±ε at random, or Gaussian noise of that root mean square, and keep the worst of all tries.

    Args:
        model: captures -> images; only its outputs are seen.
        image: captures (B, 3, H, W) in [0, 1].
        reference: what damage is measured against, same shape.
        eps: radius, or one per sample: of each value (`linf`), or root mean square over the image (`l2`).
        steps: tries.
        objective: loss per sample, maximised.
        norm: `linf` (random signs) or `l2` (Gaussian).
        draws: of the model's own noise, averaged per try.
        generator: of the noise, one or one per sample.

    Raises:
        SettingError: an argument is out of range, or the model returns another shape.
    """
    search = Search(model, image, reference, objective, draws, steps)
    ball = Ball.around(image, eps, norm)
    for step, generators in enumerate(split(generator, len(image), steps), start=1):
        noise = normal(image, generators)
        delta = noise.sign() if norm == "linf" else noise / rms(noise)
        search.loss(ball.project(image + delta * ball.radius))
        yield search.result(step)
