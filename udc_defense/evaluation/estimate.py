"""How long a study will take, said before it begins: counted in passes of networks, timed on this machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from statistics import median

import torch

from udc_defense.attacks import ATTACKS
from udc_defense.defense import Defense
from udc_defense.evaluation.jobs import Job, purifier_of, restorer_of
from udc_defense.noise import seeded
from udc_defense.photo.settings import Settings
from udc_defense.purification import Purification

GRADIENT = 3  # passes that a gradient takes as long as, in its forward and backward direction
REPEATS = 3


@dataclass(frozen=True)
class Expected:
    """What is to be measured of one attack; `minutes` are of one core, or of the device."""

    title: str
    images: int
    rows: int
    minutes: float


def expected(jobs: Iterable[Job]) -> list[Expected]:
    """By title, in the order of jobs."""
    seconds: dict[str, float] = {}
    rows: Counter[str] = Counter()
    images: dict[str, set[str]] = {}
    for job in jobs:
        seconds[job.title] = seconds.get(job.title, 0.0) + _seconds(job)
        rows[job.title] += len(job.keys())
        images.setdefault(job.title, set()).add(job.photo.name)
    return [Expected(title, len(images[title]), rows[title], seconds[title] / 60) for title in seconds]


def _seconds(job: Job) -> float:
    settings = job.settings
    spent, attacks = 0.0, 1 if settings.threat == "oblivious" else len(job.purifications)
    for place, purification in enumerate(job.purifications):
        known = None if settings.threat == "oblivious" else purification
        if place < attacks:
            spent += passes(settings) * _pass(job.restorer, known, job.size, job.device)
        # The attacked and the clean capture, once and once more for each further answer.
        spent += 2 * (1 + settings.resubmit) * _pass(job.restorer, purification, job.size, job.device)
    return spent


def passes(settings: Settings) -> int:
    """Passes of the attacked system that a search takes, a gradient counting for several."""
    if settings.attack in ("none", "random_noise"):
        return 1
    options = settings.options
    steps = (settings.steps or 1) * options.get("searches", 1) * options.get("restarts", 1)
    return steps * settings.draws * (GRADIENT if ATTACKS.get(settings.attack).white_box else 1)


@cache
@torch.no_grad()
def _pass(restorer: str, purification: Purification | None, size: int, device: str) -> float:
    """Median seconds of one restored image."""
    defense = Defense(restorer_of(restorer, device), purifier_of(purification, device))
    image = torch.rand(1, 3, size, size, generator=seeded(0)).to(device)
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        defense(image, generator=seeded(0)).cpu()  # waits for a GPU, too
        found.append(time.perf_counter() - started)
    return median(found)
