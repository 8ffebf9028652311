"""Networks that spandrel knows: the same image as spandrel's own call gives, but unclamped and with a gradient."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from restorer_contract import RestorerContract, picture, randomised
from safetensors import safe_open
from torch import nn

from udc_defense import cli
from udc_defense.checkpoints.convert import convert
from udc_defense.checkpoints.files import WEIGHTS
from udc_defense.checkpoints.load import load_restorer
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.restorers import Restorer
from udc_defense.restorers.spandrel import SpandrelRestorer, recognised


def library() -> Any:
    """spandrel, or skip. Two of its architectures import torchvision, which no test here calls."""
    if "spandrel" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        stub: Any = ModuleType("torchvision.transforms.functional")
        stub.InterpolationMode = stub.rotate = stub.normalize = None
        with pytest.MonkeyPatch.context() as patch:
            for name in ("torchvision", "torchvision.transforms", stub.__name__):
                patch.setitem(sys.modules, name, stub)
            return pytest.importorskip("spandrel")
    return pytest.importorskip("spandrel")


def network(architecture: str, name: str, **options: Any) -> nn.Module:
    """A small one with random weights."""
    library()
    made = getattr(importlib.import_module(f"spandrel.architectures.{architecture}"), name)(**options)
    return randomised(made, scale=0.5)


SMALL: dict[str, Callable[[], nn.Module]] = {
    "DnCNN": lambda: network("DnCNN", "DnCNN", in_nc=3, out_nc=3, nc=6, nb=8, act_mode="R"),
    # The level of noise as a fourth channel.
    "FDnCNN": lambda: network("DnCNN", "DnCNN", in_nc=4, out_nc=3, nc=6, nb=8, act_mode="R", mode="FDnCNN"),
    "DRUNet": lambda: network("DRUNet", "DRUNet", in_nc=4, out_nc=3, nc=[4, 4, 8, 8], nb=2, act_mode="R"),
    # Gives an image and the quality of a JPEG, from 512 channels always.
    "FBCNN": lambda: network("FBCNN", "FBCNN", in_nc=3, out_nc=3, nc=[4, 4, 8, 512], nb=2),
    "SCUNet": lambda: network("SCUNet", "SCUNet", in_nc=3, config=[1] * 7, dim=64),
    "SwinIR": lambda: network(
        "SwinIR", "SwinIR", img_size=16, window_size=8, depths=[2], embed_dim=8, num_heads=[2], upscale=1, upsampler=""
    ),
    "NAFNet": lambda: network("NAFNet", "NAFNet", width=4, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
}


@pytest.fixture(params=SMALL)
def official(request: pytest.FixtureRequest) -> nn.Module:
    return SMALL[request.param]()


class TestSpandrel(RestorerContract):
    def network(self) -> Restorer:
        return recognised(SMALL["DnCNN"]().state_dict()).eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(40, 48), (41, 53)])
def test_the_image_is_that_of_spandrels_own_call(official: nn.Module, size: tuple[int, int]) -> None:
    state = official.state_dict()
    expected = library().MAIN_REGISTRY.load(dict(state))
    restorer, image = recognised(state), picture(1, 3, *size)
    assert torch.allclose(restorer(image).clamp(0, 1), expected(image), atol=1e-5)


def test_any_size_unclamped_and_with_a_gradient(official: nn.Module) -> None:
    restorer = recognised(official.state_dict()).eval().requires_grad_(False)
    for size in ((1, 1), (1, 30), (17, 9)):
        image = picture(2, 3, *size).requires_grad_()
        restored = restorer(image)
        assert restored.shape == image.shape and restored.isfinite().all()
        (gradient,) = torch.autograd.grad(restored.square().sum(), image)
        assert gradient.isfinite().all() and gradient.flatten(1).any(dim=1).all()


def test_an_official_file_becomes_a_checkpoint_like_any_other(
    official: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"params": official.state_dict()}, tmp_path / "net.pth")
    source, folder, image = str(tmp_path / "net.pth"), tmp_path / "net", picture(1, 3, 40, 48)
    assert cli.main(["models", "convert", source, "--arch", "spandrel", "--out", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"{folder}: spandrel, {sum(p.numel() for p in official.parameters()):,} parameters; architecture=" in said
    assert max(map(len, said.splitlines())) < 1000
    assert cli.main(["models", "verify", str(folder)]) == 0 and cli.main(["models", "show", str(folder)]) == 0
    assert "SpandrelRestorer" in capsys.readouterr().out
    restorer = load_restorer(folder)
    with torch.no_grad():
        direct = recognised(official.state_dict()).eval().to(memory_format=torch.channels_last)
        assert torch.equal(restorer(image), direct(image))
    with safe_open(folder / WEIGHTS, "pt") as file:
        assert file.metadata()["source"].startswith("net.pth, sha256 ")


def test_what_no_layout_knows_is_asked_of_spandrel(tmp_path: Path) -> None:
    for name, architecture in (("DnCNN", "spandrel"), ("NAFNet", "nafnet")):
        torch.save(SMALL[name]().state_dict(), tmp_path / f"{name}.pth")
        assert convert(tmp_path / f"{name}.pth", tmp_path / name).architecture == architecture


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lambda: nn.Linear(2, 2).state_dict(), "it knows none of their names"),
        (
            lambda: network("DnCNN", "DnCNN", in_nc=1, out_nc=1, nc=6, nb=8, act_mode="R").state_dict(),
            "DnCNN with 1 channels in, 1 out and scale 1 is no restorer of RGB",
        ),
        (
            lambda: network("Compact", "Compact", num_feat=4, num_conv=2, upscale=2).state_dict(),
            "Compact with 3 channels in, 3 out and scale 2 is no restorer of RGB",
        ),
        (
            lambda: {**SMALL["DnCNN"]().state_dict(), "model.2.bias": torch.zeros(5)},
            "they look like a network that it knows, and do not fit",
        ),
    ],
)
def test_what_is_no_restorer(state: Callable[[], dict[str, Any]], words: str, tmp_path: Path) -> None:
    library()
    torch.save(state(), tmp_path / "net.pth")
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "net.pth", tmp_path / "net")
    assert str(caught.value).endswith(f" and not taken by spandrel: {words}.")
    assert not (tmp_path / "net").exists()


def test_settings_that_the_values_hide_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture that reads its gain from the weights' values."""
    spandrel, state = library(), SMALL["DnCNN"]().state_dict()
    architecture = spandrel.MAIN_REGISTRY["DnCNN"].architecture
    load = type(architecture).load

    def valued(self: Any, state: dict[str, Any]) -> Any:
        official, gain = load(self, state), float(state["model.0.weight"].abs().mean())
        official._call_fn = lambda model, image: gain * model(image)
        return official

    monkeypatch.setattr(type(architecture), "load", valued)
    with pytest.raises(CheckpointError, match="their names and shapes do not describe their DnCNN"):
        recognised(state)


def test_an_architecture_that_the_installed_one_does_not_know() -> None:
    library()
    with pytest.raises(CheckpointError, match="'NoSuchNet' is none that the installed spandrel knows"):
        SpandrelRestorer("NoSuchNet", {})


@pytest.mark.parametrize("missing", ["spandrel", "torchvision"])
def test_without_the_extra_a_sentence_says_what_brings_it(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "spandrel"]:
        monkeypatch.delitem(sys.modules, name)
    if missing == "torchvision":  # which spandrel imports
        (tmp_path / "spandrel.py").write_text("import torchvision")
        monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    remedy = f'{missing} is not installed; pip install "udc-defense[zoo]" brings it.'
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "net.pth")
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "net.pth", tmp_path / "net")
    assert str(caught.value).endswith(remedy)
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "SpandrelRestorer", "architecture": "DnCNN", "shapes": {}}')
    with pytest.raises(CheckpointError) as caught:
        load_restorer(folder)
    assert str(caught.value) == f"{folder}: {remedy}"


def test_no_setting_is_open(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "net.pth")
    with pytest.raises(SettingError, match="'window' is not a setting that weights of spandrel leave open \\(none\\)"):
        convert(tmp_path / "net.pth", tmp_path / "net", settings={"window": 3})
