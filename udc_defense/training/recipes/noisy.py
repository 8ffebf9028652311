"""Fine-tuning on random noise: the control, which knows neither attack nor purifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from udc_defense.attacks.ball import Ball
from udc_defense.noise import normal
from udc_defense.training.recipes.base import Recipe, Tools, chance, option, radii, register


@register("noisy")
@dataclass(frozen=True)
class Noisy(Recipe):
    """The control: random signs of a random size on some captures, the others untouched."""

    noisy: float = option(0.5, 0, 1, "share of captures that get noise; the others stay as they are")
    eps_in_255ths: float = option(8.0, 0, 64, "largest radius of the noise, drawn for each capture from 0 on")

    def loss(
        self, network: nn.Module, captured: Tensor, clean: Tensor, generators: list[torch.Generator], tools: Tools
    ) -> Tensor:
        """L2 of what the network makes of both kinds."""
        eps = torch.where(chance(generators) < self.noisy, radii(self.eps_in_255ths, generators), torch.tensor(0.0))
        ball = Ball.around(captured, eps)
        shown = ball.project(captured + normal(captured, generators).sign() * ball.radius)
        return self.mean(self.fidelity(network(shown).float(), clean, tools))
