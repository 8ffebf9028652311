"""One perturbation for many captures (arXiv 1610.08401), by gradient ascent on their mean loss (arXiv 1811.11304)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from udc_defense.attacks.ball import Ball, Norm
from udc_defense.attacks.base import AttackResult, check_inputs, register
from udc_defense.attacks.gradients import loss, loss_and_grad
from udc_defense.attacks.objectives import Objective, mse
from udc_defense.errors import SettingError
from udc_defense.noise import Generators, split, uniform

Batches = Iterable[tuple[Tensor, Tensor]]


@register("universal")
def universal(
    model: nn.Module,
    image: Tensor,
    reference: Tensor,
    *,
    eps: float,
    steps: int = 20,
    objective: Objective = mse,
    norm: Norm = "linf",
    draws: int = 1,
    generator: Generators = None,
) -> Iterator[AttackResult]:
    """Maximise the mean objective of the batch with one δ for all its samples; step size ε/4, random start.

    For more captures than fit into memory, and for δ itself, there is `perturbation`.

    Args:
        model: captures -> images, differentiable.
        image: captures (B, 3, H, W) in [0, 1].
        reference: what damage is measured against, same shape.
        eps: radius of δ: of each value (`linf`), or root mean square (`l2`).
        steps: gradient steps.
        objective: loss per sample, maximised in the mean.
        norm: `linf` (sign steps) or `l2` (steps along the gradient).
        draws: of the model's own noise, averaged per gradient.
        generator: of the random start; of one per sample, the first.

    Raises:
        SettingError: an argument is out of range, or the model cannot be attacked so.
    """
    check_inputs(model, image, reference, steps)
    start = split(generator, len(image), 1)[0][0]
    losses, zero_gradients = image.new_zeros(len(image), 0), 0
    for state in perturbation(
        model,
        [(image, reference)],
        eps=eps,
        steps=steps,
        objective=objective,
        norm=norm,
        draws=draws,
        generator=start,
    ):
        losses = torch.cat([losses, state.losses[:, None]], dim=1)
        zero_gradients += state.zero_gradients
        # The last step is done when its δ is evaluated, one pass later.
        if state.number != steps:
            step = min(state.number, steps)
            forwards, backwards = draws * state.number, draws * step
            attacked = (image + state.delta).clamp(0, 1)
            yield AttackResult(attacked, losses, forwards, backwards, step, steps, zero_gradients=zero_gradients)


@dataclass(frozen=True)
class Pass:
    """The search for one δ after a pass over the captures.

    Attributes:
        delta: the best δ so far by mean loss, (1, 3, H, W); it is added to a capture, then [0, 1] cuts.
        mean_loss: of the δ of this pass over all captures, which need not be the best.
        losses: of the δ of this pass, per capture in the order of the pass, (N,).
        zero_gradients: captures whose gradient was zero at every value.
        number: passes done.
        total: passes of the whole search.
    """

    delta: Tensor
    mean_loss: float
    losses: Tensor
    zero_gradients: int
    number: int
    total: int


def perturbation(
    model: nn.Module,
    loader: Batches,
    *,
    eps: float,
    steps: int = 20,
    objective: Objective = mse,
    norm: Norm = "linf",
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> Iterator[Pass]:
    """Search δ over batches that are read one at a time; the δ of the last `Pass` is the result.

    A pass takes the mean gradient of all captures at one δ, then one step; a last pass evaluates the last δ.

    Args:
        model: captures -> images, differentiable.
        loader: gives (captures, references) of one size in every pass, such as a list or a `DataLoader`; batches may
            differ in number.
        eps: radius of δ: of each value (`linf`), or root mean square (`l2`).
        steps: gradient steps; the loader is read once more than that.
        objective: loss per sample, maximised in the mean.
        norm: `linf` (sign steps) or `l2` (steps along the gradient).
        draws: of the model's own noise, averaged per gradient.
        generator: of the random start.

    Raises:
        SettingError: an argument is out of range, the loader is empty, can be read only once or has captures of
            several sizes, or the model cannot be attacked so.
    """
    if steps < 1:
        raise SettingError(f"{steps} steps: an attack needs at least 1.")
    if isinstance(loader, Iterator):
        raise SettingError(f"the loader, a {type(loader).__name__}, can be read only once: every step reads it.")
    shared = _Shared(eps, norm, split(generator, 1, 1)[0])
    for number in range(1, steps + 2):
        losses, zero_gradients, is_last = [], 0, number == steps + 1
        for image, reference in loader:
            check_inputs(model, image, reference, steps)
            x = shared.add_to(image)
            if is_last:
                value = loss(model, x, reference, objective, draws)
            else:
                value, gradient = loss_and_grad(model, x, reference, objective, draws)
                zero_gradients += int((gradient.flatten(1).abs().amax(dim=1) == 0).sum())
                shared.collect(image, gradient)
            losses.append(value)
        if not losses:
            raise SettingError(f"the loader gives no captures in pass {number}.")
        found = torch.cat(losses)
        mean_loss = float(found.mean())
        shared.step(mean_loss)
        yield Pass(shared.best, mean_loss, found, zero_gradients, number, steps + 1)


class _Shared:
    """The δ of all captures; it and its ball have a size only once the first of them has come."""

    ball: Ball
    delta: Tensor
    best: Tensor
    gradient: Tensor

    def __init__(self, eps: float, norm: Norm, generators: list[torch.Generator]) -> None:
        self.eps, self.norm, self.generators = eps, norm, generators
        self.best_loss = -torch.inf

    def add_to(self, image: Tensor) -> Tensor:
        if not hasattr(self, "delta"):
            self._start(image)
        if image.shape[1:] != self.delta.shape[1:]:
            sizes = " and ".join(" × ".join(map(str, shape[-2:])) for shape in (self.delta.shape, image.shape))
            raise SettingError(f"captures of {sizes} pixels cannot share one perturbation.")
        return (image + self.delta).clamp(0, 1)

    def collect(self, image: Tensor, gradient: Tensor) -> None:
        """Add the batch's gradients, those that lead further out of [0, 1] left out.

        There δ has no effect on this capture and only the others should decide. The gradient through the clamp would
        leave out the way back, too, and δ could stay where it does nothing.
        """
        moved = image + self.delta
        outward = ((moved < 0) & (gradient < 0)) | ((moved > 1) & (gradient > 0))
        self.gradient = self.gradient + torch.where(outward, 0, gradient).sum(dim=0, keepdim=True)

    def step(self, mean_loss: float) -> None:
        """Keep δ if it is the best, then move it along what was collected."""
        if mean_loss > self.best_loss:
            self.best, self.best_loss = self.delta, mean_loss
        # The sum and the mean have the same direction, and a step has its own length.
        # Onto the ball alone: where [0, 1] cuts differs between captures.
        self.delta = self.ball.shorten(self.delta + self.ball.steepest(self.gradient) * self.ball.radius / 4)
        self.gradient = torch.zeros_like(self.delta)

    def _start(self, image: Tensor) -> None:
        self.best = self.gradient = torch.zeros_like(image[:1])
        self.ball = Ball.around(self.best, self.eps, self.norm)
        self.delta = self.ball.shorten(uniform(self.best, self.generators) * self.ball.radius)
