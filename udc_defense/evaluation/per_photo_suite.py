"""The protocol behind `results/per_photo.json`: the purifier that chooses a noise level for each photo.

It can be measured only when its choice is calibrated, by the rows of `results/purifiers.json`. Who knows the defense
either differentiates it at the level that it chooses, or keeps the score where the clean capture has it, so that it
chooses a low one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from udc_defense.evaluation.attack_suite import EXACT
from udc_defense.evaluation.entry import Entry, jobs_of
from udc_defense.evaluation.purifier_suite import EPSILONS, PER_PHOTO, knowing, smallest
from udc_defense.evaluation.runner import CENTRE, Job
from udc_defense.photo.settings import Settings
from udc_defense.scenes import read_crops

OBLIVIOUS = tuple(Entry(f"PGD-20, ε = {eps:g}", "pgd", {"eps": eps}, PER_PHOTO) for eps in EPSILONS)
AWARE = (
    knowing(PER_PHOTO),
    Entry("PGD-20, keeps the level low", "pgd", EXACT | {"evade": True}, PER_PHOTO),
)


def jobs(scenes: Path, crops: Path, split: str | None, seed: int) -> Iterator[Job]:
    """One job per crop and attack, those that do not know the defense first."""
    chosen = read_crops(crops, split)
    yield from jobs_of(OBLIVIOUS, chosen, scenes, seed)
    adaptive = [crop for crop in chosen if crop.adaptive]
    yield from jobs_of(AWARE, adaptive, scenes, seed)
    yield from jobs_of([smallest(PER_PHOTO)], [crop for crop in adaptive if crop.split == "heldout"], scenes, seed)


def describe() -> dict[str, Any]:
    """The protocol in words and numbers, for the results file."""
    return {
        "images": f"{CENTRE}² centres of the crops, panel {Settings().panel}",
        "attack": "PGD-20, L-infinity",
        "eps_in_255ths": EPSILONS,
        "purifier": PER_PHOTO.facts(),
    }
