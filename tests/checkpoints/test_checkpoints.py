"""Names, folders and the Hub: what loads, and one sentence for everything that does not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_client import client, edit, flip, sentence
from loopback_hub import Hub
from tiny_networks import save_purifier, save_restorer
from torch import Tensor, nn

from udc_defense.checkpoints.files import (
    CHECKSUMS,
    EMBEDDED,
    PUSHED,
    WEIGHTS,
    checksum,
    embedded_names,
    record_push,
    source_of,
    verify,
    write_checksums,
)
from udc_defense.checkpoints.load import load_guide, load_purifier, load_restorer
from udc_defense.checkpoints.resolve import resolve
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.noise import seeded
from udc_defense.restorers.gated_unet import GatedUNet


@pytest.fixture
def restorer(tmp_path: Path) -> Path:
    return save_restorer(tmp_path / "net")


@pytest.fixture
def purifier(tmp_path: Path) -> Path:
    return save_purifier(tmp_path / "prior")


NAMES = {"restorer": "default", "purifier": "diffusion", "guide": "default"}  # an embedded one of each kind


class TestEmbedded:
    @pytest.mark.parametrize("kind", ["restorer", "purifier", "guide"])
    def test_every_embedded_checkpoint_is_whole(self, kind: str) -> None:
        assert NAMES[kind] in embedded_names(kind)
        for name in embedded_names(kind):
            folder = resolve(name, kind)
            assert folder == EMBEDDED / kind / name
            listed = json.loads((folder / CHECKSUMS).read_text())
            present = {p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.suffix != ".md"}
            assert set(listed) == present - {CHECKSUMS, PUSHED}
            assert max(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 10_000_000

    @pytest.mark.parametrize("kind", ["restorer", "purifier", "guide"])
    def test_weights_are_frozen_float32_in_evaluation_mode(self, kind: str) -> None:
        load = {"restorer": load_restorer, "purifier": load_purifier, "guide": load_guide}
        module = load[kind](NAMES[kind])
        assert not module.training
        for parameter in module.parameters():
            assert parameter.dtype == torch.float32 and not parameter.requires_grad and parameter.isfinite().all()

    def test_the_embedded_diffusion_model_refuses_what_it_was_not_trained_for(self) -> None:
        with pytest.raises(SettingError, match=r"151 is not in 0…150"):
            load_purifier(noise_level=151)

    @pytest.mark.parametrize("kind", ["restorer", "purifier", "guide"])
    def test_a_flipped_bit_anywhere_is_found(self, kind: str, tmp_path: Path) -> None:
        for name in json.loads((EMBEDDED / kind / NAMES[kind] / CHECKSUMS).read_text()):
            copy = tmp_path / name.replace("/", "_")
            shutil.copytree(EMBEDDED / kind / NAMES[kind], copy)
            flip(copy / name, (copy / name).stat().st_size // 2)
            with pytest.raises(CheckpointError, match="damaged") as caught:
                resolve(copy, kind)
            assert name in sentence(caught)

    def test_the_checksum_is_that_of_the_weights_file(self) -> None:
        for kind, file in (("restorer", WEIGHTS), ("purifier", f"unet/{WEIGHTS}")):
            folder = EMBEDDED / kind / NAMES[kind]
            assert checksum(folder) == json.loads((folder / CHECKSUMS).read_text())[file]["sha256"]


class TestChecksums:
    def test_round_trip(self, purifier: Path) -> None:
        listed = json.loads((purifier / CHECKSUMS).read_text())
        assert f"unet/{WEIGHTS}" in listed and "scheduler/scheduler_config.json" in listed
        for name, entry in listed.items():
            data = (purifier / name).read_bytes()
            assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        verify(purifier, purifier)

    def test_written_twice_they_stay_the_same(self, restorer: Path) -> None:
        """Not even the file is touched, which may be read-only."""
        before = (restorer / CHECKSUMS).read_bytes(), (restorer / CHECKSUMS).stat().st_mtime_ns
        write_checksums(restorer)
        assert before == ((restorer / CHECKSUMS).read_bytes(), (restorer / CHECKSUMS).stat().st_mtime_ns)

    def test_only_what_a_download_brings_is_listed(self, restorer: Path) -> None:
        """A card beside the weights is not fetched, so it must not be missed."""
        (restorer / "README.md").write_text("A card.")
        write_checksums(restorer)
        assert "README.md" not in json.loads((restorer / CHECKSUMS).read_text())

    def test_a_folder_without_them_loads(self, restorer: Path) -> None:
        (restorer / CHECKSUMS).unlink()
        load_restorer(restorer)

    def test_missing_file(self, restorer: Path) -> None:
        (restorer / WEIGHTS).unlink()
        with pytest.raises(CheckpointError, match=f"its file {WEIGHTS} is missing") as caught:
            load_restorer(restorer)
        assert str(restorer) in sentence(caught)

    @pytest.mark.parametrize("text", ["[]", '{"config.json": 1}', '{"config.json": {"bytes": 1}}', "{", "\udcff"])
    def test_a_list_that_is_none(self, restorer: Path, text: str) -> None:
        (restorer / CHECKSUMS).write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(CheckpointError) as caught:
            load_restorer(restorer)
        assert CHECKSUMS in sentence(caught)


class TestSource:
    def test_embedded_folder_and_snapshot(self, restorer: Path, tmp_path: Path) -> None:
        assert source_of(EMBEDDED / "guide" / "default").startswith("embedded") and source_of(restorer) == "folder"
        assert source_of(tmp_path / "models--us--a.b-c" / "snapshots" / ("0a" * 20)) == f"us/a.b-c@{'0a' * 20}"

    def test_a_push_is_remembered_as_long_as_the_files_are_the_same(self, restorer: Path) -> None:
        record_push(restorer, "us/net@0a")
        write_checksums(restorer)
        assert source_of(restorer) == "folder, also us/net@0a"
        edit(restorer / "config.json", note="changed")
        write_checksums(restorer)
        assert source_of(restorer) == "folder"


Change = Callable[[Path], object]
UNREADABLE: dict[str, tuple[Change, str]] = {
    "unknown architecture": (lambda folder: edit(folder / "config.json", _class_name="Stranger"), "'Stranger'"),
    "no architecture": (lambda folder: (folder / "config.json").write_text("{}"), "'None'"),
    "widths that do not fit the weights": (lambda folder: edit(folder / "config.json", widths=[8, 8]), "do not fit"),
    "a configuration that builds nothing": (lambda folder: edit(folder / "config.json", blocks=[1]), "GatedUNet"),
    "words instead of numbers": (lambda folder: edit(folder / "config.json", widths="wide"), "GatedUNet"),
    "bad JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
    "bytes that are no text": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"), "JSON"),
    "a list for an object": (lambda folder: (folder / "config.json").write_text("[1]"), "no JSON object"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
    "half the weights": (lambda folder: os.truncate(folder / WEIGHTS, 1000), "cannot be read"),
    "a pickle for weights": (lambda folder: torch.save({"a": torch.ones(1)}, folder / WEIGHTS), "cannot be read"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_restorer_that_cannot_be_used(name: str, restorer: Path) -> None:
    change, words = UNREADABLE[name]
    (restorer / CHECKSUMS).unlink()
    change(restorer)
    with pytest.raises(CheckpointError) as caught:
        load_restorer(restorer)
    assert words in sentence(caught) and str(restorer) in str(caught.value)


BAD_PURIFIERS: dict[str, tuple[Change, str]] = {
    "a restorer": (lambda folder: shutil.rmtree(folder / "unet"), "has no config.json"),
    "no scheduler": (lambda folder: shutil.rmtree(folder / "scheduler"), "has no scheduler_config.json"),
    "no such schedule": (
        lambda folder: edit(folder / "scheduler" / "scheduler_config.json", beta_schedule="parabola"),
        "DDPMScheduler",
    ),
    "blocks that do not exist": (
        lambda folder: edit(folder / "unet" / "config.json", down_block_types=["A", "B"]),
        "UNet2DModel",
    ),
    "a level in words": (lambda folder: edit(folder / "training.json", last_timestep="many"), "'many'"),
    "no weights": (lambda folder: (folder / "unet" / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
}


@pytest.mark.parametrize("name", BAD_PURIFIERS)
def test_a_purifier_that_cannot_be_used(name: str, purifier: Path) -> None:
    change, words = BAD_PURIFIERS[name]
    (purifier / CHECKSUMS).unlink()
    change(purifier)
    with pytest.raises(CheckpointError) as caught:
        load_purifier(purifier)
    assert words in sentence(caught) and str(purifier) in str(caught.value)


def test_a_purifier_that_predicts_something_else(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r": predicts 'v_prediction', not epsilon or sample\.$") as caught:
        load_purifier(save_purifier(tmp_path / "prior", prediction_type="v_prediction"))
    sentence(caught)


def test_a_purifier_that_predicts_the_image_itself(tmp_path: Path) -> None:
    assert load_purifier(save_purifier(tmp_path / "prior", prediction_type="sample")).prediction == "sample"


def test_a_purifier_loads_from_a_folder(purifier: Path) -> None:
    loaded = load_purifier(purifier, sampler="ddim", noise_level=12, steps=3, draws=2, aggregate="median")
    assert (loaded.evaluations, loaded.last_timestep) == (6, 150)
    image = torch.rand(1, 3, 9, 10, generator=seeded(0))
    assert loaded(image, generator=seeded(1)).shape == image.shape


def test_a_limit_above_the_schedule_is_the_schedule(purifier: Path) -> None:
    (purifier / CHECKSUMS).unlink()
    edit(purifier / "training.json", last_timestep=5000)
    with pytest.raises(SettingError, match="1001 is not in 0…1000"):
        load_purifier(purifier, noise_level=1001)


@pytest.mark.parametrize("kind", ["restorer", "purifier"])
@pytest.mark.parametrize("source", ["defualt", "a/b/c", "/no/such/folder", "default@main", "öä ü", "http://a/b"])
def test_an_unknown_name_lists_the_known_ones(source: str, kind: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve(source, kind)
    assert source in sentence(caught) and NAMES[kind] in str(caught.value)


def test_a_file_is_no_checkpoint(restorer: Path) -> None:
    with pytest.raises(CheckpointError, match="nor a folder"):
        resolve(restorer / WEIGHTS, "restorer")


def test_an_empty_folder(tmp_path: Path) -> None:
    for load in (load_restorer, load_purifier):
        with pytest.raises(CheckpointError, match=r"has no config\.json\.$") as caught:
            load(tmp_path)
        sentence(caught)


class Halves(nn.Module):
    """Stands for a network from elsewhere, which needs even sides."""

    multiple = 2

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 12, 2, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.mix(image), 2)


class Needy(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()


class Odd(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image[..., :-1]


class Broken(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        raise RuntimeError("shapes do not fit\nand more")


halves = Halves()
HERE = __name__


class TestImported:
    """`package.module:attribute`: a network from elsewhere."""

    @pytest.mark.parametrize("attribute", ["Halves", "halves"])
    def test_a_class_or_an_instance(self, attribute: str) -> None:
        restorer = load_restorer(f"{HERE}:{attribute}")
        assert not restorer.training and not any(parameter.requires_grad for parameter in restorer.parameters())
        image = torch.rand(2, 3, 5, 7, generator=seeded(0)).requires_grad_()
        output = restorer(image)
        assert output.shape == image.shape
        (gradient,) = torch.autograd.grad(output.sum(), image)
        assert gradient.isfinite().all() and gradient.any()

    def test_its_tiles_are_those_of_any_restorer(self) -> None:
        restorer = load_restorer(f"{HERE}:halves")
        image = torch.rand(1, 3, 20, 36, generator=seeded(0))
        whole = restorer(image)
        restorer.tile_size, restorer.tile_overlap = 16, 4
        assert torch.allclose(restorer(image), whole, atol=1e-6)

    def test_one_without_weights(self) -> None:
        restorer = load_restorer("torch.nn:Identity")
        image = torch.rand(1, 3, 1, 2, generator=seeded(0))
        assert torch.equal(restorer(image), image)
        assert (restorer.dtype, restorer.device.type) == (torch.float32, "cpu")

    def test_a_restorer_stays_what_it_is(self) -> None:
        assert type(load_restorer("udc_defense.restorers.gated_unet:GatedUNet")) is GatedUNet

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("no.such.module:Net", "cannot be imported (ModuleNotFoundError: No module named 'no')"),
            (f"{HERE}:Nothing", "cannot be imported (AttributeError: "),
            (f"{HERE}:Needy", "cannot be made without arguments (TypeError: "),
            (f"{HERE}:sentence", "a function, not an nn.Module"),
            ("torch:float32", "a dtype, not an nn.Module"),
        ],
    )
    def test_what_is_no_network(self, source: str, words: str) -> None:
        with pytest.raises(CheckpointError) as caught:
            load_restorer(source)
        assert sentence(caught).startswith(f"{source}: {words}")

    @pytest.mark.parametrize(
        ("attribute", "words"),
        [
            ("Odd", "gives (1, 3, 4, 3) for an image of shape (1, 3, 4, 4); a restorer keeps the shape"),
            ("Broken", "fails on an image of shape (1, 3, 4, 4) (RuntimeError: shapes do not fit)"),
        ],
    )
    def test_a_network_that_is_no_restorer(self, attribute: str, words: str) -> None:
        restorer = load_restorer(f"{HERE}:{attribute}")
        with pytest.raises(CheckpointError) as caught:
            restorer(torch.zeros(1, 3, 4, 4))
        assert sentence(caught) == f"{HERE}:{attribute}: {words}."

    def test_a_purifier_is_not_imported(self) -> None:
        with pytest.raises(CheckpointError, match="neither an embedded purifier"):
            load_purifier("torch.nn:Identity")


class TestNamesOnTheHub:
    """`UDC_DEFENSE_REPO` makes names repositories."""

    def test_an_owner(self, hub: Hub, tmp_path: Path) -> None:
        for kind, name in (("restorer", "me/net"), ("purifier", "me/prior")):
            hub.repositories[f"us/udc-defense-{kind}-{NAMES[kind]}"] = hub.repositories[name]
        calls = ("restorer:default", "purifier:diffusion", "guide:default")
        restorer, purifier, guide = client(tmp_path / "cache", hub.address, *calls, UDC_DEFENSE_REPO="us")
        assert restorer.endswith(Hub.commit("us/udc-defense-restorer-default"))
        assert purifier.endswith(Hub.commit("us/udc-defense-purifier-diffusion"))
        assert guide.startswith("error us/udc-defense-guide-default: no such repository on the Hub")

    def test_a_prefix_and_a_revision(self, hub: Hub, tmp_path: Path) -> None:
        hub.repositories["us/zoo-restorer-small"] = hub.repositories["me/net"]
        commit = hub.publish("us/zoo-restorer-small", hub.repositories["me/net"], "v1")
        calls = ("restorer:small", f"restorer:{hub.repositories['me/net']}", "restorer:me/net@main")
        named, folder, other = client(tmp_path / "cache", hub.address, *calls, UDC_DEFENSE_REPO="us/zoo@v1")
        assert named.endswith(commit)
        assert folder == str(hub.repositories["me/net"]) and other.endswith(Hub.commit("me/net"))

    @pytest.mark.parametrize("setting", ["a/b/c", "us@v1@v2", "a b", "us@../up", "/"])
    def test_a_setting_that_is_none(self, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UDC_DEFENSE_REPO", setting)
        with pytest.raises(CheckpointError) as caught:
            load_restorer()
        assert sentence(caught) == f"UDC_DEFENSE_REPO {setting!r} is not OWNER or OWNER/PREFIX[@REVISION]."

    def test_a_folder_stays_a_folder(self, restorer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UDC_DEFENSE_REPO", "us")
        monkeypatch.chdir(restorer.parent)
        assert resolve(restorer.name, "restorer") == resolve(Path(restorer.name), "restorer") == Path(restorer.name)

    def test_an_empty_setting_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UDC_DEFENSE_REPO", "")
        assert resolve("default", "restorer") == EMBEDDED / "restorer" / "default"
