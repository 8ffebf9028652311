"""One photo through everything: capture, attack, random-noise control, purify, restore; watched step by step.

Inputs of networks lie on the 8-bit grid, as files do, so that the numbers hold for the files that are written.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import fmean, pstdev
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from udc_defense.attacks import ATTACKS, AttackResult
from udc_defense.attacks.ball import Norm
from udc_defense.attacks.objectives import Objective, check_objective, parse_objective
from udc_defense.defense import Defense
from udc_defense.detection import Detector, Evading, difference
from udc_defense.errors import SettingError
from udc_defense.evaluation import flags
from udc_defense.images import quantize, quantize_towards
from udc_defense.imaging import capture
from udc_defense.metrics import METRICS
from udc_defense.noise import seeded
from udc_defense.optics import get_panel
from udc_defense.precision import PRECISIONS, InBfloat16, Precision
from udc_defense.purifiers.diffusion import DiffusionPurifier, PurifyStep
from udc_defense.scenes import clean_image
from udc_defense.threats import KINDS, Kind, threat

T = TypeVar("T")
Metric = Callable[[Tensor, Tensor], Tensor]  # (B, 3, H, W) and its reference -> (B,)

KEYS = (
    "captured",
    "restored",
    "attacked_input",
    "attacked_restored",
    "noise_restored",
    "defended_clean",
    "defended_attacked",
)
# What is compared with the restorer's own output where there is no ground truth.
KEYS_WITHOUT_TRUTH = KEYS[3:]
# Every stage in the order of the film strip, in plain words.
STAGES = {
    "clean": "Ground truth",
    "captured": "Capture",
    "restored": "Restored",
    "attacked_input": "Attacked capture",
    "attacked_restored": "Attacked, restored",
    "noise_restored": "Random noise, restored",
    "purified": "Purified",
    "defended_attacked": "Attacked, defended",
    "defended_clean": "Not attacked, defended",
}
MAX_STEPS = 100_000
DEFAULT_EPS = 4.0
HIGHEST_PSNR = 100.0  # stands for equal images in averages


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
    surrogate_steps: int = 2
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


@dataclass
class Result:
    """What is known so far of one photo.

    Attributes:
        images: stage name -> (1, 3, H, W): clean, captured, restored, attacked_input, attacked_restored, noise_input,
            noise_restored, purified, defended_clean, defended_attacked.
        seconds: wall time per stage.
        reference: what damage is measured against.
        search: what the attack found out.
        resubmitted: PSNR of the defended restorer under fresh noise, once per resubmission, by key.
    """

    name: str
    seed: int
    threat: Kind = "oblivious"
    nfe: int = 0
    has_truth: bool = True
    images: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reference: Tensor | None = None
    search: AttackResult | None = None
    resubmitted: dict[str, list[float]] = field(default_factory=dict)

    def scores(self, metric: str) -> dict[str, float | None]:
        """One value per key; null where the stage was not run or has no reference."""
        return self.compared(METRICS[metric], self.reference)

    def compared(self, metric: Metric, reference: Tensor | None) -> dict[str, float | None]:
        """The same against another reference (1, 3, H, W), such as the restorer's own output."""
        keys = KEYS if self.has_truth else KEYS_WITHOUT_TRUTH
        scores: dict[str, float | None] = dict.fromkeys(KEYS)
        for key in keys:
            if key in self.images and reference is not None:
                value = float(metric(self.images[key], reference))
                scores[key] = round(value, 4) if value != float("inf") else None
        return scores

    @property
    def recovered(self) -> float | None:
        """Share of the lost PSNR that the defense gives back; null without ground truth or loss.

        Null too where the attack was made for the defense: what it takes from the bare restorer is not what was lost.
        """
        if self.threat != "oblivious":
            return None
        psnr = self.scores("psnr")
        lost, back = (psnr["restored"], psnr["attacked_restored"]), psnr["defended_attacked"]
        if lost[0] is None or lost[1] is None or back is None or lost[0] - lost[1] < 0.01:
            return None
        return round((back - lost[1]) / (lost[0] - lost[1]), 4)

    def report(self) -> dict[str, Any]:
        """The `images` entry of report.json."""
        row = {
            "image": self.name,
            "seed": self.seed,
            "psnr": self.scores("psnr"),
            "ssim": self.scores("ssim"),
            "recovered": self.recovered,
            "seconds": {stage: round(value, 3) for stage, value in self.seconds.items()},
            "nfe": self.nfe,
            "search": self._search_facts(),
            "resubmission": {key: _spread(values) for key, values in self.resubmitted.items()} or None,
            "detection": self.detection(),
        }
        checks = [flags.zero_gradients([row])] + ([flags.randomised([row])] if row["resubmission"] else [])
        return row | {"flags": [f"{flag.check}: {flag.words}" for flag in checks if flag.raised]}

    def detection(self) -> dict[str, float] | None:
        """The detector's scores of the capture and the attacked capture in dB; higher is more suspicious."""
        compared = {"clean": ("restored", "defended_clean"), "attacked": ("attacked_restored", "defended_attacked")}
        pairs = {key: [self.images.get(stage) for stage in stages] for key, stages in compared.items()}
        scores = {
            k: round(float(difference(a, b)), 2) for k, (a, b) in pairs.items() if a is not None and b is not None
        }
        return scores or None

    def _search_facts(self) -> dict[str, Any] | None:
        """Evaluations of the attacked model, gradients that were zero everywhere, the best loss that the attack saw.

        And the root mean square of its perturbation in 1/255, before that is rounded to the 8-bit grid.
        """
        found = self.search
        if found is None:
            return None
        delta = found.image - self.images["captured"]
        return {
            "forwards": found.forwards if found.queries is None else int(found.queries.max()),
            "backwards": found.backwards,
            "zero_gradients": found.zero_gradients,
            "best_loss": round(float(found.losses.max()), 6),
            "delta_rms": round(255 * float(delta.square().mean().sqrt()), 4),
        }


def _spread(values: list[float]) -> dict[str, float]:
    """Of PSNRs: the attacker who may resubmit takes the worst."""
    found = {"mean": fmean(values), "std": pstdev(values), "worst": min(values)}
    return {key: round(value, 4) for key, value in found.items()} | {"n": len(values)}


@dataclass(frozen=True)
class Step:
    """A step of a stage done; `result` grows from event to event."""

    stage: str
    step: int
    steps: int
    result: Result


def row_seed(seed: int, image: str, attack: str, eps: float | None, threat: str, draw: int) -> int:
    """The seed of one row: a hash of what makes it unique, so that no row depends on the order of rows."""
    text = repr((seed, image, attack, float(eps or 0), threat, draw))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def simulate(scene: Tensor, settings: Settings, name: str) -> Tensor:
    """The capture of an exposed scene (1, 3, H, W), on the 8-bit grid."""
    generator = seeded(row_seed(settings.seed, name, "capture", 0, settings.panel, 0))
    return quantize(capture(scene, get_panel(settings.panel), generator=generator))


def run(
    defense: Defense,
    settings: Settings,
    name: str,
    *,
    scene: Tensor | None = None,
    captured: Tensor | None = None,
    truth: Tensor | None = None,
) -> Iterator[Step]:
    """All stages of one photo, on the device of the defense. Close the iterator to stop.

    Args:
        defense: restorer and, unless there is no defense, purifier.
        settings: of capture and attack.
        name: of the photo; enters the seed.
        scene: light (1, 3, H, W), whose capture is simulated and whose clean image is the reference; or
        captured: a real capture (1, 3, H, W).
        truth: the ground truth of a real capture; without it the restorer's own output on it is the reference.
    """
    weights = chain(defense.restorer.parameters(), defense.restorer.buffers())
    device = next(weights, torch.empty(0)).device  # a filter has neither
    seed = row_seed(settings.seed, name, settings.attack, settings.eps, settings.threat, 0)
    result = Result(name, seed, settings.threat, has_truth=scene is not None or truth is not None)
    if scene is not None:
        with _timed(result, "simulate"):
            scene = scene.to(device)
            result.images["clean"] = result.reference = clean_image(scene)
            result.images["captured"] = simulate(scene, settings, name)
        yield Step("simulate", 1, 1, result)
    elif captured is not None:
        result.images["captured"] = quantize(captured.to(device))
        if truth is not None:
            result.images["clean"] = result.reference = truth.to(device)
    else:
        raise SettingError("neither a scene nor a capture is given.")
    with _timed(result, "restore"), torch.no_grad():
        result.images["restored"] = defense.restorer(result.images["captured"])
    if result.reference is None:
        result.reference = result.images["restored"]
    yield Step("restore", 1, 1, result)
    yield from attack(defense, settings, result)
    yield from control(defense, result)
    yield from defend(defense, result)
    yield from resubmit(defense, result, settings.resubmit)


def attack(defense: Defense, settings: Settings, result: Result) -> Iterator[Step]:
    """Attack the capture of `result` and restore what comes out, undefended."""
    if settings.attack == "none":
        return
    assert result.reference is not None
    chosen = ATTACKS.get(settings.attack)
    with _timed(result, "attack"):
        model, objective = _attacked(defense, settings, result)
        arguments = _arguments(settings, result, objective)
        if settings.precision == "bfloat16":
            model = InBfloat16(model, gradients_only=True)
        for state in chosen.iterate(model, result.images["captured"], result.reference, **arguments):
            yield Step("attack", state.step, state.steps, result)
        result.search = state
        place(defense, result, state.image)
    yield Step("attack", state.steps, state.steps, result)


def place(defense: Defense, result: Result, attacked: Tensor) -> None:
    """Make an adversarial image the attacked capture, on the 8-bit grid, and restore it without a defense."""
    result.images["attacked_input"] = quantize_towards(attacked, result.images["captured"])
    with torch.no_grad():
        result.images["attacked_restored"] = defense.restorer(result.images["attacked_input"])


def _attacked(defense: Defense, settings: Settings, result: Result) -> tuple[nn.Module, Objective | None]:
    """What the attacker has, and what it maximises."""
    generator, captured = seeded(result.seed + 1), result.images["captured"]
    if settings.evade:
        # A purifier that chooses its level brings the detector whose score decides.
        detector = getattr(defense.purifier, "detector", None) or Detector(defense)
        with torch.no_grad():
            limit = float(detector(captured, generator=generator))
        evading = Evading(detector, limit, generator)
        return evading, evading.damage
    model = threat(defense, settings.threat, generator, surrogate_steps=settings.surrogate_steps)
    named = settings.objective
    return model, None if named is None else parse_objective(named, defense.restorer, captured)


def _arguments(settings: Settings, result: Result, objective: Objective | None) -> dict[str, Any]:
    """Of the attack's signature: what it shares with others, as far as it takes it, and its own options."""
    shared: dict[str, Any] = {
        "eps": None if settings.eps is None else settings.eps / 255,
        "steps": settings.steps,
        "norm": settings.norm,
        "draws": settings.draws,
        "objective": objective,
        "generator": seeded(result.seed),
    }
    takes = ATTACKS.get(settings.attack).defaults
    return {name: value for name, value in shared.items() if name in takes} | settings.options


def control(defense: Defense, result: Result) -> Iterator[Step]:
    """The attack's own magnitudes with random signs: noise of the same norm, whichever norm, on the same grid."""
    if "attacked_input" not in result.images:
        return
    captured = result.images["captured"]
    delta = result.images["attacked_input"] - captured
    signs = torch.randint(0, 2, delta.shape, generator=seeded(result.seed + 2)).to(delta) * 2 - 1
    flipped = captured + delta.abs() * signs
    # Where a random sign would leave [0, 1], the other one stays inside.
    noisy = torch.where((flipped < 0) | (flipped > 1), captured - delta.abs() * signs, flipped)
    with torch.no_grad():
        result.images["noise_input"] = noisy
        result.images["noise_restored"] = defense.restorer(noisy)
    yield Step("control", 1, 1, result)


def defend(defense: Defense, result: Result) -> Iterator[Step]:
    """Purify and restore the capture and, if there was an attack, the attacked capture."""
    if defense.purifier is None:
        return
    result.nfe = getattr(defense.purifier, "evaluations", 0)
    for source, purified, key in (
        ("captured", "purified_clean", "defended_clean"),
        ("attacked_input", "purified", "defended_attacked"),
    ):
        if source not in result.images:
            continue
        generator = seeded(row_seed(result.seed, result.name, "purify", 0, source, 0))
        with _timed(result, "purify"):
            image = result.images[source]
            for state in _without_gradients(_purify(defense.purifier, image, generator)):
                image = state.image
                yield Step("purify", state.step, state.steps, result)
            result.images[purified] = image
            with torch.no_grad():
                result.images[key] = defense.restorer(image)
        yield Step("purify", result.nfe, result.nfe, result)


def _purify(purifier: nn.Module, image: Tensor, generator: torch.Generator) -> Iterator[PurifyStep]:
    """In the steps of a diffusion purifier; any other has one."""
    if isinstance(purifier, DiffusionPurifier):
        yield from purifier.iterate(image, generator=generator)
    else:
        yield PurifyStep(1, 1, purifier(image, generator=generator))


def resubmit(defense: Defense, result: Result, times: int) -> Iterator[Step]:
    """Ask the defended restorer again, with fresh noise each time; the same number for the clean capture."""
    if defense.purifier is None or result.reference is None:
        return
    for source, key in (("captured", "defended_clean"), ("attacked_input", "defended_attacked")):
        if source not in result.images:
            continue
        for draw in range(1, times + 1):
            generator = seeded(row_seed(result.seed, result.name, "purify", 0, source, draw))
            with _timed(result, "resubmit"), torch.no_grad():
                output = defense(result.images[source], generator=generator)
                value = float(METRICS["psnr"](output, result.reference).clamp_max(HIGHEST_PSNR))
            result.resubmitted.setdefault(key, []).append(value)
            yield Step("resubmit", draw, times, result)


def finish(steps: Iterator[Step]) -> Result:
    """Drain an iterator of steps."""
    *_, last = steps
    return last.result


def fork(result: Result) -> Result:
    """A copy that shares the images so far: one attack, several defenses."""
    return replace(result, images=dict(result.images), seconds=dict(result.seconds), resubmitted={})


def _without_gradients(steps: Iterator[T]) -> Iterator[T]:
    """Gradients are off inside each step only: a `no_grad` held across a yield would leak into the caller."""
    while True:
        with torch.no_grad():
            try:
                step = next(steps)
            except StopIteration:
                return
        yield step


@contextmanager
def _timed(result: Result, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        result.seconds[stage] = result.seconds.get(stage, 0.0) + time.perf_counter() - started
