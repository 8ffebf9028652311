"""From what a visitor chose to the library's iterator of steps: limits of size, the cost in advance, the report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from udc_defense.attacks import ATTACKS
from udc_defense.demo.choices import MAX_NOISE_LEVEL, PURIFIER_STEPS, Choices
from udc_defense.demo.networks import Networks
from udc_defense.device import best_device
from udc_defense.errors import ImageError, SettingError
from udc_defense.formats.content import read_content
from udc_defense.images import read_image
from udc_defense.photo import stages
from udc_defense.photo.recipe import Recipe, fitted
from udc_defense.photo.report import new_report
from udc_defense.photo.result import Result
from udc_defense.photo.settings import Settings
from udc_defense.photo.source import Known, from_image
from udc_defense.photo.stages import Step
from udc_defense.provenance import versions
from udc_defense.purifiers import SAMPLERS
from udc_defense.scenes import CROP_SIZE

NAME = "photo"  # of every photo, where seeds are made: what a file is called changes nothing
MAX_SIDE = {"cpu": 768, "mps": 1024, "cuda": 1536}
# Of one run, since others wait; a Space lends its GPU for no longer.
MAX_SECONDS = {"cpu": 1800, "mps": 1800, "cuda": 120}
MAX_BYTES = 15_000_000  # of a photo's file
# Of attacks that ask more than once; SimBA does where its first try fails, as about every second does.
QUERIES_PER_STEP = {"simba": 1.5}
# Costs in forward evaluations of the restorer: of the purifier's network, and of a gradient through either. The
# purifier forgets its activations on the way and computes them again.
PURIFIER, GRADIENT, PURIFIER_GRADIENT = 3.0, 2.0, 9.0


@dataclass(frozen=True)
class Phase:
    """A part of a run, in a visitor's words; `cost` of each step in evaluations of the restorer."""

    words: str
    steps: int
    cost: float

    @property
    def total(self) -> float:
        return max(1, self.steps) * self.cost


def phases(choices: Choices) -> list[Phase]:
    """What a run will do, in its order; each ends when it has added images to the result."""
    evaluations = _evaluations(choices)
    purify = (evaluations, PURIFIER + 1.0 / max(1, evaluations))
    attacked = choices.method != "none"
    plan = [] if choices.captured else [Phase("Simulating the camera", 1, 4)]
    plan += [Phase("Restoring", 1, 1)]
    plan += [_attack_phase(choices), Phase("Trying random noise instead", 1, 1)] if attacked else []
    if choices.sampler != "none":
        plan += [Phase("Purifying the untouched capture", *purify)]
        plan += [Phase("Purifying the attacked capture", *purify)] if attacked else []
    return plan


def _attack_phase(choices: Choices) -> Phase:
    """BPDA takes a network for the identity backwards. Who sees outputs only never goes backwards."""
    of_threat = {
        "oblivious": (0, 0.0),
        "bpda": (_evaluations(choices), PURIFIER),
        "surrogate": (_evaluations(choices, per_draw=Settings.surrogate_steps), PURIFIER_GRADIENT),
        "exact": (_evaluations(choices), PURIFIER_GRADIENT),
    }
    evaluations, gradient_cost = of_threat[choices.threat]
    if ATTACKS.get(choices.method).white_box:
        cost = GRADIENT + gradient_cost * evaluations
    else:
        cost = QUERIES_PER_STEP.get(choices.method, 1.0) * (1 + PURIFIER * evaluations)
    return Phase("Attacking", int(choices.attack_steps) * choices.repeats, cost)


def _evaluations(choices: Choices, per_draw: int = MAX_NOISE_LEVEL) -> int:
    """Of the purifier's network in one pass, with at most so many per draw."""
    if choices.sampler not in SAMPLERS.names() or not choices.noise_level:
        return 0
    of_method = SAMPLERS.get(choices.sampler).evaluations(int(choices.noise_level), PURIFIER_STEPS)
    return min(of_method, per_draw) * int(choices.draws)


def total_cost(choices: Choices) -> float:
    """Of a whole run, in evaluations of the restorer."""
    return sum(phase.total for phase in phases(choices))


def content_of(path: str) -> bytes:
    """A visitor's file, for what is done with it after a run, when it may have been cleaned away.

    Raises:
        ImageError: it has been already, or is larger than allowed.
    """
    try:
        if (size := Path(path).stat().st_size) > MAX_BYTES:
            raise ImageError(f"the photo has {size / 1e6:.1f} MB, more than the {MAX_BYTES / 1e6:g} MB allowed.")
        return read_content(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise ImageError(
            "the photo is no longer on this server, which keeps uploads for an hour: upload it again."
        ) from error


def read_photo(path: str) -> tuple[Tensor, str]:
    """A visitor's photo (1, 3, H, W), no larger than this machine can take, and a note where it was made smaller.

    Raises:
        ImageError: it is no image, or larger than allowed.
    """
    content_of(path)
    photo = read_image(path)
    smaller = fitted(photo, MAX_SIDE[best_device()])
    if smaller is photo:
        return photo, ""
    (height, width), (new_height, new_width) = photo.shape[-2:], smaller.shape[-2:]
    return smaller, f"The photo was scaled down from {width}×{height} to {new_width}×{new_height} pixels."


def seconds(networks: Networks, choices: Choices, pixels: int = CROP_SIZE**2) -> float:
    """What a whole run will take here, about; to a GPU all sizes are one."""
    share = 1.0 if best_device() == "cuda" else pixels / CROP_SIZE**2
    return total_cost(choices) * networks.seconds * share


def check_seconds(networks: Networks, photo: Tensor, choices: Choices) -> None:
    """That others need not wait for too long.

    Raises:
        SettingError: it would take longer than one run may.
    """
    needed, most = seconds(networks, choices, photo[0, 0].numel()), MAX_SECONDS[best_device()]
    if needed > most:
        raise SettingError(
            f"this would take about {needed / 60:.0f} min, and one run may take {most / 60:.0f}: choose fewer steps, "
            "fewer draws, a lower noise level or a smaller photo."
        )


def start(networks: Networks, photo: Tensor, choices: Choices, settings: Settings) -> Iterator[Step]:
    """All stages of one photo; close the iterator to stop.

    Raises:
        SettingError: it would take too long.
    """
    check_seconds(networks, photo, choices)
    return stages.run(networks.defense(choices), settings, NAME, **known(photo, choices))


def known(photo: Tensor, choices: Choices) -> Known:
    """The photo as `stages.run` takes it."""
    return from_image(NAME, photo, captured=choices.captured).load()


def report(networks: Networks, choices: Choices, settings: Settings, result: Result) -> dict[str, Any]:
    """report.json of `udc-defense run`, of one photo."""
    facts, checkpoints = networks.purifier_facts(choices), networks.checkpoints(choices)
    return new_report(settings, facts, checkpoints, captured=choices.captured) | {"images": [result.report()]}


def recipe(networks: Networks, choices: Choices, settings: Settings, photo: bytes) -> Recipe:
    """What `udc-defense run --recipe` needs to do this run again; `photo` is the file."""
    labels = {kind: networks.label(kind, choices) for kind in networks.used(choices)}
    sums = networks.sums(choices)
    return Recipe(
        photo=hashlib.sha256(photo).hexdigest(),
        captured=choices.captured,
        max_side=MAX_SIDE[best_device()],
        settings=settings,
        purification=choices.purification(networks.label("purifier", choices)),
        networks={kind: {"name": name, "sha256": sums[kind]} for kind, name in labels.items()},
        device=best_device(),
        threads=torch.get_num_threads(),
        versions=versions(),
        name=NAME,
    )
