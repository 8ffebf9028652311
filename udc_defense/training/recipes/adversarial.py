"""Adversarial fine-tuning with the balance of TRADES (arXiv 1901.08573), no purifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from udc_defense.attacks.objectives import mse
from udc_defense.training.loop import bare
from udc_defense.training.recipes.base import Recipe, Tools, attacked, option, radii, register


@register("adversarial")
@dataclass(frozen=True)
class Adversarial(Recipe):
    """TRADES: L2 on clean captures + balance · the distance by which PGD moves the output; no purifier."""

    eps_in_255ths: float = option(8.0, 0, 64, "largest radius of the attack, drawn for each capture from 0 on")
    attack_steps: int = option(5, 1, 100, "of PGD, each a quarter of the radius")
    balance: float = option(1.0, 0, 100, "weight of staying the same under attack, TRADES's 1/λ")

    def loss(
        self, network: nn.Module, captured: Tensor, clean: Tensor, generators: list[torch.Generator], tools: Tools
    ) -> Tensor:
        """L(f(x), y) + β · max over δ of L2(f(x + δ), f(x)), eq. 5 with the L2 of a regression."""
        eps, model = radii(self.eps_in_255ths, generators), bare(network)
        with torch.no_grad():
            own = model(captured).float()
        worst = attacked(lambda part: model, captured, own, eps, self.attack_steps, generators)
        # One call: processes share the gradients of one forward pass.
        restored, disturbed = network(torch.cat([captured, worst])).float().chunk(2)
        return self.mean(self.fidelity(restored, clean, tools) + self.balance * mse(disturbed, restored))
