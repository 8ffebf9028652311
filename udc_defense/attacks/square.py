"""Square attack (arXiv 1912.00049), its L∞ form: random search over ever smaller squares at the corners of the ball."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from udc_defense.attacks.ball import Ball
from udc_defense.attacks.base import AttackResult, check_inputs, register
from udc_defense.attacks.gradients import loss
from udc_defense.attacks.objectives import Objective, mse
from udc_defense.errors import SettingError
from udc_defense.noise import Generators, split

# Queries, of the paper's 10000, after which the share of the image that a square covers is halved.
BUDGET, HALVED_AFTER = 10_000, (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@register("square", white_box=False)
def square(
    model: nn.Module,
    image: Tensor,
    reference: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 1000,
    objective: Objective = mse,
    draws: int = 1,
    generator: Generators = None,
    p_init: float = 0.8,
) -> Iterator[AttackResult]:
    """Set random squares of the image to ±ε, one sign per channel, and keep those that raise the loss. In L∞.

    It starts from vertical stripes of ±ε. A model with noise of its own is judged by the loss at hand: a lucky draw is
    kept and never asked about again. `losses` holds the best loss after each query.

    Args:
        model: captures -> images; only its outputs are seen.
        image: captures (B, 3, H, W) in [0, 1].
        reference: what damage is measured against, same shape.
        eps: radius of each value, or one per sample.
        steps: queries, that of the stripes counted; the squares shrink at fixed shares of them.
        objective: loss per sample, maximised.
        draws: of the model's own noise, averaged per query.
        generator: of stripes, positions and signs, one or one per sample.
        p_init: share of the image that the first squares cover, above 0 and at most 1.

    Raises:
        SettingError: an argument is out of range, or the model returns another shape.
    """
    check_inputs(model, image, reference, steps)
    if not 0 < p_init <= 1:
        raise SettingError(f"p_init {p_init:g} is not in 0…1, 0 excluded.")
    ball = Ball.around(image, eps)
    corners = torch.stack([ball.project(image - ball.radius), ball.project(image + ball.radius)])
    (generators,) = split(generator, len(image), 1)
    x = _at_corners(corners, _stripes(image, generators), _window(image, 0, 0, image.shape[-2:]))
    best = loss(model, x, reference, objective, draws)
    losses = best.new_empty(len(image), steps)  # one buffer: to append 1000 times would copy quadratically
    losses[:, 0] = best
    yield AttackResult(x, losses[:, :1], draws, 0, 1, steps)
    for step in range(2, steps + 1):
        tried = _with_square(x, corners, side(p_init, step, steps, image), generators)
        value = loss(model, tried, reference, objective, draws)
        raised = value > best
        best = torch.where(raised, value, best)
        x = torch.where(raised.view(-1, 1, 1, 1), tried, x)
        losses[:, step - 1] = best
        yield AttackResult(x, losses[:, :step], step * draws, 0, step, steps)


def share(p_init: float, step: int, steps: int) -> float:
    """Share of the image that the square of query `step` covers; query 1 is the stripes, 2 the first square."""
    return p_init / 2 ** bisect_left(HALVED_AFTER, (step - 2) * BUDGET // steps)


def side(p_init: float, step: int, steps: int, image: Tensor) -> int:
    """Of that square, in pixels; at least 1, and no longer than the image's shorter side."""
    height, width = image.shape[-2:]
    return min(max(round((share(p_init, step, steps) * height * width) ** 0.5), 1), height, width)


def _window(image: Tensor, top: Tensor | int, left: Tensor | int, size: Sequence[int]) -> tuple[Tensor, ...]:
    """Indices of batch, channel, row and column that broadcast to (B, C, size[0], size[1])."""
    batch, channel, row, column = (torch.arange(n) for n in (*image.shape[:2], *size))
    parts = batch.view(-1, 1, 1, 1), channel.view(1, -1, 1, 1), top + row.view(-1, 1), left + column
    return tuple(part.to(image.device) for part in parts)


def _stripes(image: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Signs (B, C, 1, W): 1 for +, 0 for −."""
    shape = image.shape[1], 1, image.shape[-1]
    return torch.stack([torch.randint(2, shape, generator=g) for g in generators]).to(image.device)


def _at_corners(corners: Tensor, signs: Tensor, window: tuple[Tensor, ...]) -> Tensor:
    """The values of a window where each is as far up or down as the ball and [0, 1] allow."""
    return corners[(signs, *window)]


def _with_square(x: Tensor, corners: Tensor, size: int, generators: list[torch.Generator]) -> Tensor:
    """A copy with a random square of each sample at a corner of the ball, another one than it was at."""
    top, left, signs, others = _draw(x, size, generators)
    window = _window(x, top, left, (size, size))
    first, second = (_at_corners(corners, choice.to(x.device), window) for choice in (signs, others))
    # The two corners differ in every channel unless ε = 0, so that only one choice of signs can give x back: where the
    # first does, the second, drawn among the rest, cannot. As in the authors' code, which draws until x changes.
    same = (first == x[window]).flatten(1).all(dim=1).view(-1, 1, 1, 1)
    tried = x.clone()
    tried[window] = torch.where(same, second, first)
    return tried


def _draw(x: Tensor, size: int, generators: list[torch.Generator]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top and left of a square per sample, (B, 1, 1, 1), and two different choices of signs, (B, C, 1, 1)."""
    channels, height, width = x.shape[1:]
    # The last position touches the border, as in the paper; the authors' code stops one short of it.
    bounds = torch.tensor([height - size + 1, width - size + 1, 2**channels, 2**channels - 1])
    shares = torch.stack([torch.rand(4, generator=g, dtype=torch.float64) for g in generators])
    top, left, signs, flips = (shares * bounds).long().view(-1, 4, 1, 1, 1).unbind(dim=1)
    channel = torch.arange(channels).view(1, -1, 1, 1)
    return top, left, signs >> channel & 1, (signs ^ (flips + 1)) >> channel & 1
