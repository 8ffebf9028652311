"""One image under one attack: what is computed together, and the rows that come of it.

The purifiers that face the same attacked image share a job, and are written at once. Draw 0 of a row is the defense's
one answer with everything that is known of it, the others are the PSNR of its answers to the same images under fresh
noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any, Self

from torch import Tensor, nn

from udc_defense.attacks import AttackResult
from udc_defense.attacks.lpips import load_lpips
from udc_defense.attacks.universal import perturbation
from udc_defense.checkpoints.load import load_restorer
from udc_defense.defense import Defense
from udc_defense.evaluation import overhead
from udc_defense.evaluation.degradations import DEGRADATIONS
from udc_defense.evaluation.rows import key_of
from udc_defense.metrics import METRICS, psnr
from udc_defense.noise import seeded
from udc_defense.photo import stages
from udc_defense.photo.result import Result
from udc_defense.photo.settings import Settings
from udc_defense.photo.source import Known, Photo
from udc_defense.purification import Purification, defense_name
from udc_defense.restorers.base import Restorer
from udc_defense.scenes import clean_image

UDC, PAIRS = "udc", "pairs"  # captures that are simulated, and those that were taken
CENTRE = 128  # side of the part of a crop that is small enough for attacks on the defense


@dataclass(frozen=True)
class Job:
    """One image under one attack, and the purifications that face it; pickled to a worker.

    Attributes:
        photo: the image.
        settings: of capture and attack.
        purifications: None is no defense.
        title: of the attack's setting.
        size: of the scene's centre, in pixels.
        restorer: embedded name, folder, Hub id or `package.module:attribute`.
        degradation: `udc`, `pairs`, or a name of `DEGRADATIONS`.
        made_on: another restorer, whose white-box attack this one gets.
        trivial: the purifications that are there to be beaten.
        fitted_on: the images that an attack makes one perturbation for.
        perceptual: LPIPS is measured, too.
    """

    photo: Photo
    settings: Settings
    purifications: tuple[Purification | None, ...]
    title: str = ""
    size: int = CENTRE
    restorer: str = "default"
    degradation: str = UDC
    made_on: str | None = None
    trivial: tuple[Purification, ...] = ()
    fitted_on: tuple[Photo, ...] = ()
    device: str = "cpu"
    perceptual: bool = False

    def keys(self) -> set[str]:
        """Of the rows it makes."""
        return set().union(*map(self.keys_of, self.purifications))

    def keys_of(self, purification: Purification | None) -> set[str]:
        """Of the rows of one purification, one per draw."""
        draws = 1 + (self.settings.resubmit if purification else 0)
        return {key_of(self.identity(purification) | {"draw": draw}) for draw in range(draws)}

    def without(self, done: set[str]) -> Self:
        """What is left of it to do."""
        return replace(self, purifications=tuple(p for p in self.purifications if not self.keys_of(p) <= done))

    def identity(self, purification: Purification | None) -> dict[str, Any]:
        """What makes rows one of a kind, but for the draw."""
        settings = {key: value for key, value in asdict(self.settings).items() if key != "seed"}
        named = {"split": self.photo.split, "image": self.photo.name, "size": self.size}
        further = {"restorer": self.restorer, "degradation": self.degradation}
        facts = {"purifier": purification.facts() if purification else None}
        return named | settings | facts | further | ({"made_on": self.made_on} if self.made_on else {})

    def named(self, purification: Purification | None) -> dict[str, Any]:
        """What the rows of a purification are called."""
        trivial = purification in self.trivial
        return {"title": self.title, "defense": defense_name(purification), "trivial": trivial}

    def given(self, photo: Photo) -> Known:
        """What is known of a photo: light, or a degraded image and its ground truth."""
        known = photo.load(self.size)
        if self.degradation in (UDC, PAIRS):
            return known
        clean = clean_image(known["scene"])
        seed = stages.row_seed(self.settings.seed, photo.name, "capture", 0, self.degradation, 0)
        return {"captured": DEGRADATIONS[self.degradation](clean, seeded(seed)), "truth": clean}

    def rows(self, purification: Purification | None, result: Result) -> list[dict[str, Any]]:
        """What is written of a result: one row per draw."""
        first = result.report()
        first |= {name: result.scores(name) for name in METRICS if name not in first}
        if self.perceptual:
            first["lpips"] = result.compared(_lpips, result.reference)
        first["psnr_to_clean_output"] = result.compared(psnr, result.images["restored"])
        first["peak_memory_mb"] = overhead.peak_mb(self.device)
        first["kmac_per_pixel"] = arithmetic_of(self.restorer, purification, self.size, self.device)
        bound = restorer_of(self.restorer, self.device).lipschitz_bound
        if purification is None and bound is not None:  # a purifier in front has a gain of its own
            first["lipschitz"] = bound
        answers = [
            {"psnr": {key: round(values[draw], 4) for key, values in result.resubmitted.items()}}
            for draw in range(self.settings.resubmit if purification else 0)
        ]
        identity = self.identity(purification) | self.named(purification)
        return [identity | {"draw": draw} | found for draw, found in enumerate((first, *answers))]


def rows_of(job: Job) -> list[dict[str, Any]]:
    """The rows of one job."""
    return [row for purification, result in results_of(job) for row in job.rows(purification, result)]


def results_of(job: Job) -> Iterator[tuple[Purification | None, Result]]:
    """Everything that is known of one image under one attack, for each purification."""
    attacked = None
    for purification in job.purifications:
        overhead.reset_peak()
        defense = Defense(restorer_of(job.restorer, job.device), purifier_of(purification, job.device))
        if attacked is None or job.settings.threat != "oblivious":
            attacked = prepared(defense, job)
        result = stages.fork(attacked)
        for _ in chain(stages.defend(defense, result), stages.resubmit(defense, result, job.settings.resubmit)):
            pass
        yield purification, result


def prepared(defense: Defense, job: Job) -> Result:
    """Everything before the defense; under an adaptive threat the attack is made for this very defense."""
    settings, bare = job.settings, Defense(defense.restorer)
    result = _captured(bare, job, job.photo)
    result.seed = stages.row_seed(settings.seed, job.photo.name, settings.attack, settings.eps, settings.threat, 0)
    if job.fitted_on:
        delta = _fitted(replace(job, photo=job.fitted_on[0], purifications=()))
        stages.place(bare, result, (result.images["captured"] + delta).clamp(0, 1))
    elif job.made_on:
        attacked, result.search = _attacked(replace(job, restorer=job.made_on, made_on=None))
        stages.place(defense, result, attacked)
    elif settings.attack != "none":
        stages.finish(stages.attack(defense, settings, result))
    for _ in stages.control(defense, result):
        pass
    return result


def _captured(bare: Defense, job: Job, photo: Photo) -> Result:
    """Capture and restored image of a photo, before any attack."""
    settings = replace(job.settings, attack="none")
    return stages.finish(stages.run(bare, settings, photo.name, **job.given(photo)))


@lru_cache(maxsize=4)
def _fitted(job: Job) -> Tensor:
    """δ (1, 3, H, W) for all captures of `fitted_on`; each worker makes it once."""
    settings, network = job.settings, restorer_of(job.restorer, job.device)
    assert settings.eps is not None and settings.steps is not None
    results = [_captured(Defense(network), job, photo) for photo in job.fitted_on]
    *_, last = perturbation(
        network,
        [(result.images["captured"], result.images["clean"]) for result in results],
        eps=settings.eps / 255,
        steps=settings.steps,
        generator=seeded(settings.seed),
    )
    return last.delta


@lru_cache(maxsize=128)
def _attacked(job: Job) -> tuple[Tensor, AttackResult | None]:
    """What a job's attack makes of its image and finds out; once for all the restorers that it is shown to."""
    result = prepared(Defense(restorer_of(job.restorer, job.device)), job)
    return result.images["attacked_input"], result.search


@lru_cache(maxsize=4)
def restorer_of(name: str, device: str) -> Restorer:
    """A restorer that jobs share."""
    return load_restorer(name).to(device)


@lru_cache(maxsize=64)
def purifier_of(purification: Purification | None, device: str) -> nn.Module | None:
    """A purifier that jobs share."""
    return purification.load().to(device) if purification else None


@lru_cache(maxsize=1024)
def arithmetic_of(restorer: str, purification: Purification | None, size: int, device: str = "cpu") -> float:
    """Thousands of multiplications for one pixel of a restored image, of a defense that rows name."""
    defense = Defense(restorer_of(restorer, device), purifier_of(purification, device))
    return overhead.kmac_per_pixel(defense, size, device)


def _lpips(image: Tensor, reference: Tensor) -> Tensor:
    return load_lpips(image.device, image.dtype)(image.clamp(0, 1), reference.clamp(0, 1))
