"""The protocol of the detector: its threshold, its table, and what each crop meets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from udc_defense.evaluation import detection_suite
from udc_defense.evaluation.detection_suite import AWARE, OBLIVIOUS, calibration, jobs, table
from udc_defense.evaluation.entry import Entry
from udc_defense.evaluation.runner import CENTRE, Cell, Results, _identity
from udc_defense.photo.result import KEYS
from udc_defense.purification import DEFAULT
from udc_defense.scenes import Crop


def row(entry: Entry, split: str, name: int, clean: float, attacked: float) -> dict[str, Any]:
    cell = Cell(entry.settings(0), (entry.purification,), size=CENTRE)
    found = _identity(Crop(split, f"{name}.hdr", "perspective", 0, 0, 80, adaptive=False), cell, entry.purification)
    return found | {"psnr": dict.fromkeys(KEYS, 20.0), "detection": {"clean": clean, "attacked": attacked}}


def results(attacked: float) -> Results:
    """40 clean captures of val score -40, -39, …; those of heldout 20 dB more."""
    rows = [
        row(entry, split, i, -40.0 + i + shift, attacked)
        for entry in (*OBLIVIOUS, *AWARE)
        for split, shift in (("val", 0), ("heldout", 20))
        for i in range(40)
    ]
    return Results("make results", 0, {}, {}, "", {"restorer default": "ab"}, rows)


def test_the_threshold_is_the_conformal_quantile_of_val() -> None:
    found = calibration(results(0.0))
    # The ⌈41 · 0.95⌉ = 39th of 40.
    assert found["threshold"] == -2.0 and found["captures"] == 40 and found["false_alarms"] == 0.05
    assert found["purifier"] == DEFAULT.facts() and found["checkpoints"] == {"restorer default": "ab"}


@pytest.mark.parametrize(
    ("attacked", "split", "cells"),
    [
        (5.0, "val", "| PGD-20, ε = 4 | 1.00 | 100% | 20.00 | 20.00 | 40 |"),
        (-20.5, "val", "| PGD-20, ε = 4 | 0.50 | 0% | 20.00 | 20.00 | 40 |"),
        (-50.0, "heldout", "| PGD-20, ε = 4 | 0.00 | 0% | 20.00 | 20.00 | 40 |"),
    ],
)
def test_table(attacked: float, split: str, cells: str) -> None:
    text = table(results(attacked), split)
    assert cells in text
    # Above -2 lies one of 40 of val, and those from -1 to 19 of heldout.
    assert ("| clean |  | 2% |" if split == "val" else "| clean |  | 52% |") in text
    assert len(text.splitlines()) == 3 + len(OBLIVIOUS) + len(AWARE)


def test_adaptive_crops_alone_meet_who_knows_the_detector(tmp_path: Path) -> None:
    crops = tmp_path / "crops.csv"
    lines = ["split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive"]
    lines += [f"val,street.hdr,perspective,{90 * i},0,80,,{i % 2}" for i in range(4)]
    crops.write_text("\n".join(lines) + "\n")
    found = list(jobs(tmp_path, crops, None, 0))
    assert len(found) == 4 * len(OBLIVIOUS) + 2 * len(AWARE)
    evading = [job for job in found if job.cell.settings.evade]
    assert len(evading) == 2 and all(job.crop.adaptive for job in evading)
    assert detection_suite.describe()["defense"] == DEFAULT.facts()
