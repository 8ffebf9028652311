"""A recipe: what the demo did, done again by the command line; and what is refused of a stranger's recipe."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
pytest.importorskip("gradio", reason="the extra `demo` is not installed")

from udc_defense.cli import main
from udc_defense.demo.networks import Networks
from udc_defense.demo.run import Runs
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.images import write_png
from udc_defense.noise import seeded
from udc_defense.photo.recipe import check_name, fitted, read_recipe
from udc_defense.restorers.gated_unet import GatedUNet
from udc_defense.samples import clean_image, night_street


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))


def unpacked(networks: Networks, photo: Path, folder: Path, **choices: Any) -> Path:
    """What the demo gives to download, unpacked."""
    *_, (*_, files) = Runs(networks).run(str(photo), **choices)
    with zipfile.ZipFile(files["value"][0]) as archive:
        archive.extractall(folder)
    assert json.loads(Path(files["value"][1]).read_text()) == json.loads((folder / "recipe.json").read_text())
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "holiday.png"
    write_png(torch.rand(1, 3, 40, 48, generator=seeded(0)), path)
    return path


@pytest.fixture(scope="module")
def made(networks: Networks, photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of the demo on the photo."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        yield unpacked(networks, photo, tmp_path_factory.mktemp("made"), steps=2)


def changed(made: Path, target: Path, change: Any) -> Path:
    """The recipe with something else in it."""
    recipe = json.loads((made / "recipe.json").read_text())
    change(recipe)
    target.write_text(json.dumps(recipe))
    return target


def again(recipe: Path, photo: Path, out: Path, *more: str) -> int:
    return main(["run", "--recipe", str(recipe), str(photo), "--out", str(out), *more])


@pytest.mark.parametrize(
    "choices",
    [
        {"steps": 2},
        {"captured": True, "method": "square", "steps": 5, "options": "p_init=0.5", "panel": "toled"},
        {"attack": "adaptive", "steps": 1, "sampler": "ddpm", "noise_level": 3, "draws": 2},
        {"attack": "off", "sampler": "jpeg", "seed": 5},
    ],
)
def test_the_command_line_makes_the_same_pngs(
    choices: dict[str, Any], networks: Networks, photo: Path, tmp_path: Path
) -> None:
    folder = unpacked(networks, photo, tmp_path / "demo", **choices)
    assert again(folder / "recipe.json", folder / "photo.png", tmp_path / "cli") == 0
    images = {path.name: path.read_bytes() for path in folder.glob("*.png") if path.name != "photo.png"}
    assert len(images) >= 4
    assert images == {path.name: path.read_bytes() for path in (tmp_path / "cli" / "photo").glob("*.png")}
    ours, theirs = (json.loads((at / "report.json").read_text()) for at in (folder, tmp_path / "cli"))
    for report in (ours, theirs):
        report["images"][0].pop("seconds")
    assert ours == theirs


def test_lamps_of_the_night_street_come_back(networks: Networks, tmp_path: Path) -> None:
    write_png(clean_image(night_street()), tmp_path / "night.png")
    folder = unpacked(networks, tmp_path / "night.png", tmp_path / "demo", attack="off", defense="off")
    assert again(folder / "recipe.json", tmp_path / "night.png", tmp_path / "cli") == 0
    assert (folder / "captured.png").read_bytes() == (tmp_path / "cli" / "night" / "captured.png").read_bytes()


def test_the_scaling_of_a_large_photo_is_part_of_it(made: Path, photo: Path, tmp_path: Path) -> None:
    recipe = changed(made, tmp_path / "recipe.json", lambda recipe: recipe.update(max_side=24))
    (scene,) = read_recipe(recipe).photo_at(photo).load().values()
    assert scene.shape == (1, 3, 20, 24)
    image = torch.rand(1, 3, 5, 7, generator=seeded(0))
    assert fitted(image, 7) is image


def test_other_weights_are_refused_in_a_sentence(
    made: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    GatedUNet(widths=(4, 8), blocks=(1, 1)).save_pretrained(tmp_path / "mine")
    assert again(made / "recipe.json", photo, tmp_path / "out", "--restorer", str(tmp_path / "mine")) == 2
    said = capsys.readouterr().err.strip()
    assert "the recipe was made with the restorer 'default' of sha256" in said and said.count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_a_network_of_the_owner_is_named_by_its_user(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    GatedUNet(widths=(4, 8), blocks=(1, 1)).save_pretrained(mine)
    folder = unpacked(Networks(str(mine)), photo, tmp_path / "demo", attack="off", defense="off")
    assert str(tmp_path) not in (folder / "recipe.json").read_text() + (folder / "report.json").read_text()
    assert again(folder / "recipe.json", photo, tmp_path / "cli") == 2
    assert "'mine' is neither an embedded restorer" in capsys.readouterr().err
    assert again(folder / "recipe.json", photo, tmp_path / "cli", "--restorer", str(mine)) == 0
    assert (folder / "restored.png").read_bytes() == (tmp_path / "cli" / "holiday" / "restored.png").read_bytes()


def test_a_recipe_runs_no_code(made: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = changed(
        made, tmp_path / "recipe.json", lambda recipe: recipe["networks"]["restorer"].update(name="torch.nn:Identity")
    )
    assert again(recipe, photo, tmp_path / "cli") == 2
    assert "'torch.nn:Identity' is neither an embedded restorer" in capsys.readouterr().err


def test_another_photo_is_said_to_be_one(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_png(torch.rand(1, 3, 16, 16, generator=seeded(1)), tmp_path / "other.png")
    assert again(made / "recipe.json", tmp_path / "other.png", tmp_path / "out") == 0
    assert "other.png: not the photo of the recipe" in capsys.readouterr().out


def test_settings_cannot_stand_beside_a_recipe(
    made: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert again(made / "recipe.json", photo, tmp_path / "out", "--eps", "2") == 2
    assert "--eps cannot stand beside --recipe" in capsys.readouterr().err
    assert main(["run", "--recipe", str(made / "recipe.json"), "--out", str(tmp_path / "out")]) == 2
    assert "no image is given" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda recipe: recipe.pop("settings"),
        lambda recipe: recipe.update(settings=[1]),
        lambda recipe: recipe.update(settings={"attack": 7}),
        lambda recipe: recipe.update(networks={"restorer": "default"}),
        lambda recipe: recipe["networks"].pop("restorer"),
        lambda recipe: recipe["networks"].pop("purifier"),
        lambda recipe: recipe.update(device=3),
        lambda recipe: recipe.update(threads="all"),
        lambda recipe: recipe.update(max_side=10**9),
        lambda recipe: recipe.update(purification={"sampler": "one_step", "noise": 3}),
        lambda recipe: recipe.update(versions=3),
        lambda recipe: recipe.update(recipe=2),
        lambda recipe: recipe.update(more=1),
        lambda recipe: recipe["networks"].update(other={"name": "default", "sha256": ""}),
        lambda recipe: recipe["networks"]["restorer"].update(name=7),
    ],
)
def test_a_recipe_that_is_none_is_a_sentence(change: Any, made: Path, tmp_path: Path) -> None:
    with pytest.raises((SettingError, CheckpointError)) as caught:
        read_recipe(changed(made, tmp_path / "recipe.json", change))
    assert "\n" not in str(caught.value)
    (tmp_path / "no.json").write_bytes(b"\xff{")
    for path in (tmp_path / "no.json", tmp_path / "missing.json"):
        with pytest.raises(SettingError):
            read_recipe(path)


@pytest.mark.parametrize(
    "name", ["/etc", "udc_defense", "tests/fixtures", "os:system", "../x", "", "a/b@..", "x" * 300]
)
def test_strangers_name_embedded_networks_and_the_hub_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])  # where `udc_defense` is a folder
    with pytest.raises(CheckpointError):
        check_name(name, "restorer")


def test_embedded_networks_and_the_hub_may_be_named() -> None:
    check_name("default", "restorer")
    check_name("somebody/net@v1", "purifier")
