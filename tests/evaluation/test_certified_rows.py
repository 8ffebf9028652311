"""Rows of a restorer whose gain is bounded say so, where no purifier stands in front of it."""

from __future__ import annotations

from pathlib import Path

import torch

from udc_defense.evaluation.evaluate import Team, facts, run
from udc_defense.evaluation.rows import certified, read_run, value
from udc_defense.evaluation.study import Attack, Part, Plan, Study
from udc_defense.photo.source import from_title
from udc_defense.purification import Purification
from udc_defense.restorers.lipschitz import LipschitzRestorer
from udc_defense.samples import STREETS


def test_the_bound_is_in_the_rows_of_the_bare_restorer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    restorer = LipschitzRestorer(1.2, (14,), (10,), (), (1,))
    restorer.save_pretrained(tmp_path / "net")
    study = Study(24, (Part((Attack("PGD-2", "pgd", {"steps": 2}),)),), images=1)
    photos, jpeg = (from_title(next(iter(STREETS))),), Purification("jpeg", strength=75)
    plan = Plan(study, photos, {"udc": (str(tmp_path / "net"),)}, (jpeg,))
    for _ in run(plan, tmp_path / "run", facts(plan, 1), 0, Team()):
        pass
    rows = {row["defense"]: row for row in read_run(tmp_path / "run")}
    bare, behind = rows["none"], rows["jpeg:75"]
    assert bare["lipschitz"] == restorer.lipschitz_bound and "lipschitz" not in behind
    floor, left = certified(bare, 4.0), value(bare, "defended_attacked")
    assert floor is not None and left is not None and floor < left
    assert certified(behind, 4.0) is None
