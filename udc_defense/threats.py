"""What an attacker sees of a defense, as a module that any attack can be pointed at.

A white-box attack differentiates it; a black-box one queries it: under `oblivious` the restorer, else the defense.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from udc_defense.defense import Defense
from udc_defense.errors import SettingError
from udc_defense.noise import check_generator, seeded
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.transforms.base import Transform

Kind = Literal["oblivious", "bpda", "surrogate", "exact"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WORDS: dict[Kind, str] = {
    "oblivious": "does not know the defense: sees the restorer alone",
    "bpda": "runs the defense, and differentiates a stand-in of the purifier or takes it for the identity "
    "(arXiv 1802.00420)",
    "surrogate": "differentiates a purifier of fewer steps (arXiv 2308.09678)",
    "exact": "differentiates the whole defense",
}


# The same in a cell or a menu, of "the defense".
TITLES: dict[str, str] = {
    "oblivious": "does not know it",
    "bpda": "knows it, BPDA",
    "surrogate": "knows it, surrogate of fewer steps",
    "exact": "knows it, exact gradient",
}
SURROGATE_STEPS = 2  # of the attacker's cheaper purifier, per draw


def threat(
    defense: Defense,
    kind: Kind,
    generator: torch.Generator | None = None,
    *,
    frozen: bool = False,
    surrogate_steps: int = SURROGATE_STEPS,
) -> nn.Module:
    """The module that the attacker has.

    Args:
        defense: under attack.
        kind: one of `KINDS`; `WORDS` says what each knows.
        generator: of the purifier's noise.
        frozen: the noise is the same at every call, as if the defense had lost its randomness; otherwise fresh.
        surrogate_steps: most network evaluations per draw of the surrogate.

    Raises:
        SettingError: the kind is unknown, the generator none, or the purifier has no surrogate of fewer steps.
    """
    check_generator(generator)
    if kind not in KINDS:
        raise SettingError(f"threat {kind!r} is not one of {', '.join(KINDS)}.")
    purifier = defense.purifier
    if kind == "oblivious" or purifier is None:
        return defense.restorer
    if kind == "bpda":
        purifier = _StraightThrough(purifier)
    if kind == "surrogate":
        if not isinstance(purifier, DiffusionPurifier):
            raise SettingError("the surrogate threat needs a diffusion purifier, whose steps can be fewer.")
        purifier = purifier.of_fewer_steps(surrogate_steps)
    return _Seen(Defense(defense.restorer, purifier), generator, frozen)


class _Seen(nn.Module):
    """A defense whose noise comes from a generator of its own, fresh or frozen."""

    def __init__(self, defense: Defense, generator: torch.Generator | None, frozen: bool) -> None:
        super().__init__()
        self.defense, self.generator = defense, generator
        self.frozen = int(torch.randint(2**62, (), generator=generator)) if frozen else None

    def forward(self, image: Tensor) -> Tensor:
        generator = self.generator if self.frozen is None else seeded(self.frozen)
        return self.defense(image, generator=generator)


class _StraightThrough(nn.Module):
    """The purifier forwards; backwards what stands in for it, or the identity."""

    def __init__(self, purifier: nn.Module) -> None:
        super().__init__()
        self.purifier = purifier
        self.stand_in = purifier.stand_in() if isinstance(purifier, Transform) else None

    def forward(self, image: Tensor, **options: Any) -> Tensor:
        with torch.no_grad():
            purified = self.purifier(image, **options)
        return _Replace.apply(self.stand_in(image, **options) if self.stand_in else image, purified)


class _Replace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, differentiated: Tensor, purified: Tensor) -> Tensor:
        return purified.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
