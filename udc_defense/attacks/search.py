"""What every attack keeps while it searches: the best iterate, all losses, and the cost."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from udc_defense.attacks.base import AttackResult, check_inputs
from udc_defense.attacks.gradients import loss, loss_and_grad
from udc_defense.attacks.objectives import Objective


class Search:
    """Evaluates the model for an attack and remembers what it saw.

    Args:
        model: captures -> images.
        image: captures (B, 3, H, W) in [0, 1].
        reference: what damage is measured against, same shape.
        objective: loss per sample, maximised.
        draws: of the model's own noise, averaged per evaluation.
        steps: of the whole attack.

    Raises:
        SettingError: an argument is out of range.
    """

    def __init__(
        self, model: nn.Module, image: Tensor, reference: Tensor, objective: Objective, draws: int, steps: int
    ) -> None:
        check_inputs(model, image, reference, steps)
        self.model, self.reference, self.objective, self.draws, self.steps = model, reference, objective, draws, steps
        self.best, self.best_loss = image, image.new_full((len(image),), -torch.inf)
        self.losses = image.new_zeros(len(image), 0)
        self.forwards = self.backwards = self.zero_gradients = 0

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,) and gradient (B, 3, H, W) at x."""
        value, gradient = loss_and_grad(self.model, x, self.reference, self.objective, self.draws)
        self.backwards += self.draws
        self.zero_gradients += int((gradient.flatten(1).abs().amax(dim=1) == 0).sum())
        self._keep(x, value)
        return value, gradient

    def loss(self, x: Tensor) -> Tensor:
        """Loss (B,) at x, without a gradient."""
        value = loss(self.model, x, self.reference, self.objective, self.draws)
        self._keep(x, value)
        return value

    def result(self, step: int) -> AttackResult:
        """What the attack knows after this step."""
        return AttackResult(
            self.best,
            self.losses,
            self.forwards,
            self.backwards,
            step,
            self.steps,
            zero_gradients=self.zero_gradients,
        )

    def _keep(self, x: Tensor, value: Tensor) -> None:
        self.forwards += self.draws
        self.losses = torch.cat([self.losses, value[:, None]], dim=1)
        better = value > self.best_loss
        self.best = torch.where(better.view(-1, 1, 1, 1), x, self.best)
        self.best_loss = torch.where(better, value, self.best_loss)
