"""Photos from wherever they come: what is known of them, and how often their networks are hashed."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_networks import save_purifier, save_restorer

from udc_defense import cli
from udc_defense.checkpoints import files
from udc_defense.images import read_image, write_png
from udc_defense.noise import seeded
from udc_defense.photo.source import Photo, centre, from_file, from_image, from_pair, from_title
from udc_defense.samples import STREETS, night_street, scene_of
from udc_defense.scenes import clean_image, read_pairs, scene_from_photo


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_png(torch.rand(1, 3, 9, 12, generator=seeded(0)), tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_file(path: Path) -> None:
    light, capture = from_file(path), from_file(path, captured=True)
    assert light.name == capture.name == "photo.png"
    assert torch.equal(capture.load()["captured"], read_image(path)) and capture.load().keys() == {"captured"}
    assert torch.equal(light.load()["scene"], scene_from_photo(read_image(path))) and light.load().keys() == {"scene"}
    assert capture.load(4)["captured"].shape == (1, 3, 4, 4)


def test_a_pair(tmp_path: Path) -> None:
    for index, folder in enumerate(("captures", "clean")):
        (tmp_path / folder).mkdir()
        write_png(torch.rand(1, 3, 8, 8, generator=seeded(index)), tmp_path / folder / "a.png")
    (pair,) = read_pairs(tmp_path / "captures", tmp_path / "clean")
    known = from_pair(pair).load(6)
    assert known["captured"].shape == known["truth"].shape == (1, 3, 6, 6)
    assert torch.equal(known["truth"], centre(read_image(tmp_path / "clean" / "a.png"), 6))


def test_a_scene_without_data_is_drawn_at_the_size() -> None:
    title = next(iter(STREETS))
    assert torch.equal(from_title(title).load(32)["scene"], scene_of(title, 32))


def test_an_image_of_our_own_street_has_its_own_lamps() -> None:
    street = night_street()
    assert torch.equal(from_image("a", clean_image(street)).load()["scene"], street)
    assert from_image("a", clean_image(street), captured=True).load().keys() == {"captured"}


@pytest.mark.parametrize("size", [1, 5, 8, 20])
def test_the_centre(size: int) -> None:
    image = torch.arange(8 * 11.0).view(1, 1, 8, 11)
    found = centre(image, size)
    height, width = min(size, 8), min(size, 11)
    top, left = (8 - height) // 2, (11 - width) // 2
    assert torch.equal(found, image[..., top : top + height, left : left + width])


def test_photos_go_to_workers_and_are_told_apart_by_name(path: Path) -> None:
    photo = from_file(path)
    copy: Photo = pickle.loads(pickle.dumps(photo))
    assert copy == photo and hash(copy) == hash(photo) and torch.equal(copy.load()["scene"], photo.load()["scene"])
    assert photo != from_title(next(iter(STREETS)))


def test_a_run_hashes_weights_once(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer, purifier = save_restorer(tmp_path / "restorer"), save_purifier(tmp_path / "purifier")
    hashed: Counter[Path] = Counter()
    sha256 = files.sha256

    def counted(path: Path) -> str:
        hashed[path] += 1
        return sha256(path)

    monkeypatch.setattr(files, "sha256", counted)
    arguments = ["run", str(path), "--attack", "none", "--out", str(tmp_path / "out"), "--restorer", str(restorer)]
    assert cli.main([*arguments, "--defense", f"one_step:weights={purifier}"]) == 0
    weights = {path: count for path, count in hashed.items() if path.suffix == ".safetensors"}
    assert weights == {restorer / files.WEIGHTS: 1, purifier / "unet" / files.WEIGHTS: 1}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["checkpoints"] == {
        f"restorer {restorer}": sha256(restorer / files.WEIGHTS),
        f"purifier {purifier}": sha256(purifier / "unet" / files.WEIGHTS),
    }
