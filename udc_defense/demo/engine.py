"""From what a visitor chose to the library's iterator of steps: limits, networks, device, and the cost in advance."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from udc_defense.checkpoints import load_purifier, load_restorer
from udc_defense.defense import Defense
from udc_defense.demo.samples import light
from udc_defense.errors import SettingError
from udc_defense.evaluation import case
from udc_defense.evaluation.runner import checkpoint_sums, versions
from udc_defense.images import read_image
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.restorers.base import Restorer

MAX_EPS, MAX_STEPS, MAX_NOISE_LEVEL, MAX_DRAWS = 16, 50, 100, 8
MAX_SEED = 2**31 - 1
MAX_SIDE = {"cpu": 768, "cuda": 1536}
METHODS = ("none", "one_step", "ddim", "ddpm")
PURIFIER_STEPS = 5  # of ddim, the only method that can choose


@dataclass(frozen=True)
class Choices:
    """What the visitor chose; the names are those of the API. `noise_level` is the number of forward steps."""

    captured: bool = False
    panel: str = "axon20"
    attack: bool = True
    eps: float = 4
    steps: int = 10
    defence: str = "one_step"
    noise_level: int = 20
    draws: int = 8
    knows_defence: bool = False
    norm: str = "linf"
    random_seed: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Sliders stop in the browser only: whoever calls the API meets the limits here."""
        _check("ε", self.eps, 0, MAX_EPS)
        _check("the number of attack steps", self.steps, 1, MAX_STEPS)
        _check("the noise level", self.noise_level, 0, MAX_NOISE_LEVEL)
        _check("the number of draws", self.draws, 1, MAX_DRAWS)
        _check("the seed", self.seed, 0, MAX_SEED)
        if self.defence not in METHODS:
            raise SettingError(f"the defence {self.defence!r} is not one of {', '.join(METHODS)}.")
        if self.norm not in ("linf", "l2"):
            raise SettingError(f"the norm {self.norm!r} is neither linf nor l2.")

    def settings(self) -> case.Settings:
        """For the library. Without a defence, an attacker who knows it is the same as one who does not."""
        return case.Settings(
            panel=self.panel,
            attack="pgd" if self.attack else "none",
            norm="l2" if self.norm == "l2" else "linf",
            eps=float(self.eps),
            steps=int(self.steps),
            threat="exact" if self.knows_defence and self.defence != "none" else "oblivious",
            seed=secrets.randbelow(MAX_SEED) if self.random_seed else int(self.seed),
        )

    def purifier(self) -> dict[str, Any] | None:
        """Options of the purifier; none where there is no defence."""
        if self.defence == "none":
            return None
        chosen = {"sampler": self.defence, "noise_level": int(self.noise_level), "draws": int(self.draws)}
        return chosen | {"steps": PURIFIER_STEPS, "aggregate": "mean"}


def _check(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise SettingError(f"{name} is {value!r}, not a number in {low:g}…{high:g}.")


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
    known = evaluations if choices.knows_defence else 0
    purify = (evaluations, 1.0 + 1.0 / max(1, evaluations))
    plan = [] if choices.captured else [Phase("Simulating the camera", 1, 4)]
    plan += [Phase("Restoring", 1, 1)]
    if choices.attack:
        plan += [Phase("Attacking", int(choices.steps), 3.0 + 4.0 * known), Phase("Trying random noise instead", 1, 1)]
    if choices.defence != "none":
        plan += [Phase("Purifying the untouched capture", *purify)]
        plan += [Phase("Purifying the attacked capture", *purify)] if choices.attack else []
    return plan


def _evaluations(choices: Choices) -> int:
    if choices.defence == "none" or not choices.noise_level:
        return 0
    level = int(choices.noise_level)
    per_draw = {"one_step": 1, "ddpm": level, "ddim": min(PURIFIER_STEPS, level)}[choices.defence]
    return per_draw * int(choices.draws)


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
    options = choices.purifier()
    purifier: DiffusionPurifier | None = load_purifier(**options).to(device()) if options else None
    defense = Defense(restorer(), purifier)
    if choices.captured:
        return case.run(defense, settings, "photo", captured=photo.to(device()))
    return case.run(defense, settings, "photo", scene=light(photo).to(device()))


def report(choices: Choices, settings: case.Settings, result: case.Result) -> dict[str, Any]:
    """report.json of `udc-defense run`, of one photo."""
    options = choices.purifier()
    return {
        "settings": asdict(settings) | {"purifier": options, "captured": choices.captured},
        "versions": versions(),
        "checkpoints": checkpoint_sums("default", "default" if options else None),
        "images": [result.report()],
    }
