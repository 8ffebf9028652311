"""What a visitor chose, checked, and what the library makes of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

from udc_defense.attacks import ATTACKS
from udc_defense.attacks.objectives import OBJECTIVES
from udc_defense.errors import SettingError
from udc_defense.optics import PANELS
from udc_defense.photo.recipe import check_name
from udc_defense.photo.settings import Settings
from udc_defense.purification import DIFFUSION, Purification
from udc_defense.purifiers import SAMPLERS
from udc_defense.threats import KINDS
from udc_defense.transforms import TRANSFORMS

MAX_EPS, MAX_NOISE_LEVEL, MAX_DRAWS = 16, 100, 8
# Steps by default and at most: of attacks that see gradients, and of those that see outputs only and need many more.
GRADIENT_STEPS, QUERY_STEPS = (10, 50), (200, 1000)
# Options that run all steps of an attack again; as often as this allows.
REPEATS, MAX_STEPS_IN_ALL = ("restarts", "searches"), 1000
MAX_SEED = 2**31 - 1
METHODS = ("none", *ATTACKS.names())
DEFENSES = tuple(dict.fromkeys(["none", DIFFUSION.sampler, *SAMPLERS.names(), *TRANSFORMS.names()]))
NORMS = ("linf", "l2")
PURIFIER_STEPS = 5  # of the samplers that can choose


def takes(method: str) -> frozenset[str]:
    """Which of the parameters that attacks share it takes: eps, steps, norm, objective."""
    return frozenset() if method == "none" else frozenset(ATTACKS.get(method).defaults)


def step_limits(method: str) -> tuple[int, int]:
    """Steps of an attack by default, and at most."""
    return GRADIENT_STEPS if method == "none" or ATTACKS.get(method).white_box else QUERY_STEPS


@dataclass(frozen=True)
class Choices:
    """Everything about a run but its photo; the names are those of the API.

    What the attack does not take is ignored, for a preset may bring it; except options, which are in words.

    Attributes:
        method: of the attack.
        eps: in units of 1/255.
        sampler: of the diffusion model, or a plain transform.
        noise_level: forward steps of diffusion.
        restorer: embedded name or Hub id; None is the owner's.
        purifier: likewise.
        seed: None draws one.
    """

    captured: bool = False
    panel: str = "axon20"
    method: str = "pgd"
    eps: float = 4
    steps: int | None = None
    sampler: str = DIFFUSION.sampler
    noise_level: int = DIFFUSION.noise_level
    draws: int = 1
    threat: str = "oblivious"
    objective: str = "mse"
    norm: str = "linf"
    options: str = ""
    restorer: str | None = None
    purifier: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Fields stop in the browser only: whoever calls the API meets the limits here."""
        _check_name("panel", self.panel, PANELS)
        _check_name("attack method", self.method, METHODS)
        _check_name("defense method", self.sampler, DEFENSES)
        _check_name("norm", self.norm, NORMS)
        _check_name("objective", self.objective, OBJECTIVES)
        _check_name("threat", self.threat, KINDS)
        _, most = step_limits(self.method)
        _check("ε", self.eps, 0, MAX_EPS)
        _check_whole("the number of attack steps", self.attack_steps, 1, most)
        _check_whole("the noise level", self.noise_level, 0, MAX_NOISE_LEVEL)
        _check_whole("the number of draws", self.draws, 1, MAX_DRAWS)
        _check_whole("the seed", 0 if self.seed is None else self.seed, 0, MAX_SEED)
        for kind, name in (("restorer", self.restorer), ("purifier", self.purifier)):
            if name is not None:
                check_name(name, kind)
        if self.attack_steps * self.repeats > MAX_STEPS_IN_ALL:
            raise SettingError(f"{self.repeats} runs of the attack's steps are more than {MAX_STEPS_IN_ALL} in all.")

    @property
    def attack_steps(self) -> int:
        """Of one run of the attack; chosen or by default, 1 of an attack without steps."""
        if self.method != "none" and "steps" not in takes(self.method):
            return 1
        return step_limits(self.method)[0] if self.steps is None else self.steps

    @property
    def repeats(self) -> int:
        """How often the attack runs all its steps."""
        return prod(value for name, value in self.attack_options().items() if name in REPEATS)

    def attack_options(self) -> dict[str, Any]:
        """The attack's own, all of them, from a text such as `restarts=2, momentum=0.75`."""
        if self.method == "none":
            return {}
        given = {}
        for part in filter(str.strip, self.options.split(",")):
            name, equals, value = map(str.strip, part.partition("="))
            if not equals:
                raise SettingError(f"the option {name!r} is not of the form name=value.")
            given[name] = value
        return ATTACKS.get(self.method).parse_options(given)

    def settings(self) -> Settings:
        """For the library. Without a defense, an attacker who knows it is the same as one who does not."""
        shared: dict[str, Any] = {"eps": float(self.eps), "steps": int(self.attack_steps)}
        shared |= {"norm": self.norm, "objective": self.objective}
        against = self.threat if "none" not in (self.method, self.sampler) else "oblivious"
        return Settings(
            panel=self.panel,
            attack=self.method,
            threat=against,  # type: ignore[arg-type]  # one of KINDS
            options=self.attack_options(),
            seed=secrets.randbelow(MAX_SEED) if self.seed is None else int(self.seed),
            **{name: value for name, value in shared.items() if name in takes(self.method)},
        )

    def purification(self, weights: str) -> Purification | None:
        """None where there is no defense; a plain transform has its default strength.

        Args:
            weights: of the diffusion model.
        """
        if self.sampler == "none":
            return None
        if self.sampler in TRANSFORMS.names():
            return Purification(self.sampler)
        level, draws = int(self.noise_level), int(self.draws)
        return Purification(self.sampler, level, steps=PURIFIER_STEPS, draws=draws, weights=weights)


def _check(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise SettingError(f"{name} is {_shown(value)}, not a number in {low:g}…{high:g}.")


def _check_whole(name: str, value: float, low: int, high: int) -> None:
    _check(name, value, low, high)
    if value != int(value):
        raise SettingError(f"{name} is {value!r}, not a whole number in {low}…{high}.")


def _check_name(kind: str, value: Any, names: Iterable[str]) -> None:
    if value not in (known := list(names)):
        raise SettingError(f"the {kind} {_shown(value)} is not one of {', '.join(known)}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
