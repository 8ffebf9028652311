"""Auto-PGD (arXiv 2003.01690, algorithm 1): PGD that chooses its step size itself, per sample, in L∞ and in L2."""

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

ALPHA = 0.75  # share of the new step against the last move
RHO = 0.75  # share of steps that must improve, else the step is too large


@register("apgd")
def apgd(
    model: nn.Module,
    image: Tensor,
    reference: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 100,
    objective: Objective = mse,
    norm: Norm = "linf",
    draws: int = 1,
    generator: Generators = None,
    restarts: int = 1,
) -> Iterator[AttackResult]:
    """Maximise the objective with momentum and steps of 2ε that halve, at the best point so far, where they fail.

    Args:
        model: captures -> images, differentiable.
        image: captures (B, 3, H, W) in [0, 1].
        reference: what damage is measured against, same shape.
        eps: radius, or one per sample: of each value (`linf`), or root mean square over the image (`l2`).
        steps: gradient steps of each restart; the checkpoints are shares of them.
        objective: loss per sample, maximised.
        norm: `linf` (sign steps) or `l2` (steps along the gradient).
        draws: of the model's own noise, averaged per gradient.
        generator: of the random starts, one or one per sample.
        restarts: runs from random starts of their own; the best iterate of all wins.

    Raises:
        SettingError: an argument is out of range, or the model cannot be attacked so.
    """
    if restarts < 1:
        raise SettingError(f"{restarts} restarts: an attack needs at least 1.")
    search = Search(model, image, reference, objective, draws, steps * restarts)
    ball, due = Ball.around(image, eps, norm), checkpoints(steps)
    for restart, generators in enumerate(split(generator, len(image), restarts)):
        x = previous = ball.start(generators)
        run = _Run(x, ball)
        for step in range(steps):
            value, gradient = search.gradient(x)
            run.record(x, value, gradient)
            if step in due:
                x, gradient = run.check(step, x, gradient)
            # The first step has no last move. After a jump to the best point, that jump is it, as in the paper.
            alpha = ALPHA if step else 1.0
            climbed = ball.project(x + ball.steepest(gradient) * run.size)
            x, previous = ball.project(x + alpha * (climbed - x) + (1 - alpha) * (x - previous)), x
            if step + 1 == steps:
                search.loss(x)
            yield search.result(restart * steps + step + 1)


def checkpoints(steps: int) -> list[int]:
    """Steps at which the step size is checked: ⌈p·steps⌉, p = 0, 0.22, 0.41, … with periods that shrink to 0.06."""
    percents = [0, 22]
    while percents[-1] < 100:
        percents.append(percents[-1] + max(percents[-1] - percents[-2] - 3, 6))
    # In whole percents: ⌈0.57 · 100⌉ is 58 as soon as a sum of floats is not quite 0.57. Few steps repeat some.
    return sorted({-(-percent * steps // 100) for percent in percents if percent <= 100})


class _Run:
    """What each sample of one run remembers: its best point, its step size, and how it fared since its checkpoint."""

    def __init__(self, start: Tensor, ball: Ball) -> None:
        self.size = 2 * ball.radius
        self.best, self.best_gradient = start, torch.zeros_like(start)
        self.best_value = self.checked_value = start.new_full((len(start),), -torch.inf)
        self.last_value = -self.best_value
        self.halved = torch.zeros(len(start), dtype=torch.bool, device=start.device)
        self.improved = torch.zeros_like(self.best_value)
        self.checked_step = 0

    def record(self, x: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Remember an iterate with its loss and gradient."""
        self.improved = self.improved + (value > self.last_value)
        self.last_value = value
        better = value > self.best_value
        self.best_value = torch.where(better, value, self.best_value)
        self.best = _pick(better, x, self.best)
        self.best_gradient = _pick(better, gradient, self.best_gradient)

    def check(self, step: int, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Halve steps that fail; the point and gradient to go on from: the best ones where halved, else the given."""
        oscillates = self.improved < RHO * (step - self.checked_step)  # condition 1
        stuck = ~self.halved & (self.best_value == self.checked_value)  # condition 2
        self.halved = oscillates | stuck
        self.size = _pick(self.halved, self.size / 2, self.size)
        self.last_value = torch.where(self.halved, self.best_value, self.last_value)
        self.improved, self.checked_value = torch.zeros_like(self.improved), self.best_value
        self.checked_step = step
        return _pick(self.halved, self.best, x), _pick(self.halved, self.best_gradient, gradient)


def _pick(choice: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(choice.view(-1, 1, 1, 1), a, b)
