"""Adversarial fine-tuning for the defense in use: the attacker sees purifier and restorer (arXiv 1706.06083)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from udc_defense.defense import Defense
from udc_defense.errors import SettingError
from udc_defense.threats import threat
from udc_defense.training.loop import bare
from udc_defense.training.purified import PerSample, draw_levels
from udc_defense.training.recipes.base import Recipe, Tools, attacked, chance, changed, option, radii, register


@register("purified_adversarial")
@dataclass(frozen=True)
class PurifiedAdversarial(Recipe):
    """Captures attacked through the purifier and purified again, mixed with purified and untouched ones.

    Noise is fresh at every step of the attack and again for the network, so that no lucky draw is learnt.
    """

    purifies: ClassVar[bool] = True

    attacked: float = option(0.5, 0, 1, "share of captures that are attacked through the purifier, then purified")
    purified: float = option(0.25, 0, 1, "share that are purified only; the others stay as they are")
    noise_levels: tuple[int, int] = option((20, 40), 1, 1000, "LOWEST,HIGHEST forward steps, drawn for each capture")
    eps_in_255ths: float = option(8.0, 0, 64, "largest radius of the attack, drawn for each capture from 0 on")
    attack_steps: int = option(5, 1, 100, "of PGD, each a quarter of the radius")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attacked + self.purified > 1:
            raise SettingError(f"attacked {self.attacked:g} and purified {self.purified:g} are more than all captures.")

    def loss(
        self, network: nn.Module, captured: Tensor, clean: Tensor, generators: list[torch.Generator], tools: Tools
    ) -> Tensor:
        """L2 of what the network makes of all three kinds."""
        assert tools.purifier is not None
        purifier, restorer = tools.purifier, bare(network)

        def attack(chosen: list[int]) -> Tensor:
            own = [generators[index] for index in chosen]
            levels, eps = draw_levels(*self.noise_levels, own), radii(self.eps_in_255ths, own)

            def seen(part: slice) -> nn.Module:
                return threat(Defense(restorer, PerSample(purifier, levels[part], own[part])), "exact")

            worst = attacked(seen, captured[chosen], clean[chosen], eps, self.attack_steps, own)
            with torch.no_grad():
                return PerSample(purifier, levels, own)(worst)

        def purify(chosen: list[int]) -> Tensor:
            return tools.purified(captured[chosen], self.noise_levels, [generators[index] for index in chosen])

        kind = chance(generators)
        is_attacked = kind < self.attacked
        shown = changed(captured, is_attacked, attack)
        shown = changed(shown, ~is_attacked & (kind < self.attacked + self.purified), purify)
        return self.mean(self.fidelity(network(shown).float(), clean, tools))
