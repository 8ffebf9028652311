"""Memory that rises and falls with what is allocated; evaluations of a defense."""

from __future__ import annotations

import pytest
import torch

from udc_defense.checkpoints.load import load_purifier
from udc_defense.defense import Defense
from udc_defense.evaluation.overhead import overhead, peak_mb, reset_peak


def test_the_peak_is_of_what_came_since_the_reset() -> None:
    reset_peak()
    before = peak_mb()
    if before is None:
        pytest.skip("this system does not say how much memory a process takes")
    block = torch.ones(50_000_000)  # 200 MB
    del block
    during = peak_mb()
    reset_peak()
    after = peak_mb()
    assert during is not None and after is not None
    assert during - before == pytest.approx(200, abs=20) and during - after > 150


def test_a_defense_takes_longer_than_none_and_counts_its_evaluations() -> None:
    identity = torch.nn.Identity()
    none, purified = overhead([Defense(identity), Defense(identity, load_purifier(draws=2))], 16, "cpu")
    assert (none["evaluations"], purified["evaluations"]) == (0, 2)
    assert 0 <= none["seconds"] < purified["seconds"]
