"""Certificates by a bounded gain: arithmetic against closed forms, and attacks that cannot undercut them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from udc_defense import cli
from udc_defense.attacks import ATTACKS
from udc_defense.certification import Budget, certify_lipschitz
from udc_defense.certification.lipschitz import in_words, per_value
from udc_defense.checkpoints.load import load_restorer
from udc_defense.errors import SettingError
from udc_defense.metrics import certified_psnr, psnr
from udc_defense.noise import seeded
from udc_defense.restorers.lipschitz import LipschitzRestorer


@pytest.fixture(scope="module")
def restorer() -> LipschitzRestorer:
    torch.manual_seed(3)
    network = LipschitzRestorer(1.25, (14, 20), (10, 12), (4,), (1, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    return network.eval().requires_grad_(False)


def capture(height: int = 20, width: int = 14) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=seeded(0))


def test_the_floor_is_the_triangle_inequality(restorer: LipschitzRestorer) -> None:
    image, reference = capture(), 0.5 * capture()
    certificate = certify_lipschitz(restorer, image, reference, [per_value(4 / 255), Budget(0.3)])
    clean = float(psnr(restorer(image), reference))
    assert certificate.psnr == pytest.approx(clean, abs=1e-4)
    near, whole = certificate.floors
    bound = restorer.lipschitz_bound
    assert near.psnr == pytest.approx(-20 * math.log10(10 ** (-clean / 20) + bound * 4 / 255), abs=1e-4)
    assert near.psnr == pytest.approx(certified_psnr(clean, bound, 4 / 255), abs=1e-4)
    assert whole.moved == pytest.approx(bound * 0.3 / (3 * 20 * 14) ** 0.5, rel=1e-6)


def test_what_is_rounded_is_added(restorer: LipschitzRestorer) -> None:
    certificate = certify_lipschitz(restorer, capture(), None, [per_value(0.01), per_value(0.0)])
    some, none = certificate.floors
    assert some.moved >= restorer.lipschitz_bound * 0.01 + 2 * certificate.rounding
    assert none.moved == 2 * certificate.rounding > 0
    assert certificate.rounding < 1e-9 < certificate.single < certificate.single_at_most
    assert math.isinf(certificate.psnr)


def test_it_says_the_same_per_value_at_every_size(restorer: LipschitzRestorer) -> None:
    moved = [
        certify_lipschitz(restorer, capture(*size), None, [per_value(2 / 255)]).floors[0].moved
        for size in ((1, 1), (33, 18))
    ]
    assert moved[0] == pytest.approx(moved[1], rel=1e-6)


@pytest.mark.parametrize("attack", ["pgd", "apgd"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_no_attack_undercuts_the_floor(attack: str, norm: str, restorer: LipschitzRestorer) -> None:
    image, eps = capture(), 4 / 255
    reference = (0.8 * image).clamp(0, 1)
    (floor,) = certify_lipschitz(restorer, image, reference, [per_value(eps)]).floors
    options = {"eps": eps, "steps": 10, "norm": norm, "generator": seeded(0)}
    found = ATTACKS.get(attack)(restorer, image, reference, **options).image
    left, clean = (float(psnr(restorer(x), reference)) for x in (found, image))
    assert floor.psnr <= left < clean


def test_other_restorers_are_refused() -> None:
    with pytest.raises(SettingError, match="GatedUNet has no bound of its gain"):
        certify_lipschitz(load_restorer(), capture(), None, [per_value(0.01)])


def test_a_visitor_is_told_in_words(restorer: LipschitzRestorer) -> None:
    (floor,) = certify_lipschitz(restorer, capture(), None, [per_value(4 / 255)]).floors
    expected = f"by more than {4 * restorer.lipschitz_bound:.2f}/255 on average (RMS), whatever the photo."
    words = in_words(floor, 840)
    assert words.startswith("No change of at most 4/255 per value can move the restored photo ")
    assert words.endswith(expected)


def test_the_command(restorer: LipschitzRestorer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    restorer.save_pretrained(tmp_path / "net")
    Image.fromarray(np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)).save(tmp_path / "photo.png")
    command = ["certify", str(tmp_path / "photo.png"), "--method", "lipschitz", "--restorer", str(tmp_path / "net")]
    assert cli.main([*command, "--eps", "4", "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    (row,) = report["images"]
    assert row["lipschitz"] == restorer.lipschitz_bound
    (floor,) = row["floors"]
    assert floor["linf_covered_in_255ths"] == pytest.approx(4)
    assert floor["moved_in_255ths"] == pytest.approx(4 * restorer.lipschitz_bound, rel=1e-6)
    assert floor["psnr"] == pytest.approx(certified_psnr(row["psnr"]["bare"], row["lipschitz"], 4 / 255), abs=1e-6)
    assert "No change of at most 4/255 per value" in capsys.readouterr().out
    assert cli.main([*command, "--captured", "--radius", "0.1", "--out", str(tmp_path / "out")]) == 0
    assert "against the restoration of the untouched capture" in capsys.readouterr().out


def test_the_command_needs_a_bounded_restorer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    given = ["certify", str(tmp_path / "photo.png"), "--method", "lipschitz", "--out", str(tmp_path / "out")]
    assert cli.main(given) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "has no bound of its gain" in line
