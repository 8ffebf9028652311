"""Captures outside the training's range: what differs really differs, and what the table says of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from toy_models import inside

from study import __main__ as commands
from study import facts, tables
from study.measure.generalisation import CONDITIONS, Condition
from udc_defense.checkpoints.files import EMBEDDED
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


def test_the_table_counts_what_became_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"split": "val", "condition": c.words, "captured": 20.0, "restored": {"a": 22.0 + i, "b": 19.0 + 3 * i}}
        for c in CONDITIONS
        for i in range(2)
    ]
    monkeypatch.setattr(tables, "results", lambda _: {"rows": rows})
    lines = tables.unlike("val").splitlines()
    assert lines[0] == "| captures | capture (dB) | a | b | crops |"
    assert lines[2] == "| axon20, as it is | 20.00 | +2.50 | +0.50 (1) | 2 |" and len(lines) == 14


@pytest.mark.parametrize(("lost", "words"), [(0.0, "none"), (19.0, "two stops darker")])
def test_the_numbers_say_where_it_fails(lost: float, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"split": "heldout", "condition": c.words, "captured": 20.0, "restored": {"default": 25.0 + i} | OWN}
        for i, c in enumerate(CONDITIONS)
    ]
    rows[8]["restored"] = {"default": 33.0 - lost} | OWN
    monkeypatch.setattr(facts, "results", lambda _: {"rows": rows})
    found = facts._generalisation()
    assert [found[f"optics.{panel}"] for panel in ("axon20", "toled", "poled")] == ["5.0", "15.0", "16.0"]
    assert [found[f"optics.{panel}-own"] for panel in ("axon20", "toled", "poled")] == ["28.0", "29.0", "30.0"]
    assert (found["optics.kinds"], found["optics.worse"]) == ("9", words)
    assert found["optics.most"] == "14.0 dB (two stops brighter)"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A photo in both splits."""
    write_png(inside(1, 3, 256, 256).float(), tmp_path / "photo.png")
    lines = [f"{split},photo.png,box,,,,,0" for split in ("val", "heldout")]
    header = "split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive"
    (tmp_path / "crops.csv").write_text("\n".join([header, *lines]) + "\n")
    monkeypatch.setattr(commands, "RESULTS", tmp_path)
    return ["--scenes", str(tmp_path), "--crops", str(tmp_path / "crops.csv"), "--runs", str(tmp_path)]


@pytest.mark.timeout(300)
def test_the_command_measures_every_crop(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "embedded_names", lambda _: ["default"])
    assert commands.main(["measure", "generalisation", *asked]) == 0
    assert (tmp_path / "generalisation.json").read_text().count('"condition"') == 2 * len(CONDITIONS)
    assert commands.main(["measure", "generalisation"]) == 2
    assert "--scenes DIR and --crops FILE" in capsys.readouterr().err


def test_one_network_for_all_panels_stands_beside_one_for_each(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("blind", "axon20", "toled", "poled"):
        weights = EMBEDDED / "restorer" / ("de_unet" if name == "toled" else "default")
        shutil.copytree(weights, tmp_path / "panels" / name / "restorer")
    assert commands.main(["measure", "panels", *asked]) == 0
    found = json.loads((tmp_path / "panels.json").read_text(encoding="utf-8"))
    assert len(set(found["checkpoints"].values())) == 2 and len(found["checkpoints"]) == 4
    monkeypatch.setattr(tables, "results", lambda _: found)
    head, _, *lines = tables.panels().splitlines()
    assert head == "| captures | capture (dB) | blind | axon20 | toled | poled | crops |" and len(lines) == 3
    for line in lines:
        _, _, _, blind, axon20, toled, poled, *_ = line.split("|")
        assert blind == axon20 == poled != toled
