"""The name of a purifier: what it says of itself, and what it loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch

from udc_defense import purification
from udc_defense.checkpoints.files import EMBEDDED, checksum
from udc_defense.errors import SettingError
from udc_defense.noise import seeded
from udc_defense.noise_level import AdaptivePurifier
from udc_defense.options import Between
from udc_defense.purification import DEFAULT, Purification, defense_name, defense_options, load_defense, parse_defense
from udc_defense.purifiers import SAMPLERS
from udc_defense.purifiers.base import Sampler
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.transforms.jpeg import Jpeg

GUIDED: dict[str, Any] = {"guide": "mse", "guidance": 2.0}


def test_a_diffusion_purifier_says_what_is_not_as_by_default() -> None:
    always = {"sampler": "ddim", "noise_level": 20, "steps": 5, "draws": 1, "aggregate": "mean"}
    assert Purification("ddim", 20).facts() == always
    assert Purification("ddim", 20, options={"eta": 0.5}, guide="mse", guidance=2.0).facts() == always | {
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


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("default", DEFAULT),
        ("default:draws=8", replace(DEFAULT, draws=8)),
        ("jpeg:quality=50", Purification("jpeg", strength=50)),
        ("jpeg:50", Purification("jpeg", strength=50)),
        ("ddim:noise_level=20,steps=3,eta=0.5", Purification("ddim", 20, steps=3, options={"eta": 0.5})),
        ("one_step:noise_level=auto,draws=8", Purification("one_step", draws=8, per_photo=True)),
        ("ddpm:guide=mse,guidance=2,weights=me/net@v1", Purification("ddpm", 30, **GUIDED, weights="me/net@v1")),
    ],
)
def test_a_spec_and_its_shortest_name_mean_the_same(spec: str, meant: Purification) -> None:
    assert parse_defense(spec) == meant == parse_defense(defense_name(meant))
    assert Purification.of_facts(meant.facts()) == meant


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("soap", "defense 'soap' is not one of none, default, ddim, ddpm"),
        ("none:draws=2", "none has no option 'draws'"),
        ("ddpm:steps=3", "ddpm has no option 'steps'; it has noise_level, draws"),
        ("ode:eta=1", "ode has no option 'eta'"),
        ("ddim:eta=2", "eta 2 is not in 0…1"),
        ("ddim:noise_level=many", "option noise_level='many' is not of the type int"),
        ("one_step:aggregate=sum", "option aggregate='sum' is not one of mean, median"),
        ("ddim:20", "'20' is not of the form OPTION=VALUE"),
        ("jpeg:quality=200", "quality 200"),
    ],
)
def test_a_spec_that_means_none_says_what_there_is(spec: str, words: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_defense(spec)
    message = str(caught.value)
    assert words in message and message.startswith(f"defense {spec!r}") and "\n" not in message


def test_a_new_sampler_brings_its_options_by_its_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    def churned(diffusion, x, t, *, generators, churn: Annotated[int, Between(0, 9)] = 3):  # type: ignore[no-untyped-def]
        """One evaluation.

        Args:
            churn: how much noise comes back.
        """
        yield x + churn

    monkeypatch.setitem(SAMPLERS._methods, "churned", Sampler("churned", churned, lambda level, steps: 1))
    monkeypatch.setattr(SAMPLERS, "names", lambda: ["churned", "ddim"])
    found = parse_defense("churned:noise_level=4,churn=7")
    assert found == Purification("churned", 4, options={"churn": 7})
    purifier = found.load()
    image = torch.zeros(1, 3, 4, 4)
    noised = parse_defense("churned:noise_level=4,churn=0")
    assert noised is not None
    shift = purifier(image, generator=seeded(0)) - noised.load()(image, generator=seeded(0))
    assert torch.allclose(shift, torch.full_like(shift, 7 / 2)), "in [-1, 1], so half of it in [0, 1]"
    (own,) = (option for option in defense_options("churned") if option.name == "churn")
    assert (own.default, own.kind, own.words) == (3, int, "how much noise comes back.")
    assert "steps" not in {option.name for option in defense_options("churned")}


def test_the_default_defense_is_loaded_whole() -> None:
    defense = load_defense()
    assert isinstance(defense.purifier, DiffusionPurifier) and not defense.training
    assert (defense.purifier.noise_level, defense.purifier.last_timestep) == (DEFAULT.noise_level, 40)
    restorer = torch.nn.Identity()
    plain = load_defense("none", restorer)
    assert plain.purifier is None and plain.restorer is restorer
    assert isinstance(load_defense("jpeg:quality=50", restorer).purifier, Jpeg)
