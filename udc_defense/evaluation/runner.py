"""Rows of results over many images: written as they are known, never lost to a kill, never repeated.

One row per image × attack × ε × threat × purifier. The purifiers that face the same attacked image are computed
together and appended in one write; a resumed run computes what is missing.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from udc_defense.attacks.universal import perturbation
from udc_defense.checkpoints.load import load_restorer, weights_sum
from udc_defense.defense import Defense
from udc_defense.errors import SceneError, UDCDefenseError
from udc_defense.evaluation import overhead
from udc_defense.evaluation.rows import SETTINGS, append, key_of, read_parts
from udc_defense.noise import seeded
from udc_defense.output import write_file
from udc_defense.photo import stages
from udc_defense.photo.result import Result
from udc_defense.photo.settings import Settings
from udc_defense.photo.source import Known, Photo, from_crop
from udc_defense.purification import Purification
from udc_defense.restorers.base import Restorer
from udc_defense.scenes import Crop

J = TypeVar("J")
R = TypeVar("R")

CENTRE = 128  # side of the part of a crop that is small enough for attacks on the defense


@dataclass(frozen=True)
class Cell:
    """One setting of attack, and the purifications that face its images. `size` crops the scene's centre.

    A purification that is None is no defense. An attack that makes one perturbation for many captures is fitted on
    those of `fitted_on`.
    """

    settings: Settings
    purifications: tuple[Purification | None, ...]
    size: int = 256
    fitted_on: tuple[Crop, ...] = ()


@dataclass(frozen=True)
class Job:
    """One cell of one image; pickled to a worker."""

    crop: Photo | Crop
    scenes: str
    cell: Cell
    restorer: str = "default"
    device: str = "cpu"

    def keys(self) -> set[str]:
        """Of the rows it makes."""
        return set().union(*map(self.keys_of, self.cell.purifications))

    def keys_of(self, purification: Purification | None) -> set[str]:
        """Of the rows of one purification."""
        return {key_of(self.identity(purification))}

    def without(self, done: set[str]) -> Self:
        """What is left of it to do."""
        left = tuple(p for p in self.cell.purifications if not self.keys_of(p) <= done)
        return replace(self, cell=replace(self.cell, purifications=left))

    def identity(self, purification: Purification | None) -> dict[str, Any]:
        """What makes a row one of a kind."""
        return _identity(self.crop, self.cell, purification) | restorer_facts(self.restorer)

    def given(self, photo: Photo | Crop) -> Known:
        """What is known of a photo; a crop's scene lies in the folder of the job."""
        return (from_crop(photo, self.scenes) if isinstance(photo, Crop) else photo).load(self.cell.size)

    def attack(self, defense: Defense, result: Result) -> None:
        """Attack the capture of `result`."""
        stages.finish(stages.attack(defense, self.cell.settings, result))

    def rows(self, purification: Purification | None, result: Result) -> list[dict[str, Any]]:
        """What is written of a result."""
        return [self.identity(purification) | result.report()]


def rows_of(job: Job) -> list[dict[str, Any]]:
    """The rows of one image and cell."""
    return [row for purification, result in results_of(job) for row in job.rows(purification, result)]


def results_of(job: Job) -> Iterator[tuple[Purification | None, Result]]:
    """Everything that is known of one image and cell, for each purification."""
    settings, attacked = job.cell.settings, None
    for purification in job.cell.purifications:
        overhead.reset_peak()
        defense = Defense(restorer_of(job.restorer, job.device), purifier_of(purification, job.device))
        if attacked is None or settings.threat != "oblivious":
            attacked = prepared(defense, job)
        result = stages.fork(attacked)
        for _ in chain(stages.defend(defense, result), stages.resubmit(defense, result, settings.resubmit)):
            pass
        yield purification, result


@lru_cache(maxsize=4)
def restorer_of(name: str, device: str) -> Restorer:
    """A restorer that jobs share."""
    return load_restorer(name).to(device)


@lru_cache(maxsize=64)
def purifier_of(purification: Purification | None, device: str) -> nn.Module | None:
    """A purifier that jobs share."""
    return purification.load().to(device) if purification else None


def prepared(defense: Defense, job: Job) -> Result:
    """Everything before the defense; under an adaptive threat the attack is made for this very defense."""
    cell, settings, bare = job.cell, job.cell.settings, Defense(defense.restorer)
    result = _captured(bare, job, job.crop)
    result.seed = stages.row_seed(settings.seed, job.crop.name, settings.attack, settings.eps, settings.threat, 0)
    if cell.fitted_on:
        delta = _fitted(cell, job.scenes, job.restorer)
        stages.place(bare, result, (result.images["captured"] + delta).clamp(0, 1))
    elif settings.attack != "none":
        job.attack(defense, result)
    for _ in stages.control(defense, result):
        pass
    return result


def _captured(bare: Defense, job: Job, photo: Photo | Crop) -> Result:
    """Capture and restored image of a photo, before any attack."""
    settings = replace(job.cell.settings, attack="none")
    return stages.finish(stages.run(bare, settings, photo.name, **job.given(photo)))


@lru_cache(maxsize=4)
def _fitted(cell: Cell, scenes: str, restorer: str) -> Tensor:
    """δ (1, 3, H, W) for all captures of `fitted_on`; each worker makes it once."""
    settings, network = cell.settings, restorer_of(restorer, "cpu")
    assert settings.eps is not None and settings.steps is not None
    results = [_captured(Defense(network), Job(crop, scenes, cell, restorer), crop) for crop in cell.fitted_on]
    *_, last = perturbation(
        network,
        [(result.images["captured"], result.images["clean"]) for result in results],
        eps=settings.eps / 255,
        steps=settings.steps,
        generator=seeded(settings.seed),
    )
    return last.delta


def restorer_facts(restorer: str) -> dict[str, str]:
    """What a row says of its restorer: nothing of the default one."""
    return {} if restorer == "default" else {"restorer": restorer}


def _identity(photo: Photo | Crop, cell: Cell, purification: Purification | None) -> dict[str, Any]:
    """What makes a row one of a kind."""
    settings = {key: value for key, value in asdict(cell.settings).items() if key != "seed"}
    facts = purification.facts() if purification else None
    return {"split": photo.split, "image": photo.name, "size": cell.size} | settings | {"purifier": facts}


def run_jobs(
    jobs: Sequence[Job], partial: Path, workers: int, known: Sequence[Mapping[str, Any]] = ()
) -> Iterator[tuple[int, int]]:
    """Compute what is missing in `partial` (JSON lines), cell by cell; yields (jobs done, jobs of all).

    Args:
        jobs: one per image and cell.
        partial: grows by one line per job; read back to resume.
        workers: processes of one thread each; 0 computes in this one.
        known: rows that are there already, of the same weights.

    Raises:
        UDCDefenseError: an image or a checkpoint cannot be used.
    """
    done = {key_of(row) for row in (*known, *read_parts(partial))}
    missing = [job for job in (job.without(done) for job in jobs) if job.cell.purifications]
    count = len(jobs) - len(missing)
    yield count, len(jobs)
    for rows in computed(rows_of, missing, workers):
        append(partial, rows)
        count += 1
        yield count, len(jobs)


def computed(function: Callable[[J], R], jobs: Sequence[J], workers: int) -> Iterator[R]:
    """What a function makes of each job, as it is known: in processes of one thread each, or with 0 in this one.

    Raises:
        UDCDefenseError: a process was ended.
    """
    if not jobs or workers == 0:
        yield from map(function, jobs)
        return
    # Spawned, not forked: torch's thread pool does not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        try:
            for future in as_completed([pool.submit(function, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool as error:
            raise UDCDefenseError(
                f"one of {workers} processes was ended, perhaps for want of memory; what was finished is kept."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """One thread; Ctrl-C ends it in silence, and a parent that was killed takes it along."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@dataclass(frozen=True)
class Results:
    """What a results file holds."""

    command: str
    seed: int
    protocol: dict[str, Any]
    versions: dict[str, str]
    hardware: str
    checkpoints: dict[str, str]
    rows: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def _by_setting(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            found.setdefault(key_of(row | {"image": ""}), []).append(row)
        return found

    def of_setting(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """Rows of all images with the split, size, purifier and settings of `wanted`."""
        return self._by_setting.get(key_of(wanted | {"image": ""}), [])

    def joined(self, other: Results) -> Results:
        """These and the rows of another protocol."""
        return replace(self, rows=self.rows + other.rows)


def write_results(path: Path, results: Results) -> None:
    """One JSON file, one row per line, in an order of their own: stable under git."""
    head = asdict(replace(results, rows=[]))
    del head["rows"]
    text = json.dumps(head, indent=1)[:-2] + ',\n "rows": [\n  '
    ordered = sorted(results.rows, key=_order)
    text += ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in ordered) + "\n ]\n}\n"
    write_file(path, text.encode())


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    settings = {name: row[name] for name in (*SETTINGS, "size", "purifier") if name in row}
    return row["split"], row["image"], row["threat"], row["eps"] or 0, json.dumps(settings, sort_keys=True)


def read_results(path: Path | str) -> Results:
    """A results file.

    Raises:
        SceneError: it cannot be read.
    """
    try:
        return Results(**json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise SceneError(f"{path}: cannot be read as a results file ({error}).") from error


def checkpoints_of(jobs: Sequence[Job]) -> dict[str, str]:
    """sha256 of the weights that jobs take: restorers, purifiers, and the guide where one is asked."""
    asked = {purification for job in jobs for purification in job.cell.purifications}
    faced = {purification for purification in asked if purification and not purification.is_transform}
    guides = ["default"] if any(purification.guide == "feature" for purification in faced) else []
    sums = {f"restorer {name}": weights_sum(name, "restorer") for name in sorted({job.restorer for job in jobs})}
    sums |= {f"purifier {name}": weights_sum(name, "purifier") for name in sorted({p.weights for p in faced})}
    return sums | {f"guide {name}": weights_sum(name, "guide") for name in guides}
