"""What a level for each photo is worth: rows made so that the answer is known."""

from __future__ import annotations

from typing import Any

import pytest

from study import selection, tables
from study.selection import EPSILONS, LEVELS, PROBE, SELECTED
from udc_defense.purification import Purification, defense_name


def psnr(eps: float, level: int) -> float:
    """Best at a level that rises with ε: 0, 10, 20, 40, 75; a dB less for each step away."""
    wanted = {0: 0, 1: 10, 2: 20, 4: 40, 8: 75}[int(eps)]
    return 30.0 - abs(LEVELS.index(level) - LEVELS.index(wanted))


def row(purification: Purification, eps: int, image: str, score: float) -> dict[str, Any]:
    level = purification.noise_level
    found = {"restored": psnr(0, 0), "attacked_restored": psnr(eps, 0)}
    found |= {"defended_clean": psnr(0, level), "defended_attacked": psnr(eps, level)}
    detection = {"clean": -40 + score, "attacked": -40 + 4 * eps + score}
    named = {"image": image, "defense": defense_name(purification), "purifier": purification.facts()}
    return named | {"psnr": found, "detection": detection}


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two views of each of 3 scenes a split; scores tell the ε apart."""
    by_name = {defense_name(purification): purification for purification in (*SELECTED, PROBE)}
    radii = {f"PGD-20, ε = {eps}": eps for eps in EPSILONS}

    def rows(study: str, split: str, title: str, defense: str) -> list[dict[str, Any]]:
        assert study == "purifiers"
        views = [(f"{split}{scene}.hdr@{view}", view / 100) for scene in range(3) for view in (0, 90)]
        return [row(by_name[defense], radii[title], image, score) for image, score in views]

    monkeypatch.setattr(selection, "rows", rows)


def test_scores_that_tell_attacks_apart_give_the_best_level_of_each() -> None:
    for split in ("val", "heldout"):
        found, choosers = selection.choosers(split)
        assert found.quality.shape == (6, 5, len(LEVELS)) and found.scores.shape == (6, 5)
        assert (selection.chosen_quality(found, choosers) == 30.0).all()
        chosen = [choosers[0](score) for score in found.scores[0]]
        assert chosen == [0, 10, 20, 40, 75]


def test_val_is_judged_by_other_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    original = selection.chooser_of

    def watched(found: selection.Measured, indices: list[int]) -> selection.Chooser:
        kept.append([found.scenes[i] for i in indices])
        return original(found, indices)

    monkeypatch.setattr(selection, "chooser_of", watched)
    found, _ = selection.choosers("val")
    assert len(kept) == 3 and all(len(scenes) == 4 for scenes in kept)
    assert {scene for scenes in kept for scene in scenes} == set(found.scenes)


def test_gain_over_the_best_fixed_level() -> None:
    steps = [LEVELS.index(level) for level in (0, 10, 20, 40, 75)]
    fixed = min(range(len(LEVELS)), key=lambda i: sum(abs(i - step) for step in steps))
    assert selection.best_fixed() == fixed
    expected = sum(abs(fixed - step) for step in steps) / 5
    gain = selection.gain("heldout")
    assert gain.mean == gain.low == gain.high == pytest.approx(expected), "all photos are alike"
    assert f"best fixed, t* = {LEVELS[fixed]}" in selection.table("heldout")


def test_levels_of_the_published_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        {"eps": eps, "distance": distance, "level": level, "scores": {}}
        for eps, distance, level in ((8.0, "kid", 30), (0.0, "kid", 0), (8.0, "frechet", 50), (0.0, "frechet", 5))
    ]
    monkeypatch.setattr(tables, "results", lambda _: {"rows": found})
    head, _, *lines = tables.published_level().splitlines()
    assert [head, *lines] == ["| ε (1/255) | frechet | kid |", "| 0 | 5 | 0 |", "| 8 | 50 | 30 |"]
