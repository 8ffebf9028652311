"""The comparison behind `results/panels.json`: one restorer for all panels, or one for each.

All come from one network by the same number of further steps; they differ in the panels that they were shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from udc_defense.evaluation import generalisation
from udc_defense.evaluation.generalisation import PLAIN, Generalisation

BLIND = "blind"
SPLIT = "val"  # it is a choice


class Panels(Generalisation):
    """The measurement.

    Args:
        scenes: what the crop list's paths start from.
        crops: the crop list.
        runs: holds a run folder `blind` and one named by each panel.
        seed: of captures.
    """

    command = "udc-defense panels --scenes DIR --crops DIR/crops.csv --runs runs/panels"

    def __init__(self, scenes: Path, crops: Path, runs: Path, seed: int) -> None:
        names = (BLIND, *(condition.panel for condition in PLAIN))
        sources = {name: str(runs / name / "restorer") for name in names}
        super().__init__(scenes, crops, sources, seed, SPLIT, PLAIN)


def table(results: dict[str, Any]) -> str:
    """Markdown: what each network adds to the captures of each panel."""
    return generalisation.table(results, SPLIT, PLAIN)
