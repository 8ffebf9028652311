"""What was measured: rows of studies, and results of other shapes, each read once."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from udc_defense.evaluation.rows import Row, read_run
from udc_defense.evaluation.study import Study, read_study
from udc_defense.evaluation.summary import summarize
from udc_defense.optics import PANELS
from udc_defense.purification import DIFFUSION, defense_name

ROOT = Path(__file__).parents[1]
RESULTS, STUDIES = ROOT / "results", ROOT / "study" / "studies"
VAL, HELDOUT = "val", "heldout"
SPLITS = (VAL, HELDOUT)
SETTLED = tuple(sorted(path.stem for path in STUDIES.glob("*.toml") if (RESULTS / path.stem).is_dir()))  # measured
MODEL = defense_name(DIFFUSION)  # a diffusion model that knows no restorer

Rows = list[Row]


@cache
def plan_of(name: str) -> Study:
    """A study of this folder."""
    return read_study(str(STUDIES / f"{name}.toml"))


@cache
def every_row(name: str) -> Rows:
    """All rows of a study."""
    return read_run(RESULTS / name)


@cache
def summary(name: str) -> dict[str, Any]:
    """What the rows of a study come to: worst attacks, flags and the rest of the honesty list."""
    return summarize(every_row(name)) | {"cost": []}


@cache
def _rows(name: str) -> dict[tuple[Any, ...], Rows]:
    found: dict[tuple[Any, ...], Rows] = {}
    for row in every_row(name):
        key = row["split"], row["restorer"], row["defense"], row["size"], row["title"]
        found.setdefault(key, []).append(row)
    return found


def rows(
    name: str, split: str, title: str, defense: str = "default", restorer: str = "default", size: int = 128
) -> Rows:
    """The rows of one setting of a study; none where it was not measured."""
    return _rows(name).get((split, restorer, defense, size, title), [])


@cache
def results(name: str) -> dict[str, Any]:
    """A results file without rows of photos, or what a run says of itself."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def about(name: str) -> dict[str, Any]:
    """What a study was measured with."""
    return results(f"{name}/run")


def summaries() -> dict[str, dict[str, Any]]:
    """What `evaluate --preset paper` found for the embedded restorers, by the panel whose captures they met."""
    return {panel: results(f"evaluation/{panel}/summary") for panel in PANELS}
