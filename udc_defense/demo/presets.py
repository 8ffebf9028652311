"""What the few visible controls stand for: presets of attack and defense, sets of choices that details override."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from udc_defense.demo.choices import Choices
from udc_defense.demo.fields import ATTACK, DEFENSE, TABLE, details
from udc_defense.errors import SettingError
from udc_defense.purification import DEFAULT


@dataclass(frozen=True)
class Preset:
    """A button of a row: its title, the choices it makes, and a sentence that names them in braces."""

    title: str
    sentence: str
    choices: Mapping[str, Any]

    @property
    def words(self) -> str:
        return self.sentence.format(**self.choices)


ATTACKS = {
    "off": Preset("Off", "No attack: what the display and the networks do to the photo.", {"method": "none"}),
    "quick": Preset(
        "Quick",
        "PGD, {steps} steps, ε = {eps:g}/255. The attacker **does not know** the defense, which flatters the defense.",
        {"method": "pgd", "eps": 4.0, "steps": 10, "threat": "oblivious"},
    ),
    "strong": Preset(
        "Strong",
        "Auto-PGD, {steps} steps, ε = {eps:g}/255. The attacker **does not know** the defense, which flatters the "
        "defense.",
        {"method": "apgd", "eps": 4.0, "steps": 50, "threat": "oblivious"},
    ),
    "adaptive": Preset(
        "Adaptive",
        "PGD, {steps} steps, ε = {eps:g}/255, along the exact gradient: the attacker **knows the defense**. Slow, for "
        "every step goes through all of the defense and back.",
        {"method": "pgd", "eps": 4.0, "steps": 5, "threat": "exact"},
    ),
}
TRAINED = {"sampler": DEFAULT.sampler, "noise_level": DEFAULT.noise_level, "purifier": DEFAULT.weights}
DEFENSES = {
    "off": Preset("Off", "No defense.", {"sampler": "none"}),
    "fast": Preset(
        "Fast",
        "The library's default: noise (level {noise_level}), taken out in one step by a network trained to.",
        TRAINED | {"draws": DEFAULT.draws},
    ),
    "paper": Preset(
        "Paper's",
        "{noise_level} steps of DDPM, as the paper purifies.",
        {"sampler": "ddpm", "noise_level": 50, "draws": 1},
    ),
    "best": Preset(
        "Best",
        "The mean of {draws} draws of the default: a little better on validation crops, {draws} times as dear.",
        TRAINED | {"draws": 8},
    ),
}
NUMBERS = tuple(field.name for field in TABLE if field.kind in (int, float))


def choose(attack: str = ATTACK, defense: str = DEFENSE, **chosen: Any) -> Choices:
    """The choices of two presets and of details; a detail that is None or empty is as in its preset.

    Off is off, whatever the details say. Another method has its own usual steps; another sampler, or another purifier
    than the one that a preset was chosen for, the usual level and draws of a diffusion model.

    Raises:
        SettingError: a preset is unknown or a detail out of range.
    """
    given = {name: _read(name, value) for name, value in chosen.items() if value not in (None, "")}
    attacking, defending = dict(_preset("attack", attack, ATTACKS)), dict(_preset("defense", defense, DEFENSES))
    for off, names in ((attack == "off", details("attack")), (defense == "off", details("defense"))):
        if off:
            given = {name: value for name, value in given.items() if name not in names}
    if given.get("method", attacking["method"]) != attacking["method"]:
        attacking.pop("steps", None)
    if any(
        given.get(name, defending[name]) != defending[name] for name in ("sampler", "purifier") if name in defending
    ):
        defending = {"sampler": defending["sampler"]}
    return Choices(**(attacking | defending | given))


def _preset(kind: str, name: str, presets: Mapping[str, Preset]) -> Mapping[str, Any]:
    if name not in presets:
        raise SettingError(f"the {kind} {name!r} is not one of {', '.join(presets)}.")
    return presets[name].choices


def _read(name: str, value: Any) -> Any:
    """Numbers come as text from fields that may stay empty."""
    if name not in NUMBERS or not isinstance(value, str):
        return value
    try:
        number = float(value.replace(",", "."))
    except ValueError:
        raise SettingError(f"{name} {value[:40]!r} is not a number.") from None
    return int(number) if number.is_integer() else number
