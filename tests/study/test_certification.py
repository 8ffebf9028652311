"""The protocol of certification: choices on val, measured once on heldout, resumed, tabulated."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study import tables
from study.measure import certification
from study.measure.certification import (
    BUDGETS,
    FIXED,
    GRID,
    SAMPLES,
    Job,
    Suite,
    systems,
)
from udc_defense.certification.noise import Gaussian, Laplace, Noise
from udc_defense.certification.selection import Candidate, best

BEST = Gaussian(0.05)


def certificate(noise: Noise) -> Any:
    """20 dB everywhere; more for one noise, most for one that costs too much; all abstain at the largest radius."""
    floor = {BEST: 24.0, Laplace(0.2): 30.0}.get(noise, 20.0)
    bare = 25.0
    smoothed = bare - (4.0 if noise == Laplace(0.2) else 1.0)
    largest = max(budget.radius for budget in BUDGETS)
    floors = [
        {"norm": b.norm, "radius": b.radius, "median": None if b.radius == largest else floor - b.radius}
        for b in BUDGETS
    ]
    psnr = {"bare": bare, "smoothed": smoothed, "drawn": smoothed}
    return SimpleNamespace(report=lambda: {"psnr": psnr, "floors": floors, "seconds": {"sampling": 2.0}})


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    path = tmp_path / "crops.csv"
    rows = [
        f"{split},{split}{n}.hdr,perspective,0,0,80,,{int(n < 2)}" for split in ("val", "heldout") for n in range(3)
    ]
    path.write_text("\n".join(["split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive", *rows]))
    return path


def test_noise_is_chosen_on_val_and_measured_on_heldout(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Job] = []

    def measure(job: Job, *_: Any) -> Any:
        if len(measured) == 30:
            measured.append(job)
            raise KeyboardInterrupt
        measured.append(job)
        return certificate(job.noise)

    monkeypatch.setattr(Job, "_certificate", measure)
    with pytest.raises(KeyboardInterrupt):
        list(Suite(tmp_path, crops, "default", None, 0, tmp_path).run())
    suite = Suite(tmp_path, crops, "default", None, 0, tmp_path)
    list(suite.run())
    assert len(measured) == 1 + len(set(measured))  # the one that was cut off, and no other, is measured again
    val, heldout = ([job for job in set(measured) if job.crop.split == split] for split in SAMPLES)
    assert len(val) == len(GRID) * 2 * 2 and {job.noise for job in heldout} == {BEST, FIXED}
    results = suite.results()
    chosen = results["chosen"]["target + purifier"]
    assert [c["noise"] for c in chosen] == [BEST.facts() if b.radius < 0.2 else None for b in BUDGETS]
    monkeypatch.setattr(tables, "results", lambda _: results)
    floors = tables.certified_floors()
    assert "R = 0.1 (0.12/255 RMS)" in floors and "\n| target + purifier | 23.98 | 23.95 | 23.90 | none |" in floors
    text = tables.certified("l2")
    assert "| target | gaussian, σ = 0.05 | 1.00 | 2.0 | 500 | 23.98 (chosen) |" in text and "abstains" in text


def test_a_surrogate_costs_the_target_no_queries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Job, "_certificate", lambda job, *_: certificate(job.noise))
    crop = SimpleNamespace(split="heldout", name="a")
    queries = {s.title: Job(crop, s, FIXED).row(tmp_path, 0)["queries_of_target"] for s in systems("default", "own")}  # type: ignore[arg-type]
    assert queries == {"target": 500, "target + purifier": 500, "surrogate": 0, "surrogate + purifier": 0}


def test_the_best_noise_within_the_cost() -> None:
    candidates = [Candidate(Gaussian(s), floor, cost) for s, floor, cost in ((1, 9, 1.0), (2, 12, 3.0), (3, 15, 3.1))]
    assert best(candidates, 3.0) == candidates[1]
    assert best(candidates, 0.5) is None


@pytest.mark.slow
def test_a_certificate_of_the_embedded_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a drawn scene, with few samples."""
    import torch

    monkeypatch.setattr(certification, "SAMPLES", {"val": 60})
    ramp = torch.linspace(0.01, 2, 256).expand(1, 3, 256, 256)
    crop = SimpleNamespace(split="val", name="ramp", scene=lambda _: ramp)
    row = Job(crop, systems("default", None)[1], Gaussian(0.05)).row(tmp_path, 0)  # type: ignore[arg-type]
    floors = [floor["median"] for floor in row["floors"] if floor["norm"] == "l2"]
    assert floors[0] is not None and floors[0] < row["psnr"]["smoothed"] and floors[-1] is None
