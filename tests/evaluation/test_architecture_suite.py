"""The comparison of architectures: what each crop meets, and what the table and the verdict say of known rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from udc_defense.evaluation import architecture_suite
from udc_defense.evaluation.architecture_suite import EPSILONS, NETWORKS, table, verdict
from udc_defense.evaluation.finetuning_suite import knowing
from udc_defense.evaluation.runner import Job, Results
from udc_defense.purification import DEFAULT, DIFFUSION

CSV = """split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive
val,a.hdr,perspective,0,0,80,,1
heldout,b.hdr,perspective,0,0,80,,1
heldout,c.hdr,perspective,0,0,80,,0
"""
# What PGD takes from each network, and what each purifier gives back.
LOST = {network: 5.0 + number for number, network in enumerate(NETWORKS)}
BACK = {DEFAULT.weights: 4.0, DIFFUSION.weights: 3.0}


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    path = tmp_path / "crops.csv"
    path.write_text(CSV, encoding="utf-8")
    return list(architecture_suite.jobs(tmp_path, path, None, 0))


@pytest.fixture
def results(jobs: list[Job]) -> Results:
    """What networks that lose `LOST` would write."""
    rows: list[dict[str, Any]] = []
    for job in jobs:
        for purification in job.cell.purifications:
            assert purification is not None
            attacked = 26 - LOST[job.restorer] * job.cell.settings.eps / 4
            scores = {"captured": 20.0, "restored": 26.0, "noise_restored": 25.5, "attacked_restored": attacked}
            scores |= {"defended_clean": 25.75, "defended_attacked": attacked + BACK[purification.weights]}
            rows.append(job.identity(purification) | {"seed": 0, "psnr": scores})
    return Results("make results", 0, {}, {}, "", {}, rows)


def test_every_network_meets_the_heldout_crops_alone(jobs: list[Job]) -> None:
    assert {job.crop.split for job in jobs} == {"heldout"}
    unknowing = [job for job in jobs if job.cell.settings.threat == "oblivious"]
    assert len(unknowing) == len(NETWORKS) * len(EPSILONS) * 2
    assert all(job.cell.purifications == (DEFAULT, DIFFUSION) for job in unknowing)
    known = [job for job in jobs if job not in unknowing]
    assert [(job.restorer, job.cell.settings) for job in known] == [(n, knowing(n, 4.0).settings(0)) for n in NETWORKS]


def test_the_table_of_known_rows(results: Results) -> None:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(results).splitlines()]
    assert [line[0] for line in lines[2:]] == list(NETWORKS.values())
    assert " ".join(lines[3][1:]) == "20.00 26.00 25.50 23.00 20.00 14.00 25.75 24.00 25.75 23.00 24.00"


def test_the_verdict_of_known_rows(results: Results) -> None:
    said = verdict(results)
    names = list(NETWORKS.values())
    assert f"takes 5.0 to {4 + len(names)}.0 dB from restorers of {len(names)} architectures" in said
    assert f"Most is lost by {names[-1]}, least by {names[0]}." in said
    assert "the same norm 0.5 to 0.5 dB" in said
    assert f"4.0 to 4.0 dB back ({names[0]} gets most, {names[0]} least), for 0.2 to 0.2 dB of clean cost" in said
