"""The name of a purifier: what it says of itself, and what it loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from udc_defense import purification
from udc_defense.checkpoints.files import EMBEDDED, checksum
from udc_defense.errors import SettingError
from udc_defense.noise_level import AdaptivePurifier
from udc_defense.purification import Purification
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.transforms.jpeg import Jpeg


def test_a_diffusion_purifier_says_what_is_not_as_by_default() -> None:
    always = {"sampler": "ddim", "noise_level": 20, "steps": 5, "draws": 1, "aggregate": "mean"}
    assert Purification("ddim", 20).facts() == always
    assert Purification("ddim", 20, eta=0.5, guide="mse", guidance=2.0).facts() == always | {
        "eta": 0.5,
        "guide": "mse",
        "guidance": 2.0,
    }


def test_a_transform_says_its_strength_alone() -> None:
    assert Purification("jpeg", noise_level=30, draws=8).facts() == {"sampler": "jpeg", "strength": 75}
    assert Purification("jpeg", strength=50) != Purification("jpeg")


def test_what_is_loaded() -> None:
    purifier = Purification("ddim", 20, steps=2, draws=3, guide="mse", guidance=2.0).load()
    assert isinstance(purifier, DiffusionPurifier)
    assert (purifier.sampler.name, purifier.noise_level, purifier.evaluations, purifier.guidance) == (
        "ddim",
        20,
        6,
        2.0,
    )
    transform = Purification("jpeg", strength=50).load()
    assert isinstance(transform, Jpeg) and transform.quality == 50


def test_a_level_for_each_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As calibrated: below -30 dB the photo is left alone, above it is purified."""
    wanted = Purification("one_step", draws=2, per_photo=True)
    probe = Purification("one_step", 50).facts()
    names = {"restorer": "default", "purifier": "diffusion"}
    sums = {f"{kind} {name}": checksum(EMBEDDED / kind / name) for kind, name in names.items()}
    found = {"probe": probe, "purifier": wanted.facts(), "cuts": [-30.0], "levels": [0, 20], "checkpoints": sums}
    (tmp_path / "found.json").write_text(json.dumps(found))
    monkeypatch.setattr(purification, "CALIBRATION", tmp_path / "found.json")
    purifier = wanted.load()
    assert isinstance(purifier, AdaptivePurifier) and purifier.evaluations == 1 + 2
    levels = [getattr(module, "noise_level", None) for module in purifier.purifiers.values()]
    assert levels == [0, 20] and wanted == Purification("one_step", 30, draws=2, per_photo=True)
    with pytest.raises(SettingError, match="a noise level for each photo is not calibrated for"):
        Purification("ddim", draws=2, per_photo=True).load()
    found["checkpoints"] = sums | {"restorer default": "of another network"}
    (tmp_path / "found.json").write_text(json.dumps(found))
    with pytest.raises(SettingError, match="is not calibrated"):
        wanted.load()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sampler": "one_step", "strength": 3.0}, "strength 3 is of a plain transform; one_step has a noise level"),
        ({"sampler": "nothing"}, "nothing"),
        ({"sampler": "jpeg", "strength": 200.0}, "quality 200"),
    ],
)
def test_bad_values(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Purification(**arguments).load()  # type: ignore[arg-type]
