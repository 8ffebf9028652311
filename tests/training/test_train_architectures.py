"""Architectures of the zoo, trained from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from udc_defense import cli, load_restorer
from udc_defense.noise import seeded
from udc_defense.restorers.lipschitz import LipschitzRestorer
from udc_defense.restorers.lipschitz_layers import GradientStep, squared_norm
from udc_defense.restorers.nafnet import NAFNet

TINY = ("width=4", "encoder_blocks=[1, 1]", "middle_blocks=1", "decoder_blocks=[1, 1]", "window=32")


@pytest.fixture
def pairs(tmp_path: Path) -> list[str]:
    """One capture of noise and its clean image."""
    for name, seed in (("captures", 0), ("clean", 1)):
        (tmp_path / name).mkdir()
        pixels = torch.randint(256, (200, 210, 3), generator=seeded(seed), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / name / "a.png")
    return ["--pairs", str(tmp_path / "captures"), str(tmp_path / "clean")]


def train(pairs: list[str], out: Path, *flags: str) -> int:
    return cli.main(["train", "restorer", *pairs, "--out", str(out), "--steps", "1", "--batch", "1", *flags])


def test_a_network_of_the_zoo(pairs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    chosen = [flag for text in TINY for flag in ("--option", text)]
    assert train(pairs, out, "--architecture", "nafnet", *chosen) == 0
    trained = load_restorer(out / "restorer")
    assert isinstance(trained, NAFNet) and trained.config["width"] == 4 and trained.config["window"] == 32
    assert json.loads((out / "restorer" / "training.json").read_text())["steps"] == 1


def test_a_network_of_bounded_gain_keeps_it(pairs: list[str], tmp_path: Path) -> None:
    """Steps as large as these lead every convolution out of bounds."""
    chosen = ["gain=1.2", "widths=[14]", "hidden=[10]", "sent=[]", "steps=[1]"]
    options = [flag for text in chosen for flag in ("--option", text)]
    fast = ["--steps", "3", "--learning-rate", "0.3"]
    assert train(pairs, tmp_path / "run", "--architecture", "lipschitz", *options, *fast) == 0
    trained = load_restorer(tmp_path / "run" / "restorer")
    assert isinstance(trained, LipschitzRestorer)
    assert 0 < trained.lipschitz_bound <= 1.2
    assert trained.config["certified"] == trained.lipschitz_bound
    largest = max(float(squared_norm(step.weight)) for step in trained.modules() if isinstance(step, GradientStep))
    assert 0.5 < largest <= 1, "scaled back"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--architecture", "resnet"], "resnet"),
        (["--architecture", "nafnet", "--option", "depth=3"], "nafnet cannot be made with {'depth': 3} ("),
        (["--architecture", "nafnet", "--option", "width"], "--option 'width' is not of the form NAME=VALUE."),
        (["--architecture", "nafnet", "--option", "width=x"], "--option 'width=x' has no JSON value"),
        (["--option", "width=8"], "--option 'width=8' is of an architecture; name it with --architecture."),
    ],
)
def test_mistakes_get_one_sentence(
    flags: list[str], words: str, pairs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(pairs, tmp_path / "run", *flags) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_other_networks_have_their_own(pairs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "purifier", *pairs, "--out", str(tmp_path), "--architecture", "nafnet"]
    assert cli.main(command) == 2
    assert "--architecture is of a restorer; purifier has its own." in capsys.readouterr().err
