"""`udc-defense certify` as users call it: bounds, maps, resumption, one sentence per problem."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from udc_defense import cli, load_restorer, read_image
from udc_defense.certification.median import smooth_median, worst_psnr
from udc_defense.certification.noise import Budget, Gaussian
from udc_defense.certification.sampling import drawn

FEW = ["--captured", "--defense", "none", "--sigma", "0.1", "--radius", "0.05", "--samples", "60"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    y, x = np.mgrid[0:16, 0:24]
    path = tmp_path / "photo.png"
    Image.fromarray(np.stack([9 * x, 12 * y, 5 * (x + y)], axis=-1).astype(np.uint8)).save(path)
    return path


def certify(photo: Path, out: Path, *options: str) -> int:
    return cli.main(["certify", str(photo), *FEW, *options, "--out", str(out)])


def test_the_report_is_what_the_library_certifies(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert certify(photo, out, "--radius", "3") == 0
    (row,) = json.loads((out / "report.json").read_text())["images"]
    image, restorer = read_image(photo), load_restorer()
    with torch.inference_mode():
        reference = restorer(image)
    values = drawn(restorer, image, Gaussian(0.1), samples=60)
    _, (found,) = smooth_median(values, Gaussian(0.1), [Budget(0.05)], confidence=0.999)
    near, far = row["floors"]
    assert near["median"] == pytest.approx(worst_psnr(found, reference), abs=1e-3)
    assert near["linf_covered_in_255ths"] == pytest.approx(255 * 0.05 / (3 * 16 * 24) ** 0.5)
    assert far["median"] is far["draw"] is far["centre"] is None
    assert row["psnr"]["bare"] is None  # it is the reference
    lower, upper = (read_image(out / "photo" / f"{kind}-l2-0.05.png") for kind in ("lower", "upper"))
    assert torch.allclose(lower, found.lower, atol=0.51 / 255) and torch.allclose(upper, found.upper, atol=0.51 / 255)
    factor = row["width_factors"][0]
    width = read_image(out / "photo" / f"width-x{factor}-l2-0.05.png")
    assert torch.allclose(width, factor * (found.upper - found.lower), atol=0.51 / 255)
    printed = capsys.readouterr().out
    assert "abstains" in printed and "L-infinity 4/255 is not certified" in printed
    assert sorted(path.suffix for path in (out / "photo").iterdir()) == [".png"] * 8  # no samples are left


def test_what_is_certified_can_compute_in_bfloat16(photo: Path, tmp_path: Path) -> None:
    floors = []
    for precision in ("float32", "bfloat16"):
        assert certify(photo, tmp_path / "out", "--precision", precision) == 0
        report = json.loads((tmp_path / "out/report.json").read_text())
        assert report["settings"]["precision"] == precision
        floors.append(report["images"][0]["floors"][0]["median"])
    assert floors[0] != floors[1] and floors[0] == pytest.approx(floors[1], abs=0.5)


def test_a_killed_run_goes_on_with_the_same_result(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert certify(photo, whole) == 0
    watch = cli.certify._watch

    def interrupted(steps, name):  # noqa: ANN001, ANN202
        for state in steps:
            if state.done >= 20:
                raise KeyboardInterrupt
        return watch(steps, name)

    monkeypatch.setattr("udc_defense.cli.certify._watch", interrupted)
    assert certify(photo, cut) == cli.INTERRUPTED
    (kept,) = (cut / "photo").glob(".samples-*")
    assert kept.stat().st_size >= 20 * 2 * 3 * 16 * 24
    monkeypatch.setattr("udc_defense.cli.certify._watch", watch)
    assert certify(photo, cut) == 0
    rows = [json.loads((out / "report.json").read_text())["images"][0] for out in (whole, cut)]
    assert {k: v for k, v in rows[0].items() if k != "seconds"} == {k: v for k, v in rows[1].items() if k != "seconds"}
    # What is finished is not measured again.
    monkeypatch.setattr("udc_defense.cli.certify._measured", None)
    assert certify(photo, cut) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--confidence", "1"], "confidence 1 "),
        (["--radius", "-1"], "radius -1"),
        (["--sigma", "0"], "sigma 0"),
        (["--noise", "salt"], "'salt'"),
        (["--samples", "0"], "0 samples"),
        (["--defense", "one_step", "--sigma", "0.9"], "sigma 0.9 is not in"),
    ],
)
def test_bad_options_are_one_sentence(
    options: list[str], words: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certify(photo, tmp_path / "out", *options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("udc-defense: ") and line.endswith(".") and words in line
