"""From what a visitor chose to the library's iterator of steps: limits, networks, device, and the cost in advance."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from udc_defense.attacks import ATTACKS
from udc_defense.attacks.objectives import OBJECTIVES
from udc_defense.checkpoints import load_restorer
from udc_defense.defense import Defense
from udc_defense.demo.samples import light
from udc_defense.detection import calibrated
from udc_defense.errors import SettingError
from udc_defense.evaluation import case
from udc_defense.evaluation.purification import Purification
from udc_defense.evaluation.runner import checkpoint_sums, versions
from udc_defense.evaluation.spine import DEFAULT
from udc_defense.images import read_image
from udc_defense.purifiers import SAMPLERS
from udc_defense.restorers.base import Restorer
from udc_defense.threats import KINDS
from udc_defense.transforms import TRANSFORMS

MAX_EPS, MAX_NOISE_LEVEL, MAX_DRAWS = 16, 100, 8
# Steps by default and at most: of attacks that see gradients, and of those that see outputs only and need many more.
GRADIENT_STEPS, QUERY_STEPS = (10, 50), (200, 1000)
# Options that run all steps of an attack again; as often as this allows.
REPEATS, MAX_STEPS_IN_ALL = ("restarts", "searches"), 1000
MAX_SEED = 2**31 - 1
MAX_SIDE = {"cpu": 768, "cuda": 1536}
METHODS = tuple(dict.fromkeys(["none", DEFAULT.sampler, *SAMPLERS.names(), *TRANSFORMS.names()]))
NORMS = ("linf", "l2")
# Of attacks that ask more than once; SimBA does where its first try fails, as about every second does.
QUERIES_PER_STEP = {"simba": 1.5}
PURIFIER_STEPS = 5  # of the methods that can choose


def takes(attack: str) -> frozenset[str]:
    """Which of the parameters that attacks share it takes: eps, steps, norm, objective."""
    return frozenset() if attack == "none" else frozenset(ATTACKS.get(attack).defaults)


def step_limits(attack: str) -> tuple[int, int]:
    """Steps of an attack by default, and at most."""
    return GRADIENT_STEPS if attack == "none" or ATTACKS.get(attack).white_box else QUERY_STEPS


@dataclass(frozen=True)
class Choices:
    """What the visitor chose; the names are those of the API. `noise_level` is the number of forward steps.

    What the attack does not take is ignored, for a hidden slider still has a value; except options, which are in words.
    """

    captured: bool = False
    panel: str = "axon20"
    attack: str = "pgd"
    eps: float = 4
    steps: int | None = None
    defence: str = "one_step"
    noise_level: int = 20
    draws: int = 8
    threat: str = "oblivious"
    objective: str = "mse"
    norm: str = "linf"
    options: str | None = ""
    random_seed: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Sliders stop in the browser only: whoever calls the API meets the limits here."""
        if self.attack != "none":
            _check_name("attack", self.attack, ATTACKS.names())
        _, most = step_limits(self.attack)
        _check("ε", self.eps, 0, MAX_EPS)
        _check("the number of attack steps", self.attack_steps, 1, most)
        _check("the noise level", self.noise_level, 0, MAX_NOISE_LEVEL)
        _check("the number of draws", self.draws, 1, MAX_DRAWS)
        _check("the seed", self.seed, 0, MAX_SEED)
        _check_name("defence", self.defence, METHODS)
        _check_name("norm", self.norm, NORMS)
        _check_name("objective", self.objective, OBJECTIVES)
        _check_name("threat", self.threat, KINDS)
        if self.attack_steps * self.repeats > MAX_STEPS_IN_ALL:
            raise SettingError(f"{self.repeats} runs of the attack's steps are more than {MAX_STEPS_IN_ALL} in all.")

    @property
    def attack_steps(self) -> int:
        """Of one run of the attack; chosen or by default, 1 of an attack without steps."""
        if self.attack != "none" and "steps" not in takes(self.attack):
            return 1
        return step_limits(self.attack)[0] if self.steps is None else self.steps

    @property
    def repeats(self) -> int:
        """How often the attack runs all its steps."""
        return prod(value for name, value in self.attack_options().items() if name in REPEATS)

    def attack_options(self) -> dict[str, Any]:
        """The attack's own, all of them, from a text such as `restarts=2, momentum=0.75`."""
        if self.attack == "none":
            return {}
        given = {}
        for part in filter(str.strip, (self.options or "").split(",")):
            name, equals, value = map(str.strip, part.partition("="))
            if not equals:
                raise SettingError(f"the option {name!r} is not of the form name=value.")
            given[name] = value
        return ATTACKS.get(self.attack).parse_options(given)

    def settings(self) -> case.Settings:
        """For the library. Without a defence, an attacker who knows it is the same as one who does not."""
        shared: dict[str, Any] = {"eps": float(self.eps), "steps": int(self.attack_steps)}
        shared |= {"norm": self.norm, "objective": self.objective}
        against = self.threat if "none" not in (self.attack, self.defence) else "oblivious"
        return case.Settings(
            panel=self.panel,
            attack=self.attack,
            threat=against,  # type: ignore[arg-type]  # one of KINDS
            options=self.attack_options(),
            seed=secrets.randbelow(MAX_SEED) if self.random_seed else int(self.seed),
            **{name: value for name, value in shared.items() if name in takes(self.attack)},
        )

    def purification(self) -> Purification | None:
        """None where there is no defence; a plain transform has its default strength."""
        if self.defence == "none":
            return None
        if self.defence in TRANSFORMS.names():
            return Purification(self.defence)
        level, draws = int(self.noise_level), int(self.draws)
        return Purification(self.defence, level, steps=PURIFIER_STEPS, draws=draws)


def _check(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise SettingError(f"{name} is {value!r}, not a number in {low:g}…{high:g}.")


def _check_name(kind: str, value: Any, names: Iterable[str]) -> None:
    if value not in (known := list(names)):
        raise SettingError(f"the {kind} {value!r} is not one of {', '.join(known)}.")


@dataclass(frozen=True)
class Phase:
    """A part of a run, in a visitor's words; `cost` of each step in network evaluations."""

    words: str
    steps: int
    cost: float

    @property
    def total(self) -> float:
        return max(1, self.steps) * self.cost


def phases(choices: Choices) -> list[Phase]:
    """What a run will do, in its order; each ends when it has added images to the result."""
    evaluations = _evaluations(choices)
    purify = (evaluations, 1.0 + 1.0 / max(1, evaluations))
    attacked = choices.attack != "none"
    plan = [] if choices.captured else [Phase("Simulating the camera", 1, 4)]
    plan += [Phase("Restoring", 1, 1)]
    plan += [_attack_phase(choices), Phase("Trying random noise instead", 1, 1)] if attacked else []
    if choices.defence != "none":
        plan += [Phase("Purifying the untouched capture", *purify)]
        plan += [Phase("Purifying the attacked capture", *purify)] if attacked else []
    return plan


def _attack_phase(choices: Choices) -> Phase:
    """A gradient costs 3 evaluations, of the purifier 4: it forgets its activations and computes them again.

    BPDA takes the purifier for the identity backwards. Who sees outputs only evaluates forwards, whatever the threat.
    """
    of_threat = {
        "oblivious": (0, 0.0),
        "bpda": (_evaluations(choices), 1.0),
        "surrogate": (_evaluations(choices, per_draw=case.Settings.surrogate_steps), 4.0),
        "exact": (_evaluations(choices), 4.0),
    }
    evaluations, gradient_cost = of_threat[choices.threat]
    if ATTACKS.get(choices.attack).white_box:
        cost = 3.0 + gradient_cost * evaluations
    else:
        cost = QUERIES_PER_STEP.get(choices.attack, 1.0) * (1 + evaluations)
    return Phase("Attacking", int(choices.attack_steps) * choices.repeats, cost)


def _evaluations(choices: Choices, per_draw: int = MAX_NOISE_LEVEL) -> int:
    """Of the purifier's network in one pass, with at most so many per draw."""
    if choices.defence not in SAMPLERS.names() or not choices.noise_level:
        return 0
    of_method = SAMPLERS.get(choices.defence).evaluations(int(choices.noise_level), PURIFIER_STEPS)
    return min(of_method, per_draw) * int(choices.draws)


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=1)
def restorer() -> Restorer:
    """Loaded once, before the first visitor comes."""
    return load_restorer().to(device())


def read_photo(path: str) -> tuple[Tensor, str]:
    """A visitor's photo (1, 3, H, W), no larger than this machine can take, and a note where it was made smaller."""
    photo = read_image(path)
    height, width = photo.shape[-2:]
    scale = MAX_SIDE[device()] / max(height, width)
    if scale >= 1:
        return photo, ""
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    smaller = F.interpolate(photo, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    return smaller, f"The photo was scaled down from {width}×{height} to {size[1]}×{size[0]} pixels."


def start(photo: Tensor, choices: Choices, settings: case.Settings) -> Iterator[case.Step]:
    """All stages of one photo; close the iterator to stop."""
    purification = choices.purification()
    defense = Defense(restorer(), purification.load().to(device()) if purification else None)
    if choices.captured:
        return case.run(defense, settings, "photo", captured=photo.to(device()))
    return case.run(defense, settings, "photo", scene=light(photo).to(device()))


def report(choices: Choices, settings: case.Settings, result: case.Result) -> dict[str, Any]:
    """report.json of `udc-defense run`, of one photo."""
    purifier, checkpoints = _facts(choices)
    return {
        "settings": asdict(settings) | {"purifier": purifier, "captured": choices.captured},
        "versions": versions(),
        "checkpoints": checkpoints,
        "detector": None if purifier is None else {"threshold": threshold(choices)},
        "images": [result.report()],
    }


def threshold(choices: Choices) -> float | None:
    """Of the detector; None where it was calibrated for other networks or another defence."""
    purifier, checkpoints = _facts(choices)
    return None if purifier is None else calibrated(purifier, checkpoints)


def _facts(choices: Choices) -> tuple[dict[str, Any] | None, dict[str, str]]:
    purification = choices.purification()
    weights = [purification.weights] if purification and not purification.is_transform else []
    return purification.facts() if purification else None, checkpoint_sums("default", *weights)
