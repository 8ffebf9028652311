"""SimBA (arXiv 1905.07121): one image of an orthogonal basis after the other, added or subtracted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from udc_defense.attacks.ball import Ball
from udc_defense.attacks.base import AttackResult, check_inputs, register
from udc_defense.attacks.gradients import loss
from udc_defense.attacks.objectives import Objective, mse, select
from udc_defense.dct import dct_matrix
from udc_defense.errors import SettingError
from udc_defense.noise import Generators, split

# Of the cosines, the paper tries the lowest 1/8 of the frequencies of each axis first; once used up, 1/32 more.
PARTS, FIRST_PARTS = 32, 4


@register("simba", white_box=False)
def simba(
    model: nn.Module,
    image: Tensor,
    reference: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 1000,
    objective: Objective = mse,
    draws: int = 1,
    generator: Generators = None,
    basis: Literal["pixel", "dct"] = "pixel",
) -> Iterator[AttackResult]:
    """Try +ε along a basis image, then −ε where that did not raise the loss; keep what raised it. In L∞.

    The basis images come in random order, none twice before all were tried. A model with noise of its own is judged by
    the loss at hand: a lucky draw is kept and never asked about again. `losses` holds the best loss after each
    iteration, that of the image itself first.

    Args:
        model: captures -> images; only its outputs are seen.
        image: captures (B, 3, H, W) in [0, 1].
        reference: what damage is measured against, same shape.
        eps: radius of each value, or one per sample; also the step size.
        steps: iterations, of one or two queries each; the image itself is one query more.
        objective: loss per sample, maximised.
        draws: of the model's own noise, averaged per query.
        generator: of the order of basis images, one or one per sample.
        basis: `pixel` changes one value of one pixel by ε; `dct` adds a cosine of magnitude ε to one channel, low
            frequencies first, cut to the ball and to [0, 1].

    Raises:
        SettingError: an argument is out of range, or the model returns another shape.
    """
    check_inputs(model, image, reference, steps)
    directions, ball = make_basis(basis, image), Ball.around(image, eps)
    (generators,) = split(generator, len(image), 1)
    orders = [_endless(directions, steps, g) for g in generators]

    def ask(x: Tensor, rows: Tensor) -> Tensor:
        chosen = objective if len(rows) == len(image) else select(objective, rows.tolist())
        return loss(model, x, _pick(reference, rows), chosen, draws)

    walk, everyone = _Walk(ball, ask), torch.arange(len(image), device=image.device)
    losses = walk.best.new_empty(len(image), steps + 1)  # one buffer: to append 1000 times would copy quadratically
    losses[:, 0] = walk.best
    for step in range(1, steps + 1):
        move = ball.radius * directions.images([next(order) for order in orders])
        failed = walk.add(move, everyone)
        if len(failed):
            walk.add(-move, failed)
        losses[:, step] = walk.best
        queries = walk.queries * draws
        yield AttackResult(walk.x, losses[:, : step + 1], int(queries.max()), 0, step, steps, queries=queries)


class _Walk:
    """Where each sample is, its loss there, and how often it asked."""

    def __init__(self, ball: Ball, ask: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.ask, self.x = ask, ball.image
        # Clamping to corners, unlike projecting anew, leaves the values that a move does not touch bit for bit.
        self.low, self.high = ball.project(ball.image - ball.radius), ball.project(ball.image + ball.radius)
        self.best = ask(self.x, torch.arange(len(self.x), device=self.x.device))
        self.queries = torch.ones(len(self.x), dtype=torch.long)

    def add(self, move: Tensor, rows: Tensor) -> Tensor:
        """Move these samples where that raises the loss; the rows where it does not."""
        start, move, low, high = (_pick(values, rows) for values in (self.x, move, self.low, self.high))
        tried = (start + move).clamp_(low, high)
        value = self.ask(tried, rows)
        self.queries[rows.cpu()] += 1
        # Where there was no room to move, rounding or the model's noise would pass for a gain and spare the −.
        raised = (value > _pick(self.best, rows)) & (tried != start).flatten(1).any(dim=1)
        kept = raised.nonzero().flatten()
        self.x = _put(self.x, rows[kept], _pick(tried, kept))
        self.best = _put(self.best, rows[kept], _pick(value, kept))
        return rows[~raised]


class Basis(Protocol):
    """Orthogonal images of magnitude 1, numbered from 0."""

    def order(self, generator: torch.Generator) -> Tensor:
        """All numbers, in the order in which to try them."""

    def images(self, numbers: list[int]) -> Tensor:
        """The image of each number, (B, C, H, W)."""


def make_basis(name: str, like: Tensor) -> Basis:
    """The basis of images in the shape of `like`'s samples.

    Raises:
        SettingError: no basis has that name.
    """
    if name not in BASES:
        raise SettingError(f"basis {name!r} is not one of {', '.join(BASES)}.")
    return BASES[name](like)


class Pixels:
    """One value of one pixel is 1."""

    def __init__(self, like: Tensor) -> None:
        self.like = like

    def order(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(self.like[0].numel(), generator=generator)

    def images(self, numbers: list[int]) -> Tensor:
        flat = self.like.new_zeros(len(numbers), self.like[0].numel())
        flat[range(len(numbers)), numbers] = 1
        return flat.view(-1, *self.like.shape[1:])


class Cosines:
    """One channel is a cosine in y times a cosine in x."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.vertical, self.horizontal = (_of_magnitude_one(dct_matrix(size, like)) for size in like.shape[-2:])

    def order(self, generator: torch.Generator) -> Tensor:
        channels, height, width = self.like.shape[1:]
        band = torch.maximum(_band(height)[:, None], _band(width)).flatten().repeat(channels)
        order = torch.randperm(len(band), generator=generator)
        return order[band[order].argsort(stable=True)]

    def images(self, numbers: list[int]) -> Tensor:
        height, width = self.like.shape[-2:]
        images = self.like.new_zeros(len(numbers), *self.like.shape[1:])
        for image, number in zip(images, numbers, strict=True):
            channel, v, u = number // (height * width), number // width % height, number % width
            torch.outer(self.vertical[v], self.horizontal[u], out=image[channel])
        return images


BASES: dict[str, type[Pixels] | type[Cosines]] = {"pixel": Pixels, "dct": Cosines}


def _of_magnitude_one(rows: Tensor) -> Tensor:
    return rows / rows.abs().amax(dim=1, keepdim=True)


def _band(size: int) -> Tensor:
    """Of each frequency of an axis: 0 in the paper's first part, then one more for every further part."""
    return (PARTS * torch.arange(size) // size - FIRST_PARTS + 1).clamp_min(0)


def _endless(basis: Basis, steps: int, generator: torch.Generator) -> Iterator[int]:
    """The order of a basis, then another one; no more of each than `steps` can use is kept."""
    while True:
        yield from basis.order(generator)[:steps].tolist()


def _pick(values: Tensor, rows: Tensor) -> Tensor:
    """Some samples; not copied where they are all."""
    return values if len(rows) == len(values) else values[rows]


def _put(values: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """With some samples replaced; out of place, because the results already given hold the old tensor."""
    if len(rows) == 0:
        return values
    return new if len(rows) == len(values) else values.index_copy(0, rows, new)
