"""Everything of a run as files."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from udc_defense.demo.handlers import keep
from udc_defense.images import SUFFIXES, write_png
from udc_defense.output import write_file, write_json
from udc_defense.photo.recipe import Recipe
from udc_defense.photo.result import STAGES, Result


def downloads(photo: str, content: bytes, result: Result, recipe: Recipe, report: dict[str, Any]) -> list[str]:
    """Paths: a zip of everything, the recipe, and a 16-bit PNG of every stage of the film strip."""
    with tempfile.TemporaryDirectory(prefix="udc-run-") as name:
        folder = Path(name)
        write_run(folder, photo, content, result, recipe, report)
        deep = {stage: folder / "16-bit" / f"{stage}.png" for stage in STAGES if stage in result.images}
        return [
            keep(zipped(folder), "everything.zip"),
            keep((folder / "recipe.json").read_bytes(), "recipe.json"),
            *(keep(path.read_bytes(), f"{stage}-16-bit.png") for stage, path in deep.items()),
        ]


def write_run(folder: Path, photo: str, content: bytes, result: Result, recipe: Recipe, report: dict[str, Any]) -> None:
    """The photo as it came, every stage in 8 bit, as `udc-defense run` writes it, and in 16 bit, and two JSON files.

    Args:
        folder: where to.
        photo: what the visitor called it.
        content: the photo's file.
        result: of the run.
        recipe: of the run.
        report: of the run.
    """
    suffix = Path(photo).suffix.lower()
    write_file(folder / f"photo{suffix if suffix in SUFFIXES else ''}", content)
    for stage, image in result.images.items():
        write_png(image, folder / f"{stage}.png")
        write_png(image, folder / "16-bit" / f"{stage}.png", bits=16)
    for file, facts in (("recipe.json", recipe.facts()), ("report.json", report)):
        write_json(folder / file, facts)


def zipped(folder: Path) -> bytes:
    """A folder as a zip; PNGs are not compressed twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return buffer.getvalue()
