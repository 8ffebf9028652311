"""What is said of checkpoints, without loading them, and what is found when one is damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from udc_defense import cli
from udc_defense.checkpoints import models
from udc_defense.checkpoints.files import EMBEDDED, WEIGHTS, write_checksums
from udc_defense.checkpoints.load import load_guide, load_purifier, load_restorer
from udc_defense.errors import CheckpointError
from udc_defense.guides.encoder import GuideEncoder
from udc_defense.restorers.gated_unet import GatedUNet
from udc_defense.restorers.uformer import Uformer

FIELDS = ["name", "kind", "architecture", "parameters", "panels", "bytes", "sha256", "source", "origin"]


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the embedded checkpoints that may be spoilt."""
    folder = tmp_path / "weights"
    shutil.copytree(EMBEDDED, folder)
    monkeypatch.setattr("udc_defense.checkpoints.files.EMBEDDED", folder)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small restorer in a folder."""
    folder = tmp_path / "small"
    GatedUNet(widths=(4, 8), blocks=(1, 1)).save_pretrained(folder)
    write_checksums(folder)
    return folder


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_the_list_is_true() -> None:
    load = {"restorer": load_restorer, "purifier": load_purifier, "guide": load_guide}
    listed = models.list_models()
    assert {(model.kind, model.name) for model in listed} == {
        (path.parent.name, path.name) for path in EMBEDDED.glob("*/*") if path.is_dir()
    }
    for model in listed:
        (weights,) = (EMBEDDED / model.kind / model.name).rglob(WEIGHTS)
        assert model.bytes == weights.stat().st_size
        assert model.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
        network = load[model.kind](model.name)
        assert model.parameters == sum(parameter.numel() for parameter in network.parameters())
        assert len(set(model.panels)) == len(model.panels) > 0
        assert model.source.startswith("embedded") and "steps on" in model.origin


def test_the_list_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    listed = models.list_models()
    assert cli.main(["models", "list", "--json"]) == 0
    objects = json.loads(capsys.readouterr().out)
    assert [list(row) for row in objects] == [FIELDS] * len(listed)
    assert [(row["sha256"], tuple(row["panels"])) for row in objects] == [(m.sha256, m.panels) for m in listed]

    assert cli.main(["models", "list"]) == 0
    heads, *lines = capsys.readouterr().out.splitlines()
    assert heads.split() == FIELDS and len(lines) == len(listed)
    assert all(f"{m.parameters:,}" in line and m.sha256[:12] in line for m, line in zip(listed, lines, strict=True))


def test_listing_imports_no_torch() -> None:
    code = "import sys; from udc_defense import cli; cli.main(['models', 'list']); print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.splitlines()[-1] == "False"


def test_a_bare_name_shows_every_kind_that_has_it() -> None:
    shown = models.show_models("default")
    assert [details.model.kind for details in shown] == [
        model.kind for model in models.list_models() if model.name == "default"
    ]
    (restorer,) = models.show_models("restorer/default")
    assert restorer == shown[0] and restorer.config["widths"] and restorer.training["steps"]
    (purifier,) = models.show_models("purifier/diffusion")
    assert purifier.config["block_out_channels"] and purifier.config["scheduler.num_train_timesteps"] == 1000


def test_show_of_a_folder(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (details,) = models.show_models(str(small))
    assert details.model.name == str(small) and details.model.kind == "restorer"
    assert (details.model.panels, details.model.source, details.model.origin) == ((), "folder", "unknown")
    assert details.training == {}
    (small / "training.json").write_text(
        json.dumps({"panels": ["poled"], "steps": 7, "pairs": 3, "remark": "\x1b[31m"})
    )
    assert cli.main(["models", "show", str(small)]) == 0
    printed = capsys.readouterr().out
    assert "widths  [4, 8]" in printed and "poled" in printed and "trained 7 steps on 3 pairs" in printed
    assert details.model.sha256 in printed and "\x9b" not in printed


def test_the_kind_of_a_folder(tmp_path: Path, small: Path) -> None:
    GuideEncoder(widths=(4,), blocks=(1,)).save_pretrained(tmp_path / "guide")
    shutil.copytree(EMBEDDED / "purifier" / "diffusion", tmp_path / "purifier")
    kinds = [models.show_models(str(tmp_path / name))[0].model.kind for name in ("guide", "purifier", "small")]
    assert kinds == ["guide", "purifier", "restorer"]


def test_buffers_are_no_parameters(tmp_path: Path) -> None:
    network = Uformer(embed_dim=4, depths=(1,) * 9, num_heads=(1,) * 9)
    network.save_pretrained(tmp_path / "net")
    (details,) = models.show_models(str(tmp_path / "net"))
    assert details.model.parameters == sum(parameter.numel() for parameter in network.parameters())


def test_a_repository_on_the_hub(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(models, "resolve", lambda source, kind: asked.append(source) or small)
    (details,) = models.show_models("owner/name@v1")
    assert details.model.name == "owner/name@v1"
    (verdict,) = models.verify_models(["owner/name@v1"])
    assert verdict.name == "owner/name@v1" and not verdict.problems and len(asked) == 2


def test_a_push_takes_what_is_embedded_with_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where names are taken from a repository, which may be the one that is to be made."""
    monkeypatch.setenv("UDC_DEFENSE_REPO", "us")
    folder, card = models.intact_checkpoint("guide/default")
    assert folder == EMBEDDED / "guide" / "default"
    assert card is not None and card.read_text(encoding="utf-8").count(models.checksum(folder)) == 1


@pytest.mark.parametrize("case", ["nowhere", "unknown", "no weights", "no header", "no config"])
def test_what_cannot_be_shown_is_one_sentence(case: str, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if case == "unknown":
        (small / "config.json").write_text('{"_class_name": "Strange"}')
    elif case == "no weights":
        (small / WEIGHTS).unlink()
    elif case == "no header":
        (small / WEIGHTS).write_bytes(b"\xff" * 100)
    elif case == "no config":
        (small / "config.json").unlink()
    assert cli.main(["models", "show", "nowhere" if case == "nowhere" else str(small)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("udc-defense: ") and line.endswith(".")


def test_all_embedded_checkpoints_are_intact(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for model, line in zip(models.list_models(), lines, strict=True):
        assert line.startswith(f"{model.kind}/{model.name}: intact, ")


def test_every_damaged_checkpoint_is_named_and_the_others_still_checked(
    embedded: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(embedded / "restorer" / "default" / WEIGHTS)
    assert cli.main(["models", "verify"]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and f"restorer/default: its file {WEIGHTS} is damaged" in printed.err
    assert "purifier/diffusion: intact" in printed.out

    spoil(embedded / "purifier" / "diffusion" / "training.json")
    (embedded / "purifier" / "diffusion" / "model_index.json").unlink()
    assert cli.main(["models", "verify", "default", "diffusion", "nowhere", str(small)]) == 2
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["restorer/default", *["purifier/diffusion"] * 2, "nowhere"]
    guide, folder = printed.out.splitlines()
    assert guide.startswith("guide/default: intact, ") and folder.startswith(f"{small}: intact, 2 files, ")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("missing", "is missing"),
        ("unlisted", "extra.safetensors is not listed"),
        ("no list", "has no checksums.json to compare"),
        ("empty list", "config.json is not listed"),
        ("no JSON", "cannot be read as JSON"),
        ("no size", "lacks size or sha256"),
        ("odd size", "lacks size or sha256"),
    ],
)
def test_nothing_unchecked_passes(case: str, words: str, small: Path) -> None:
    if case == "missing":
        (small / "config.json").unlink()
    elif case == "unlisted":
        shutil.copy(small / WEIGHTS, small / "extra.safetensors")
    elif case == "no list":
        (small / "checksums.json").unlink()
    else:
        odd = '{"config.json": {"bytes": "many", "sha256": ""}}'
        lists = {"empty list": "{}", "no JSON": "", "no size": '{"config.json": {}}', "odd size": odd}
        (small / "checksums.json").write_text(lists[case])
    (verdict,) = models.verify_models([str(small)])
    assert any(words in problem for problem in verdict.problems)
    assert all(problem.startswith(str(small)) and problem.endswith(".") for problem in verdict.problems)


def test_a_damaged_header_does_not_hide_in_the_list(embedded: Path) -> None:
    (embedded / "restorer" / "default" / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="restorer/default: its weights cannot be read"):
        models.list_models()
