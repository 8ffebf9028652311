"""What a level for each photo is worth: rows made so that the answer is known."""

from __future__ import annotations

from typing import Any

import pytest

from udc_defense.evaluation import selection
from udc_defense.evaluation.entry import Entry
from udc_defense.evaluation.purifier_suite import PROBE, SELECTED, SELECTION_EPSILONS
from udc_defense.evaluation.runner import CENTRE, Cell, Results, _identity
from udc_defense.evaluation.selection import LEVELS
from udc_defense.photo.result import KEYS
from udc_defense.purification import Purification
from udc_defense.scenes import Crop


def psnr(eps: float, level: int) -> float:
    """Best at a level that rises with ε: 0, 10, 20, 40, 75; a dB less for each step away."""
    wanted = {0.0: 0, 1.0: 10, 2.0: 20, 4.0: 40, 8.0: 75}[eps]
    return 30.0 - abs(LEVELS.index(level) - LEVELS.index(wanted))


def row(purification: Purification, eps: float, crop: Crop, score: float) -> dict[str, Any]:
    entry = Entry("", "pgd", {"eps": eps}, purification)
    cell = Cell(entry.settings(0), (purification,), size=CENTRE)
    level = purification.noise_level
    found = dict.fromkeys(KEYS, 0.0) | {"restored": psnr(0.0, 0), "attacked_restored": psnr(eps, 0)}
    found |= {"defended_clean": psnr(0.0, level), "defended_attacked": psnr(eps, level)}
    detection = {"clean": -40 + score, "attacked": -40 + 4 * eps + score}
    return _identity(crop, cell, purification) | {"psnr": found, "detection": detection}


@pytest.fixture
def results() -> Results:
    """Two views of each of 3 scenes a split; scores tell the ε apart."""
    crops = [
        Crop(split, f"{split}{scene}.hdr", "perspective", view, 0, 80, adaptive=False)
        for split in ("val", "heldout")
        for scene in range(3)
        for view in (0, 90)
    ]
    rows = [
        row(purification, eps, crop, (crop.yaw or 0) / 100)
        for purification in (*SELECTED, PROBE)
        for eps in SELECTION_EPSILONS
        for crop in crops
    ]
    return Results("make results", 0, {}, {}, "", {}, rows)


def test_scores_that_tell_attacks_apart_give_the_best_level_of_each(results: Results) -> None:
    for split in ("val", "heldout"):
        found, choosers = selection.choosers(results, split)
        assert found.quality.shape == (6, 5, len(LEVELS)) and found.scores.shape == (6, 5)
        assert (selection.chosen_quality(found, choosers) == 30.0).all()
        chosen = [choosers[0](score) for score in found.scores[0]]
        assert chosen == [0, 10, 20, 40, 75]


def test_val_is_judged_by_other_scenes(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    original = selection.chooser_of

    def watched(found: selection.Measured, indices: list[int]) -> selection.Chooser:
        kept.append([found.scenes[i] for i in indices])
        return original(found, indices)

    monkeypatch.setattr(selection, "chooser_of", watched)
    found, _ = selection.choosers(results, "val")
    assert len(kept) == 3 and all(len(scenes) == 4 for scenes in kept)
    assert {scene for scenes in kept for scene in scenes} == set(found.scenes)


def test_gain_over_the_best_fixed_level(results: Results) -> None:
    steps = [LEVELS.index(level) for level in (0, 10, 20, 40, 75)]
    fixed = min(range(len(LEVELS)), key=lambda i: sum(abs(i - step) for step in steps))
    assert selection.best_fixed(results) == fixed
    expected = sum(abs(fixed - step) for step in steps) / 5
    gain = selection.gain(results, "heldout")
    assert gain.mean == gain.low == gain.high == pytest.approx(expected), "all photos are alike"
    assert f"best fixed, t* = {LEVELS[fixed]}" in selection.table(results, "heldout")
    assert f"gains {expected:+.2f} dB over t* = {LEVELS[fixed]}" in selection.gain_words(results, "heldout")


def test_levels_of_the_published_selection() -> None:
    rows = [
        {"eps": eps, "distance": distance, "level": level, "scores": {}}
        for eps, distance, level in ((8.0, "kid", 30), (0.0, "kid", 0), (8.0, "frechet", 50), (0.0, "frechet", 5))
    ]
    lines = selection.published_table({"rows": rows}).splitlines()
    assert lines == ["| ε (1/255) | frechet | kid |", "|---|---|---|", "| 0 | 5 | 0 |", "| 8 | 50 | 30 |"]
