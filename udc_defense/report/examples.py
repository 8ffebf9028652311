"""The best and the worst image of a run: its stages as pictures inside the page, and what the attack added."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from udc_defense.errors import ImageError
from udc_defense.images import read_image, to_pil
from udc_defense.photo.result import STAGES
from udc_defense.report.runs import Run

WIPE = ("attacked_restored", "defended_attacked")
FILLED = 0.35  # of the range of values, by the largest change of an amplified perturbation: more of it would glare


@dataclass(frozen=True)
class Picture:
    """A stage of an example: `source` is a data URI."""

    stage: str
    title: str
    source: str
    psnr: float | None


@dataclass(frozen=True)
class Example:
    """One image.

    Attributes:
        facts: its entry in examples.json.
        run: its run's name.
        pictures: every stage that is there, in the order of `STAGES`.
        wipe: the two stages that the wipe begins with; empty where one is missing.
        perturbation: what the attack added, with its scale in the title; None where a stage is missing.
    """

    facts: dict[str, Any]
    run: str
    pictures: list[Picture]
    wipe: list[Picture]
    perturbation: Picture | None


def examples(runs: Sequence[Run]) -> list[Example]:
    """Of all runs; the best first, as they are listed."""
    return [_example(entry, run.name) for run in runs for entry in run.examples]


def _example(entry: dict[str, Any], run: str) -> Example:
    psnr = entry.get("psnr") or {}
    found = {
        stage: Picture(stage, title, _uri(to_pil(image)), psnr.get(stage))
        for stage, title in STAGES.items()
        if (image := _read(entry["path"] / f"{stage}.png")) is not None
    }
    wipe = [found[stage] for stage in WIPE if stage in found]
    return Example(entry, run, list(found.values()), wipe if len(wipe) == 2 else [], _perturbation(entry["path"]))


def _read(path: Path) -> Any:
    """A stage, or None where its file is missing or was not written to its end."""
    try:
        return read_image(path)
    except ImageError:
        return None


def _perturbation(folder: Path) -> Picture | None:
    """Amplified around grey, by the factor that its title states."""
    before, after = (_read(folder / f"{stage}.png") for stage in ("captured", "attacked_input"))
    if before is None or after is None or before.shape != after.shape:
        return None
    delta = after - before
    largest = float(delta.abs().max())
    factor = max(1, math.floor(FILLED / largest)) if largest else 1
    title = f"Perturbation × {factor}: grey is 0, at most {255 * largest:.0f} of 255"
    return Picture("perturbation", title, _uri(to_pil(0.5 + delta * factor)), None)


def _uri(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
