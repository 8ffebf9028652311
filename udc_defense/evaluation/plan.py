"""What an evaluation measures: images, restorers, defenses and a protocol, as jobs for the runner.

A row is one image × degradation × restorer × attack × ε × threat × defense × draw: draw 0 is the defense's one answer
with everything that is known of it, the others are the PSNR of its answers to the same images under fresh noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from torch import Tensor

from udc_defense.attacks import ATTACKS, AttackResult
from udc_defense.attacks.lpips import load_lpips
from udc_defense.defense import Defense
from udc_defense.evaluation import overhead
from udc_defense.evaluation.degradations import DEGRADATIONS
from udc_defense.evaluation.entry import Entry
from udc_defense.evaluation.protocol import Protocol, applies, threat_of
from udc_defense.evaluation.rows import key_of
from udc_defense.evaluation.runner import Cell, Job, prepared, purifier_of, restorer_of
from udc_defense.metrics import METRICS, psnr
from udc_defense.noise import seeded
from udc_defense.photo import stages
from udc_defense.photo.result import Result
from udc_defense.photo.settings import Settings
from udc_defense.photo.source import Known, Photo
from udc_defense.precision import Precision
from udc_defense.purification import Purification, defense_name
from udc_defense.scenes import Crop, clean_image

UDC, PAIRS = "udc", "pairs"  # captures that are simulated, and those that were taken
TRANSFERRED = Entry("PGD-20", "pgd")  # the attack whose examples go from restorer to restorer


@dataclass(frozen=True)
class Task(Job):
    """A job of an evaluation.

    Attributes:
        degradation: `udc`, `pairs`, or a name of `DEGRADATIONS`.
        title: of the attack's setting.
        made_on: another restorer, whose white-box attack this one gets.
        trivial: the purifications that are there to be beaten.
        perceptual: LPIPS is measured, too.
    """

    degradation: str = UDC
    title: str = ""
    made_on: str | None = None
    trivial: tuple[Purification, ...] = ()
    perceptual: bool = False

    def identity(self, purification: Purification | None) -> dict[str, Any]:
        """What makes rows one of a kind, but for the draw."""
        further = {"restorer": self.restorer, "degradation": self.degradation}
        return super().identity(purification) | further | ({"made_on": self.made_on} if self.made_on else {})

    def keys_of(self, purification: Purification | None) -> set[str]:
        """Of the rows of one purification, one per draw."""
        draws = 1 + (self.cell.settings.resubmit if purification else 0)
        return {key_of(self.identity(purification) | {"draw": draw}) for draw in range(draws)}

    def given(self, photo: Photo | Crop) -> Known:
        """The light, or the degraded image and its ground truth."""
        known = super().given(photo)
        if self.degradation in (UDC, PAIRS):
            return known
        clean = clean_image(known["scene"])
        seed = stages.row_seed(self.cell.settings.seed, photo.name, "capture", 0, self.degradation, 0)
        return {"captured": DEGRADATIONS[self.degradation](clean, seeded(seed)), "truth": clean}

    def attack(self, defense: Defense, result: Result) -> None:
        """Attack the capture, or take the attack that another restorer's gradient makes."""
        if self.made_on is None:
            super().attack(defense, result)
            return
        attacked, result.search = _attacked(replace(self, restorer=self.made_on, made_on=None))
        stages.place(defense, result, attacked)

    def rows(self, purification: Purification | None, result: Result) -> list[dict[str, Any]]:
        """One per draw."""
        said = {
            "title": self.title,
            "defense": defense_name(purification),
            "trivial": purification in self.trivial,
        }
        identity = self.identity(purification) | said
        first = result.report()
        first |= {name: result.scores(name) for name in METRICS if name not in first}
        if self.perceptual:
            first["lpips"] = result.compared(_lpips, result.reference)
        first["psnr_to_clean_output"] = result.compared(psnr, result.images["restored"])
        first["peak_memory_mb"] = overhead.peak_mb(self.device)
        first["kmac_per_pixel"] = arithmetic_of(self.restorer, purification, self.cell.size, self.device)
        bound = restorer_of(self.restorer, self.device).lipschitz_bound
        if purification is None and bound is not None:  # a purifier in front has a gain of its own
            first["lipschitz"] = bound
        answers = [
            {"psnr": {key: round(values[draw], 4) for key, values in result.resubmitted.items()}}
            for draw in range(self.cell.settings.resubmit if purification else 0)
        ]
        return [identity | {"draw": draw} | found for draw, found in enumerate((first, *answers))]


@lru_cache(maxsize=1024)
def arithmetic_of(restorer: str, purification: Purification | None, size: int, device: str = "cpu") -> float:
    """Thousands of multiplications for one pixel of a restored image, of a defense that rows name."""
    return overhead.kmac_per_pixel(
        Defense(restorer_of(restorer, device), purifier_of(purification, device)), size, device
    )


@lru_cache(maxsize=128)
def _attacked(task: Task) -> tuple[Tensor, AttackResult | None]:
    """What a task's attack makes of its image and finds out; once for all the restorers that it is shown to."""
    result = prepared(Defense(restorer_of(task.restorer, task.device)), task)
    return result.images["attacked_input"], result.search


def _lpips(image: Tensor, reference: Tensor) -> Tensor:
    return load_lpips(image.device, image.dtype)(image.clamp(0, 1), reference.clamp(0, 1))


@dataclass(frozen=True)
class Plan:
    """What an evaluation measures.

    Attributes:
        protocol: attacks, plain transforms, sizes.
        photos: whose captures are attacked.
        scenes: the folder of crops; empty for other photos.
        restorers: names by degradation.
        defenses: under test.
        brief: degradations that get the protocol's shorter part.
        precision: of attackers' gradients.
    """

    protocol: Protocol
    photos: tuple[Photo, ...]
    scenes: str
    restorers: Mapping[str, tuple[str, ...]]
    defenses: tuple[Purification, ...]
    brief: tuple[str, ...] = ()
    panel: str = "axon20"
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "float32"

    @property
    def trivial(self) -> tuple[Purification, ...]:
        """The plain transforms that are not themselves under test."""
        return tuple(purification for purification in self.protocol.trivial if purification not in self.defenses)

    @property
    def few(self) -> tuple[Photo, ...]:
        """The photos that meet what takes long: those that are marked adaptive, or all where none is."""
        return tuple(photo for photo in self.photos if photo.adaptive) or self.photos

    def tasks(self, photos: Sequence[Photo] | None = None) -> list[Task]:
        """What is to be done for some of the photos, or all; each row once."""
        chosen = self.photos if photos is None else photos
        tasks: list[Task] = []
        known: set[str] = set()
        for degradation in self.restorers:
            for task in self._of_degradation(degradation, chosen):
                if not task.keys() <= known:
                    tasks.append(task)
                    known |= task.keys()
        return tasks

    def _of_degradation(self, degradation: str, photos: Sequence[Photo]) -> Iterator[Task]:
        protocol, is_brief = self.protocol, degradation in self.brief
        trivial = () if is_brief else self.trivial
        entries = protocol.elsewhere if is_brief else (*protocol.oblivious, *protocol.dear, *protocol.adaptive)
        few, fewest = ([p for p in photos if p in chosen] for chosen in (self.few, self.few[: protocol.eot_images]))
        for restorer in self.restorers[degradation]:
            target = (degradation, restorer)
            for entry in entries:
                shared = threat_of(entry) == "oblivious"
                faced = [(None, *self.defenses, *trivial)] if shared else _each(entry, self.defenses)
                met = photos if shared and entry not in protocol.dear else few
                yield from self._tasks(target, entry, faced, met)
            if is_brief:
                continue
            for entry in protocol.on_trivial:
                yield from self._tasks(target, entry, _each(entry, trivial), few)
            for entry in protocol.eot:
                yield from self._tasks(target, entry, _each(entry, self.defenses), fewest)
            others = self.restorers[degradation]
            for other in others if len(others) > 1 else ():
                made_on = other if other != restorer else None
                yield from self._tasks(target, TRANSFERRED, [(None,)], few, made_on)

    def _tasks(
        self,
        target: tuple[str, str],
        entry: Entry,
        faced: Sequence[tuple[Purification | None, ...]],
        photos: Sequence[Photo],
        made_on: str | None = None,
    ) -> Iterator[Task]:
        """One per photo and group of purifications that face the same attacked image."""
        precision = self.precision if ATTACKS.get(entry.attack).white_box else "float32"
        settings = Settings(attack=entry.attack, seed=self.seed, panel=self.panel, precision=precision, **entry.changes)
        for purifications in faced:
            cell = Cell(settings, purifications, size=self.protocol.size)
            for photo in photos:
                yield Task(
                    photo,
                    self.scenes,
                    cell,
                    target[1],
                    self.device,
                    degradation=target[0],
                    title=entry.title if made_on is None else f"{entry.title}, made on {made_on}",
                    made_on=made_on,
                    trivial=self.trivial,
                    perceptual=self.protocol.perceptual,
                )


def _each(entry: Entry, purifications: Sequence[Purification]) -> list[tuple[Purification]]:
    return [(purification,) for purification in purifications if applies(entry, purification)]
