"""Rows of results over many images: written as they are known, never lost to a kill, never repeated.

One row per image × attack × ε × threat × purifier. The rows of an image are computed together (its attack is made once)
and appended in one write; a resumed run skips the images that are there.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from udc_defense.checkpoints import checksum, load_purifier, load_restorer, resolve
from udc_defense.defense import Defense
from udc_defense.errors import SceneError
from udc_defense.evaluation import case
from udc_defense.evaluation.case import Settings
from udc_defense.images import write_file
from udc_defense.scenes import Crop

VERSIONED = ("udc-defense", "torch", "diffusers", "numpy", "pillow", "opencv-python-headless")
ADAPTIVE_SIZE = 128


@dataclass(frozen=True)
class Purification:
    """Options of a purifier, by the names of `DiffusionPurifier`."""

    sampler: str
    noise_level: int
    steps: int = 5
    draws: int = 1
    aggregate: str = "mean"


@dataclass(frozen=True)
class Cell:
    """One setting of attack, and the purifications that face its images. `size` crops the scene's centre."""

    settings: Settings
    purifications: tuple[Purification, ...]
    size: int = 256


@dataclass(frozen=True)
class Job:
    """All cells of one image; pickled to a worker."""

    crop: Crop
    scenes: str
    cells: tuple[Cell, ...]
    restorer: str = "default"
    purifier: str = "default"


def rows_of(job: Job) -> list[dict[str, Any]]:
    """The rows of one image."""
    restorer = load_restorer(job.restorer)
    scene = job.crop.scene(job.scenes)
    rows = []
    for cell in job.cells:
        margin = (scene.shape[-1] - cell.size) // 2
        view = scene[..., margin : margin + cell.size, margin : margin + cell.size]
        adaptive = cell.settings.threat != "oblivious"
        attacked = None
        for purification in cell.purifications:
            defense = Defense(restorer, load_purifier(job.purifier, **asdict(purification)))
            if attacked is None or adaptive:
                attacked = _attacked(defense, cell.settings, job.crop.name, view)
            result = case.finish(case.defend(defense, case.fork(attacked)))
            rows.append(_row(job.crop, cell, purification, result))
    return rows


def _attacked(defense: Defense, settings: Settings, name: str, scene: torch.Tensor) -> case.Result:
    """Everything before the defence; under an adaptive threat the attack is made for this very defence."""
    steps = case.run(Defense(defense.restorer), settings, name, scene=scene)
    if settings.threat == "oblivious":
        return case.finish(steps)
    result = case.finish(case.run(Defense(defense.restorer), replace(settings, attack="none"), name, scene=scene))
    result.seed = case.row_seed(settings.seed, name, settings.attack, settings.eps, settings.threat, 0)
    case.finish(case.attack(defense, settings, result))
    return case.finish(case.control(defense, result))


def _row(crop: Crop, cell: Cell, purification: Purification, result: case.Result) -> dict[str, Any]:
    settings = {key: value for key, value in asdict(cell.settings).items() if key != "seed"}
    return {"split": crop.split, "size": cell.size} | result.report() | settings | {"purifier": asdict(purification)}


def run_jobs(jobs: Sequence[Job], partial: Path, workers: int) -> Iterator[tuple[int, int]]:
    """Compute what is missing in `partial` (JSON lines), image by image; yields (images done, images of all).

    Args:
        jobs: one per image.
        partial: grows by one line per image; read back to resume.
        workers: processes of one thread each.

    Raises:
        UDCDefenseError: an image or a checkpoint cannot be used.
    """
    done = {(row["split"], row["image"]) for row in read_rows(partial)}
    missing = [job for job in jobs if (job.crop.split, job.crop.name) not in done]
    count = len(jobs) - len(missing)
    yield count, len(jobs)
    if not missing:
        return
    # Spawned, not forked: torch's thread pool does not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_single_thread) as pool:
        futures = [pool.submit(rows_of, job) for job in missing]
        try:
            for future in as_completed(futures):
                _append(partial, future.result())
                count += 1
                yield count, len(jobs)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _single_thread() -> None:
    torch.set_num_threads(1)


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """One line per image, then to disk: a kill leaves all rows of an image or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(json.dumps(rows).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a partial file; a line that a kill has cut off is dropped from the file."""
    if not path.is_file():
        return []
    rows, whole, lines = [], [], path.read_bytes().splitlines(keepends=True)
    for line in lines:
        with contextlib.suppress(ValueError):
            if line.endswith(b"\n"):
                rows += json.loads(line)
                whole.append(line)
    if len(whole) < len(lines):
        write_file(path, b"".join(whole))
    return rows


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


def write_results(path: Path, results: Results) -> None:
    """One JSON file, one row per line, in the order of split, image, ε and purifier: stable under git."""
    head = asdict(replace(results, rows=[]))
    del head["rows"]
    text = json.dumps(head, indent=1)[:-2] + ',\n "rows": [\n  '
    ordered = sorted(
        results.rows, key=lambda r: (r["split"], r["image"], r["threat"], r["eps"], json.dumps(r["purifier"]))
    )
    text += ",\n  ".join(json.dumps(row) for row in ordered) + "\n ]\n}\n"
    write_file(path, text.encode())


def read_results(path: Path | str) -> Results:
    """A results file.

    Raises:
        SceneError: it cannot be read.
    """
    try:
        return Results(**json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise SceneError(f"{path}: cannot be read as a results file ({error}).") from error


def versions() -> dict[str, str]:
    """Of Python and of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def checkpoint_sums(restorer: str, purifier: str | None) -> dict[str, str]:
    """sha256 of the weights in use."""
    sums = {f"restorer {restorer}": checksum(resolve(restorer, "restorer"))}
    if purifier:
        sums[f"purifier {purifier}"] = checksum(resolve(purifier, "purifier"))
    return sums
