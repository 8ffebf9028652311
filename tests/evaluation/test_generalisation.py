"""Captures outside the training's range: what differs really differs, and what the table says of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from toy_models import inside

from udc_defense.checkpoints.files import EMBEDDED
from udc_defense.cli import main
from udc_defense.evaluation import panels
from udc_defense.evaluation.generalisation import CONDITIONS, Condition, table, verdict
from udc_defense.images import write_png
from udc_defense.imaging import inverse_tone_map
from udc_defense.metrics import psnr
from udc_defense.noise import seeded

OWN = {"axon20": 48.0, "toled": 49.0, "poled": 50.0}
SCENE = inverse_tone_map(inside(1, 3, 64, 64).float())


def error(condition: Condition) -> float:
    captured, clean = condition.pair(SCENE, seeded(0))
    return float(psnr(captured, clean))


def test_every_condition_gives_another_capture() -> None:
    plain, *others = (condition.pair(SCENE, seeded(0))[0] for condition in CONDITIONS)
    assert all((other - plain).abs().max() > 1 / 255 for other in others)
    assert all(((other * 255).round() - other * 255).abs().max() < 1e-3 for other in (plain, *others))


def test_more_lobes_and_less_light_are_worse() -> None:
    assert error(Condition("", strength=2)) < error(Condition("")) < error(Condition("", strength=0.5))
    assert error(Condition("", light=0.25)) < error(Condition(""))


def test_shot_noise_doubles_with_a_quarter_of_the_light() -> None:
    flat = torch.full((1, 3, 128, 128), 0.25)  # slope of the tone map there: 1
    deviation = [float(Condition("", light=light).pair(flat, seeded(1))[0].std()) for light in (1, 0.25)]
    assert deviation[1] / deviation[0] == pytest.approx(2, rel=0.1)


def test_a_stop_doubles_the_light() -> None:
    clean = Condition("", stops=1).pair(SCENE, seeded(0))[1]
    assert torch.allclose(inverse_tone_map(clean), 2 * SCENE, rtol=1e-3)


def test_the_table_counts_what_became_worse() -> None:
    rows = [
        {"split": "val", "condition": c.words, "captured": 20.0, "restored": {"a": 22.0 + i, "b": 19.0 + 3 * i}}
        for c in CONDITIONS
        for i in range(2)
    ]
    lines = table({"rows": rows}, "val").splitlines()
    assert lines[0] == "| captures | capture (dB, n = 2) | a | b |"
    assert lines[2] == "| axon20, as it is | 20.00 | +2.50 | +0.50 (1) |" and len(lines) == 14


@pytest.mark.parametrize(("lost", "words"), [(0.0, "on none does it fall"), (19.0, "it falls on: two stops darker.")])
def test_the_verdict_names_where_it_fails(lost: float, words: str) -> None:
    rows = [
        {"split": "heldout", "condition": c.words, "captured": 20.0, "restored": {"default": 25.0 + i} | OWN}
        for i, c in enumerate(CONDITIONS)
    ]
    rows[8]["restored"] = {"default": 33.0 - lost} | OWN
    text = verdict({"rows": rows})
    assert "gains 5.0 dB (`axon20`; 15.0 dB on `toled`, 16.0 dB on `poled`)" in text and words in text
    assert text.endswith(" gains 28.0 dB on `axon20`, 29.0 dB on `toled`, 30.0 dB on `poled`.")
    assert "On 9 kinds" in text and "to 14.0 dB (two stops brighter)" in text


@pytest.mark.timeout(300)
def test_the_command_measures_every_crop(tmp_path: Path) -> None:
    write_png(inside(1, 3, 256, 256).float(), tmp_path / "photo.png")
    crops = tmp_path / "crops.csv"
    crops.write_text("split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive\nval,photo.png,box,,,,,0\n")
    asked = ["generalisation", "--scenes", str(tmp_path), "--crops", str(crops), "--restorer", "default"]
    assert main([*asked, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "generalisation.json").read_text().count('"condition"') == len(CONDITIONS)
    assert main([*asked[:-1], "nowhere", "--out", str(tmp_path)]) == 2


def test_one_network_for_all_panels_stands_beside_one_for_each(tmp_path: Path) -> None:
    write_png(inside(1, 3, 256, 256).float(), tmp_path / "photo.png")
    crops = tmp_path / "crops.csv"
    lines = [f"{split},photo.png,box,,,,,0" for split in ("val", "heldout")]
    crops.write_text("\n".join(["split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive", *lines]) + "\n")
    for name in ("blind", "axon20", "toled", "poled"):
        weights = EMBEDDED / "restorer" / ("de_unet" if name == "toled" else "default")
        shutil.copytree(weights, tmp_path / name / "restorer")
    asked = ["panels", "--scenes", str(tmp_path), "--crops", str(crops), "--runs", str(tmp_path)]
    assert main([*asked, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "panels.json").read_text(encoding="utf-8"))
    assert len(set(found["checkpoints"].values())) == 2 and len(found["checkpoints"]) == 4
    head, _, *lines = panels.table(found).splitlines()
    assert head == "| captures | capture (dB, n = 1) | blind | axon20 | toled | poled |" and len(lines) == 3
    for line in lines:
        _, _, _, blind, axon20, toled, poled, _ = line.split("|")
        assert blind == axon20 == poled != toled
