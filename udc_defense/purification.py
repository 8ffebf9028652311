"""A defense as `--defense SPEC` names it, in the demo and in rows of results, too; and the default defense."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import nn

from udc_defense.checkpoints.files import checksum
from udc_defense.checkpoints.load import load_purifier, load_restorer
from udc_defense.checkpoints.resolve import resolve
from udc_defense.defense import Defense
from udc_defense.detection import Detector
from udc_defense.errors import SettingError
from udc_defense.noise_level import CALIBRATION, AdaptivePurifier, Chooser
from udc_defense.options import Option, argument_words, make_option, parse_options
from udc_defense.purifiers import SAMPLERS
from udc_defense.purifiers.diffusion import Aggregate
from udc_defense.transforms import TRANSFORMS, load_transform

ALWAYS = ("sampler", "noise_level", "steps", "draws", "aggregate")
AUTO = "auto"  # a noise level for each photo


@dataclass(frozen=True)
class Purification:
    """What `DiffusionPurifier` and its weights are set to, or a plain transform and its strength.

    Attributes:
        sampler: the diffusion model's sampler, or the transform.
        noise_level: forward diffusion steps t*; 0 is the identity.
        steps: steps of the samplers that can choose.
        draws: independent purifications, aggregated pixel by pixel.
        aggregate: what draws are joined by.
        guide: what keeps the result near the input; None is no guide.
        guidance: the guide's strength; 0 is none at all.
        strength: a transform's one parameter; None becomes its default.
        weights: the diffusion model: an embedded name, a folder or owner/name[@revision] on the Hub.
        per_photo: the noise level is chosen for each photo; `noise_level` is then 0.
        options: the sampler's own, such as `eta` of `ddim`.
    """

    sampler: str
    noise_level: int = 0
    steps: int = 5
    draws: int = 1
    aggregate: Aggregate = "mean"
    guide: str | None = None
    guidance: float = 0.0
    strength: float | None = None
    weights: str = "diffusion"
    per_photo: bool = False
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.per_photo:
            object.__setattr__(self, "noise_level", 0)
        if self.is_transform:
            if self.options:
                raise SettingError(f"transform {self.sampler} has no option {next(iter(self.options))!r}.")
            given = TRANSFORMS.get(self.sampler).strength.default if self.strength is None else self.strength
            object.__setattr__(self, "strength", float(given))  # one number, one key of rows, however it was written
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
        own, default = values.pop("options"), {field.name: field.default for field in fields(self)}
        return {name: value for name, value in values.items() if name in ALWAYS or value != default[name]} | own

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Purification:
        """The purification that a row says such things of."""
        names = {field.name for field in fields(cls)}
        options = {name: value for name, value in facts.items() if name not in names}
        return cls(**{name: value for name, value in facts.items() if name in names}, options=options)

    def load(self) -> nn.Module:
        """The purifier, in evaluation mode on the CPU.

        Raises:
            UDCDefenseError: a name is unknown, a value out of range or the weights cannot be had.
        """
        if self.is_transform:
            return load_transform(self.sampler, self.strength).eval()
        if self.per_photo:
            return self._per_photo()
        names = (*ALWAYS, "guide", "guidance")
        return load_purifier(self.weights, **{name: getattr(self, name) for name in names}, **self.options)

    def _per_photo(self) -> nn.Module:
        """A level for each photo, from the detector's score, as it was calibrated for the embedded networks."""
        found = json.loads(CALIBRATION.read_text(encoding="utf-8")) if CALIBRATION.is_file() else {}
        names = {"restorer": "default", "purifier": self.weights}
        used = {f"{kind} {name}": checksum(resolve(name, kind)) for kind, name in names.items()}
        if found.get("purifier") != self.facts() or not used.items() <= found["checkpoints"].items():
            raise SettingError(f"a noise level for each photo is not calibrated for {self.facts()}; name a level.")
        detector = Detector(Defense(load_restorer(), Purification.of_facts(found["probe"]).load()))
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


def load_defense(spec: str = "default", restorer: str | Path | nn.Module = "default") -> Defense:
    """A defense in evaluation mode, float32, on the CPU: purifier and restorer as one differentiable module.

    Args:
        spec: `none`, `default`, or a purifier with its options: `ddim:noise_level=20,steps=3`, `jpeg:quality=50`.
        restorer: what `load_restorer` takes, or a module from capture to image, (B, 3, H, W) in [0, 1].

    Raises:
        CheckpointError: weights are missing or damaged, in one sentence.
        SettingError: the spec means no defense, or a value is out of range.
    """
    purification = parse_defense(spec)
    network = restorer if isinstance(restorer, nn.Module) else load_restorer(restorer)
    return Defense(network, purification.load() if purification else None).eval()


def defense_options(name: str) -> tuple[Option, ...]:
    """The options of a sampler's or transform's spec, each with its default and words.

    Raises:
        SettingError: there is no such sampler or transform.
    """
    if name in TRANSFORMS.names():
        return (TRANSFORMS.get(name).strength,)
    sampler, words, kinds = SAMPLERS.get(name), argument_words(Purification.__doc__ or "", "Attributes"), _kinds()
    shared = [key for key in kinds if key != "steps" or sampler.takes_steps]
    defaults = {key: getattr(_plain(name), key) for key in shared}
    return (*(make_option(key, kinds[key], defaults[key], words[key]) for key in shared), *sampler.options)


def defense_name(purification: Purification | None) -> str:
    """The shortest spec that `parse_defense` reads so: none, default, jpeg:75, or ddim:noise_level=20,steps=3."""
    if purification is None:
        return "none"
    if purification == DEFAULT:
        return "default"
    if purification.is_transform:
        return f"{purification.sampler}:{_text(purification.strength)}"
    plain = _plain(purification.sampler)
    values = {key: getattr(purification, key) for key in _kinds()}
    if purification.per_photo:
        values["noise_level"] = AUTO
    given = {key: value for key, value in values.items() if value != getattr(plain, key)} | dict(purification.options)
    options = ",".join(f"{key}={_text(value)}" for key, value in given.items())
    return f"{purification.sampler}:{options}" if options else purification.sampler


def parse_defense(spec: str) -> Purification | None:
    """What `--defense` says: `none`, `default`, or a sampler or transform with its options.

    Args:
        spec: `NAME`, or `NAME:OPTION=VALUE,…`; `default` takes options, too, which change it. A transform has one
            option, whose name can be left out (`jpeg:75`). `noise_level=auto` chooses a level for each photo.

    Raises:
        SettingError: there is no such sampler or transform, or an option is unknown or no value of its type.
    """
    name, colon, text = spec.partition(":")
    known = ("none", "default", *SAMPLERS.names(), *TRANSFORMS.names())
    if name not in known:
        raise SettingError(f"defense {spec!r} is not one of {', '.join(known)}.")
    try:
        given = dict(_named(name, part) for part in text.split(",")) if colon else {}
        if name == "none":
            parse_options("none", (), given)
            return None
        return _changed(DEFAULT if name == "default" else _plain(name), given)
    except SettingError as error:
        raise SettingError(f"defense {spec!r}: {error}") from error


def _kinds() -> dict[str, Any]:
    """What a diffusion purifier's spec can say, whatever its sampler -> its annotation."""
    hints = get_type_hints(Purification)
    return {key: hints[key] for key in hints if key not in ("sampler", "strength", "per_photo", "options")}


def _plain(name: str) -> Purification:
    """What a sampler or transform is without options."""
    return Purification(name) if name in TRANSFORMS.names() else Purification(name, DIFFUSION.noise_level)


def _named(name: str, part: str) -> tuple[str, str]:
    """`OPTION=VALUE`, or the bare value of a transform's one option."""
    key, equals, value = part.partition("=")
    if equals:
        return key, value
    if name in TRANSFORMS.names():
        return TRANSFORMS.get(name).strength.name, part
    raise SettingError(f"{part!r} is not of the form OPTION=VALUE.")


def _changed(start: Purification, given: dict[str, str]) -> Purification:
    """The same with other values, in words as a spec has them."""
    per_photo = given.get("noise_level") == AUTO
    texts = {key: text for key, text in given.items() if not (per_photo and key == "noise_level")}
    values = parse_options(start.sampler, defense_options(start.sampler), texts)
    if start.is_transform:
        strength = values[TRANSFORMS.get(start.sampler).strength.name]
        load_transform(start.sampler, strength)  # refuses what is out of range
        return replace(start, strength=strength)
    changes = {key: values.pop(key) for key in _kinds() if key in texts}
    own = {option.name: values[option.name] for option in SAMPLERS.get(start.sampler).options if option.name in texts}
    return replace(start, **changes, options={**start.options, **own}, per_photo=per_photo)


def _text(value: Any) -> str:
    """A number as short as it can be, to the same value."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
