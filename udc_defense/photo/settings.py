"""What is done to a photo."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from udc_defense.attacks import ATTACKS
from udc_defense.attacks.ball import Norm
from udc_defense.attacks.objectives import check_objective
from udc_defense.errors import SettingError
from udc_defense.panel_file import get_panel
from udc_defense.precision import PRECISIONS, Precision
from udc_defense.threats import KINDS, SURROGATE_STEPS, Kind

MAX_STEPS = 100_000
DEFAULT_EPS = 4.0


@dataclass(frozen=True)
class Settings:
    """What is done to a photo. `eps` is in units of 1/255; the L2 radius is a root mean square per value.

    What is None takes the attack's own default, and stays None where the attack has no such thing: `fgsm` has no steps,
    `cw` no radius. `options` are the attack's own. `resubmit` is how often the defended restorer is asked again, with
    fresh noise, about the attacked and the clean capture. With `evade` the attacker also knows the detector, and
    damages the bare restorer while the detector's score stays that of the clean capture. `precision` is of the
    attack's gradients; all else is float32.
    """

    panel: str = "axon20"
    attack: str = "pgd"
    objective: str | None = None
    norm: Norm | None = None
    eps: float | None = None
    steps: int | None = None
    threat: Kind = "oblivious"
    draws: int = 1
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    surrogate_steps: int = SURROGATE_STEPS
    resubmit: int = 0
    evade: bool = False
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        get_panel(self.panel)
        if self.attack != "none":
            self._complete()
        if self.objective is not None:
            check_objective(self.objective)
        if self.threat not in KINDS:
            raise SettingError(f"threat {self.threat!r} is not one of {', '.join(KINDS)}.")
        if self.eps is not None and not 0 <= self.eps <= 255:
            raise SettingError(f"eps {self.eps:g} is not in 0…255 (units of 1/255).")
        for value, highest, words in (
            (self.steps, MAX_STEPS, "attack steps"),
            (self.draws, 64, "draws per gradient"),
            (self.surrogate_steps, 100, "surrogate steps"),
        ):
            if value is not None and not 1 <= value <= highest:
                raise SettingError(f"{value} {words} are not in 1…{highest}.")
        if self.evade and (self.threat, self.objective) != ("exact", "mse"):
            raise SettingError("the detector is evaded under the threat exact, by an attack with the objective mse.")
        if self.precision not in PRECISIONS:
            raise SettingError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}.")
        if not 0 <= self.resubmit <= 1000:
            raise SettingError(f"{self.resubmit} resubmissions are not in 0…1000.")

    def _complete(self) -> None:
        """Fill in the attack's defaults; refuse what it does not take."""
        attack = ATTACKS.get(self.attack)
        defaults = {"eps": DEFAULT_EPS, "steps": None, "norm": None, "objective": "mse"}
        for name, default in defaults.items():
            if name in attack.defaults:
                if getattr(self, name) is None:
                    object.__setattr__(self, name, attack.defaults[name] if default is None else default)
            elif getattr(self, name) is not None:
                raise SettingError(f"attack {self.attack} takes no {name}, but {getattr(self, name)!r} was given.")
        object.__setattr__(self, "options", attack.parse_options(self.options))
