"""Fine-tuning of arXiv 2402.13629: on captures purified at varied noise levels, mixed with untouched ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from udc_defense.training.recipes.base import Recipe, Tools, chance, changed, option, register


@register("purified")
@dataclass(frozen=True)
class Purified(Recipe):
    """The paper's: purified captures, mixed with untouched ones; no attack is shown.

    The paper purifies with 50 to 100 steps; the levels here lie around those that this project defends with.
    """

    purifies: ClassVar[bool] = True

    purified: float = option(0.5, 0, 1, "share of captures that are purified; the others stay as they are")
    noise_levels: tuple[int, int] = option((10, 50), 1, 1000, "LOWEST,HIGHEST forward steps, drawn for each capture")

    def loss(
        self, network: nn.Module, captured: Tensor, clean: Tensor, generators: list[torch.Generator], tools: Tools
    ) -> Tensor:
        """L2 of what the network makes of both kinds."""

        def purify(chosen: list[int]) -> Tensor:
            return tools.purified(captured[chosen], self.noise_levels, [generators[index] for index in chosen])

        shown = changed(captured, chance(generators) < self.purified, purify)
        return self.mean(self.fidelity(network(shown).float(), clean, tools))
