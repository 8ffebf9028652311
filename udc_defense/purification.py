"""A purifier as command lines, protocols and rows of results name it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from udc_defense.checkpoints.files import checksum
from udc_defense.checkpoints.load import load_purifier, load_restorer
from udc_defense.checkpoints.resolve import resolve
from udc_defense.defense import Defense
from udc_defense.detection import Detector
from udc_defense.errors import SettingError
from udc_defense.noise_level import CALIBRATION, AdaptivePurifier, Chooser
from udc_defense.purifiers import SAMPLERS
from udc_defense.transforms import TRANSFORMS, load_transform

NOT_OF_THE_MODEL = ("strength", "weights", "per_photo")
ALWAYS = ("sampler", "noise_level", "steps", "draws", "aggregate")


@dataclass(frozen=True)
class Purification:
    """Options of `DiffusionPurifier` and the weights it takes, or a plain transform and its strength.

    Attributes:
        sampler: of the diffusion model, or the transform.
        per_photo: the noise level is chosen for each photo; `noise_level` is then 0.
        strength: of a transform; None becomes its default.
        weights: embedded name, folder or Hub id of the diffusion model.
    """

    sampler: str
    noise_level: int = 0
    steps: int = 5
    draws: int = 1
    aggregate: str = "mean"
    eta: float = 0.0
    guide: str | None = None
    guidance: float = 0.0
    strength: float | None = None
    weights: str = "diffusion"
    per_photo: bool = False

    def __post_init__(self) -> None:
        if self.per_photo:
            object.__setattr__(self, "noise_level", 0)
        if self.is_transform:
            if self.strength is None:
                object.__setattr__(self, "strength", TRANSFORMS.get(self.sampler).strength.default)
        elif self.strength is not None:
            raise SettingError(f"strength {self.strength:g} is of a plain transform; {self.sampler} has a noise level.")

    @property
    def is_transform(self) -> bool:
        return self.sampler in TRANSFORMS.names()

    @property
    def words(self) -> str:
        """Of a diffusion purifier: `one_step × 8, t* = 30`."""
        draws = f" × {self.draws}" if self.draws > 1 else ""
        weights = "" if self.weights == "diffusion" else f" by `{self.weights}`"
        return f"{self.sampler}{draws}{weights}, t* = {self.noise_level}"

    def facts(self) -> dict[str, Any]:
        """What a row says of it: all that a transform has, or of a diffusion purifier what is not as by default."""
        values = asdict(self)
        if self.is_transform:
            return {name: values[name] for name in ("sampler", "strength")}
        default = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in values.items() if name in ALWAYS or value != default[name]}

    def load(self) -> nn.Module:
        """The purifier, in evaluation mode on the CPU.

        Raises:
            UDCDefenseError: a name is unknown, a value out of range or the weights cannot be had.
        """
        if self.is_transform:
            return load_transform(self.sampler, self.strength).eval()
        if self.per_photo:
            return self._per_photo()
        options = {name: value for name, value in asdict(self).items() if name not in NOT_OF_THE_MODEL}
        return load_purifier(self.weights, **options)

    def _per_photo(self) -> nn.Module:
        """A level for each photo, from the detector's score, as it was calibrated for the embedded networks."""
        found = json.loads(CALIBRATION.read_text(encoding="utf-8")) if CALIBRATION.is_file() else {}
        names = {"restorer": "default", "purifier": self.weights}
        used = {f"{kind} {name}": checksum(resolve(name, kind)) for kind, name in names.items()}
        if found.get("purifier") != self.facts() or not used.items() <= found["checkpoints"].items():
            raise SettingError(f"a noise level for each photo is not calibrated for {self.facts()}; name a level.")
        detector = Detector(Defense(load_restorer(), Purification(**found["probe"]).load()))
        chooser = Chooser(tuple(found["cuts"]), tuple(found["levels"]))
        fixed = replace(self, per_photo=False)
        purifier = AdaptivePurifier(lambda level: replace(fixed, noise_level=level).load(), detector, chooser).eval()
        purifier.sha256 = used[f"purifier {self.weights}"]
        return purifier


# Chosen on `val`, see the README: the purifier that was trained for the job; and what serves for any diffusion model.
DEFAULT = Purification("one_step", 10, weights="direct")
DIFFUSION = Purification("one_step", 30, draws=8)


def evaluations(purification: Purification) -> int:
    """Of the network in one pass; a transform has none."""
    if purification.is_transform:
        return 0
    sampler = SAMPLERS.get(purification.sampler)
    return purification.draws * sampler.evaluations(purification.noise_level, purification.steps)


def has_gradient(purification: Purification) -> bool:
    """Whether autograd gets through; every sampler of the diffusion model is differentiable."""
    if not purification.is_transform:
        return True
    with torch.enable_grad():
        return purification.load()(torch.rand(1, 3, 8, 8, requires_grad=True)).requires_grad


def defense_name(purification: Purification | None) -> str:
    """As `--defense` takes it: none, default, jpeg:75, or ddim:noise_level=20,steps=3."""
    if purification is None:
        return "none"
    if purification == DEFAULT:
        return "default"
    if purification.is_transform:
        return f"{purification.sampler}:{purification.strength:g}"
    plain = Purification(purification.sampler, DIFFUSION.noise_level)
    values = {field.name: getattr(purification, field.name) for field in fields(purification)}
    options = ",".join(f"{name}={value}" for name, value in values.items() if value != getattr(plain, name))
    return f"{purification.sampler}:{options}" if options else purification.sampler


def parse_defense(name: str) -> Purification | None:
    """The defense of such a name.

    Raises:
        SettingError: it means none, or an option has no value of its type.
    """
    if name in ("none", "default"):
        return DEFAULT if name == "default" else None
    sampler, _, text = name.partition(":")
    options: dict[str, Any] = {"noise_level": DIFFUSION.noise_level} if sampler in SAMPLERS.names() else {}
    try:
        for part in filter(None, text.split(",")):
            key, equals, value = part.partition("=")
            options |= {key: _typed(key, value)} if equals else {"strength": float(part)}
        purification = Purification(sampler, **options)
        purification.load()
    except (KeyError, TypeError, ValueError) as error:
        problem = f" ({error})" if isinstance(error, SettingError) else ""
        raise SettingError(
            f"defense {name!r} is not none, default, TRANSFORM[:STRENGTH] or SAMPLER[:OPTION=VALUE,…]{problem}."
        ) from error
    return purification


def _typed(key: str, value: str) -> Any:
    kind = str({field.name: field.type for field in fields(Purification)}[key])
    if kind == "bool":
        return value == "True"
    return int(value) if kind == "int" else float(value) if "float" in kind else value
