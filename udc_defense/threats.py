"""What an attacker sees of a defence, as a module that any attack can be pointed at."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from udc_defense.defense import Defense
from udc_defense.errors import SettingError
from udc_defense.noise import Generators

Kind = Literal["oblivious", "exact"]
KINDS: tuple[Kind, ...] = ("oblivious", "exact")


def threat(defense: Defense, kind: Kind, generator: Generators = None) -> nn.Module:
    """The module that the attacker differentiates.

    Args:
        defense: under attack.
        kind: `oblivious`, the restorer alone, as if nothing were in front of it; `exact`, the gradient through
            purifier and restorer.
        generator: of the purifier's noise, fresh at every call.

    Raises:
        SettingError: the kind is unknown.
    """
    if kind == "oblivious":
        return defense.restorer
    if kind == "exact":
        return _Exact(defense, generator)
    raise SettingError(f"threat {kind!r} is not one of {', '.join(KINDS)}.")


class _Exact(nn.Module):
    def __init__(self, defense: Defense, generator: Generators) -> None:
        super().__init__()
        self.defense, self.generator = defense, generator

    def forward(self, image: Tensor) -> Tensor:
        return self.defense(image, generator=self.generator)
