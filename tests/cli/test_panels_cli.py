"""`panel` and `calibrate` as users call them: a file comes out that other commands take, or one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from calibration.test_pairs import photographed, write_pairs
from calibration.test_point_light import photo

from udc_defense import cli
from udc_defense.images import read_image, write_png
from udc_defense.optics import PANELS
from udc_defense.panel_file import get_panel
from udc_defense.training.data import SimulatedCaptures


@pytest.fixture
def psf_file(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).random((3, 8, 8))
    values[:, 4, 4] = 100
    np.save(tmp_path / "mine.npy", values / values.sum((-2, -1), keepdims=True) * 0.98)
    return tmp_path / "mine.npy"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["panel", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PANELS)


def test_psf_to_panel_to_capture(psf_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    panel = tmp_path / "mine.safetensors"
    facts = ["--name", "mine", "--transmission", "0.5", "0.6", "0.4", "--light", "3000", "--saturation", "7"]
    assert cli.main(["panel", "make", "--psf", str(psf_file), *facts, "--licence", "CC0-1.0", "--out", str(panel)]) == 0
    said = capsys.readouterr().out
    assert "mine.npy: the even side of 8" in said and "normalised to 1" in said and f"--panel {panel}" in said
    made = get_panel(str(panel))
    assert made.psf.shape == (3, 9, 9) and made.saturation == pytest.approx((7, 7, 7)) and made.licence == "CC0-1.0"
    assert cli.main(["panel", "show", str(panel)]) == 0
    assert "9 x 9 pixels" in capsys.readouterr().out
    write_png(torch.full((1, 3, 20, 24), 0.6), tmp_path / "grey.png")
    assert cli.main(["simulate", str(tmp_path / "grey.png"), "--panel", str(panel), "--out", str(tmp_path / "o")]) == 0
    (captured,) = (tmp_path / "o").rglob("*.png")
    assert read_image(captured).mean() == pytest.approx(0.6, abs=0.02)


def test_noise_is_the_files_and_not_its_places(psf_file: Path, tmp_path: Path) -> None:
    write_png(torch.full((1, 3, 20, 24), 0.6), tmp_path / "grey.png")
    captures = []
    for place in ("a", "b"):
        panel = tmp_path / place / "mine.safetensors"
        assert cli.main(["panel", "make", "--psf", str(psf_file), "--name", "mine", "--out", str(panel)]) == 0
        out = tmp_path / place / "out"
        assert cli.main(["simulate", str(tmp_path / "grey.png"), "--panel", str(panel), "--out", str(out)]) == 0
        captures.append(read_image(next(out.rglob("*.png"))))
    assert torch.equal(*captures)


def test_training_takes_a_panel_file(psf_file: Path, tmp_path: Path) -> None:
    write_png(torch.full((1, 3, 256, 256), 0.5), tmp_path / "grey.png")
    captures = SimulatedCaptures([tmp_path / "grey.png"], [str(psf_file)], length=1, size=64, crops=2, seed=0)
    captured, clean = captures[0]
    assert captured.shape == clean.shape == (2, 3, 64, 64)


def test_layout_and_change_of_a_panel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = torch.zeros(1, 3, 20, 20)
    cell[..., 5:15] = 1
    write_png(cell, tmp_path / "cell.png")
    first, second = tmp_path / "drawn.safetensors", tmp_path / "dim.safetensors"
    drawn = ["--layout", str(tmp_path / "cell.png"), "--pitch", "100", "--name", "drawn"]
    assert cli.main(["panel", "make", *drawn, "--out", str(first)]) == 0
    assert "50.0% of the light passes" in capsys.readouterr().out
    changed = ["--from", str(first), "--light", "100", "--name", "dim"]
    assert cli.main(["panel", "make", *changed, "--out", str(second)]) == 0
    bright, dim = get_panel(str(first)), get_panel(str(second))
    assert torch.equal(bright.psf, dim.psf) and dim.light == 100 and bright.light != 100
    assert dim.transmission == pytest.approx((0.5, 0.5, 0.5), abs=0.01)


def test_plot(psf_file: Path, tmp_path: Path) -> None:
    assert cli.main(["panel", "plot", str(psf_file), "--out", str(tmp_path / "psf.png")]) == 0
    assert read_image(tmp_path / "psf.png").shape[-1] > 500


def test_calibrate_from_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path, [photographed(0), photographed(1)])
    out = tmp_path / "found.safetensors"
    folders = [str(tmp_path / name) for name in ("captures", "clean")]
    assert cli.main(["calibrate", "--pairs", *folders, "--reach", "3", "--name", "mine", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "held-back capture is predicted to" in said and "no tone curve was fitted" in said
    assert get_panel(str(out)).name == "mine" and get_panel(str(out)).psf.shape == (3, 7, 7)
    assert read_image(tmp_path / "found-residual.png").shape == (1, 3, 128, 128)


def test_calibrate_from_a_point_light(tmp_path: Path) -> None:
    for index, time in enumerate((1.0, 30.0)):
        write_png(photo(time, index), tmp_path / f"{index}.png", bits=16)
    out = tmp_path / "found.safetensors"
    photos = [str(tmp_path / f"{index}.png") for index in (0, 1)]
    flags = ["--exposures", "1", "30", "--domain", "linear", "--reach", "20", "--out", str(out)]
    assert cli.main(["calibrate", "--point", *photos, *flags]) == 0
    assert get_panel(str(out)).psf.shape == (3, 41, 41)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["panel", "show", "oled"], "panel 'oled' is not one of axon20, toled, poled, and no file."),
        (["panel", "show", "none.npy"], "none.npy: cannot be read (No such file or directory)."),
        (["panel", "make", "--layout", "x.png", "--out", "a.safetensors"], "--layout needs --pitch"),
        (["panel", "make", "--from", "toled", "--name", "toled", "--out", "a.safetensors"], "is a built-in panel's."),
        (["panel", "make", "--from", "toled", "--out", "a.npy"], "a.npy: a panel file ends in .safetensors."),
        (["panel", "make", "--from", "toled", "--light", "-1", "--out", "a.safetensors"], "light is not a number"),
        (["calibrate", "--out", "a.safetensors"], "calibrate takes either --pairs"),
        (["calibrate", "--pairs", "x", "y", "--out", "a.safetensors"], "x: "),
    ],
)
def test_one_sentence(
    flags: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(flags) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("udc-defense: ") and line.endswith(".") and words in line
    assert not list(tmp_path.iterdir())
