"""report.json: what was done to the photos of a run, with which networks, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from udc_defense.defense import Defense
from udc_defense.detection import calibrated
from udc_defense.photo.settings import Settings
from udc_defense.provenance import versions
from udc_defense.purification import Purification


def new_report(
    settings: Settings, purifier: Mapping[str, Any] | None, checkpoints: Mapping[str, str], *, captured: bool
) -> dict[str, Any]:
    """The report before its first photo; `Result.report` makes the entries of its `images`.

    Args:
        settings: of capture and attack.
        purifier: facts of the purification; None without a defense.
        checkpoints: `kind name` -> sha256 of the weights in use.
        captured: the photos are captures already.
    """
    return {
        "settings": asdict(settings) | {"purifier": purifier, "captured": captured},
        "versions": versions(),
        "checkpoints": checkpoints,
        "detector": None if purifier is None else {"threshold": calibrated(purifier, checkpoints)},
        "images": [],
    }


def checkpoints_of(defense: Defense, restorer: str, purification: Purification | None) -> dict[str, str]:
    """`kind name` -> sha256 of the weights that a defense has loaded, under the names that they were asked for by."""
    sums = {f"restorer {restorer}": str(defense.restorer.sha256)}
    if defense.purifier and purification and not purification.is_transform:
        sums[f"purifier {purification.weights}"] = str(defense.purifier.sha256)
    return sums
