"""A purifier as command lines, protocols and rows of results name it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from udc_defense.checkpoints import load_purifier
from udc_defense.errors import SettingError
from udc_defense.transforms import TRANSFORMS, load_transform

ALWAYS = ("sampler", "noise_level", "steps", "draws", "aggregate")


@dataclass(frozen=True)
class Purification:
    """Options of `DiffusionPurifier` and the weights it takes, or a plain transform and its strength.

    Attributes:
        sampler: of the diffusion model, or the transform.
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
    weights: str = "default"

    def __post_init__(self) -> None:
        if self.is_transform:
            if self.strength is None:
                object.__setattr__(self, "strength", TRANSFORMS.get(self.sampler).strength.default)
        elif self.strength is not None:
            raise SettingError(f"strength {self.strength:g} is of a plain transform; {self.sampler} has a noise level.")

    @property
    def is_transform(self) -> bool:
        return self.sampler in TRANSFORMS.names()

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
        options = {name: value for name, value in asdict(self).items() if name not in ("strength", "weights")}
        return load_purifier(self.weights, **options)
