"""`udc_defense.evaluate`, the door of Python to what the command line measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import udc_defense
from udc_defense import cli
from udc_defense.errors import SettingError
from udc_defense.evaluation.api import Images
from udc_defense.restorers.gated_unet import GatedUNet

FEW = {"attacks": ["fgsm"], "threats": ["oblivious"]}


def test_python_and_the_command_line_measure_the_same(tmp_path: Path) -> None:
    restorer = str(tmp_path / "net")
    torch.manual_seed(0)
    GatedUNet(widths=(4, 8), blocks=(1, 1)).save_pretrained(restorer)
    threads = torch.get_num_threads()
    summary = udc_defense.evaluate(restorer, defenses=["jpeg:quality=50"], out=tmp_path / "python", **FEW)  # type: ignore[arg-type]
    assert torch.get_num_threads() == threads
    assert {entry["defense"] for entry in summary.headline} >= {"none", "jpeg:50"}
    assert summary.facts == json.loads((tmp_path / "python" / "summary.json").read_text())
    flags = ["--restorer", restorer, "--defense", "jpeg:quality=50", "--attacks", "fgsm", "--threats", "oblivious"]
    assert cli.main(["evaluate", *flags, "--workers", "0", "--device", "cpu", "--out", str(tmp_path / "line")]) == 0
    torch.set_num_threads(threads)
    line = json.loads((tmp_path / "line" / "summary.json").read_text())
    assert line["headline"] == summary.headline and line["flags"] == summary.flags


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "swift"}, "preset 'swift' is not one of quick, paper, full"),
        ({"preset": "paper"}, "the preset paper needs images"),
        ({"defenses": ["soap"]}, "defense 'soap' is not one of none, default"),
        ({"defenses": ["ddim:noise_level=400"]}, "noise level 400"),
        ({"images": Images(scenes=Path("scenes"))}, "--scenes DIR and --crops FILE go together"),
        ({"threats": ["knowing"]}, "threat 'knowing' is not one of"),
    ],
)
def test_mistakes_get_one_sentence_and_leave_nothing(options: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=words):
        udc_defense.evaluate(out=tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
