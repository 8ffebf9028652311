"""One photo through everything: capture, attack, random-noise control, purify, restore; watched step by step.

Inputs of networks lie on the 8-bit grid, as files do, so that the numbers hold for the files that are written.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from udc_defense.attacks import ATTACKS
from udc_defense.attacks.objectives import Objective, parse_objective
from udc_defense.defense import Defense
from udc_defense.detection import Detector, Evading
from udc_defense.errors import SettingError
from udc_defense.images import quantize, quantize_towards
from udc_defense.imaging import capture
from udc_defense.metrics import METRICS
from udc_defense.noise import seeded
from udc_defense.panel_file import get_panel
from udc_defense.photo.result import HIGHEST_PSNR, Result
from udc_defense.photo.settings import Settings
from udc_defense.precision import InBfloat16
from udc_defense.purifiers.diffusion import DiffusionPurifier, PurifyStep
from udc_defense.scenes import clean_image
from udc_defense.threats import threat

T = TypeVar("T")


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
    panel = get_panel(settings.panel)  # whose name goes into the seed: a file gives the same noise wherever it lies
    generator = seeded(row_seed(settings.seed, name, "capture", 0, panel.name, 0))
    return quantize(capture(scene, panel, generator=generator))


def begin(defense: Defense, settings: Settings, name: str, captured: Tensor) -> Result:
    """What is known of a capture (1, 3, H, W) before any stage: its restoration is what damage is measured against."""
    seed = row_seed(settings.seed, name, settings.attack, settings.eps, settings.threat, 0)
    captured = quantize(captured)
    with torch.no_grad():
        restored = defense.restorer(captured)
    images = {"captured": captured, "restored": restored}
    return Result(name, seed, settings.threat, has_truth=False, images=images, reference=restored)


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
                value = float(METRICS["psnr"](output.clamp(0, 1), result.reference.clamp(0, 1)).clamp_max(HIGHEST_PSNR))
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
