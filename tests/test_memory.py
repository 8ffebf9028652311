"""Equal bits however weights arrived: loaded networks have aligned memory of their own."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from tiny_networks import save_purifier, save_restorer
from torch import Tensor, nn

from udc_defense.checkpoints import load
from udc_defense.checkpoints.files import write_checksums
from udc_defense.guides.encoder import GuideEncoder
from udc_defense.memory import in_own_memory
from udc_defense.pipeline import UDCDefensePipeline
from udc_defense.vgg import FILE, Vgg, load_vgg

ALIGNED = 64  # bytes: torch's promise for what it allocates on a CPU


def displaced(network: nn.Module) -> nn.Module:
    """Move all weights 4 bytes off, where a file may have left them."""
    for tensor in tensors(network):
        room = torch.zeros(tensor.numel() + ALIGNED, dtype=tensor.dtype)
        start = (4 - room.data_ptr()) % ALIGNED // tensor.element_size()
        tensor.data = room[start : start + tensor.numel()].view(tensor.shape).copy_(tensor)
        assert tensor.data_ptr() % ALIGNED == 4
    return network


def tensors(network: nn.Module) -> list[Tensor]:
    return [tensor for tensor in chain(network.parameters(), network.buffers()) if tensor.is_floating_point()]


def addresses(network: nn.Module) -> set[int]:
    return {tensor.data_ptr() % ALIGNED for tensor in tensors(network)}


def test_the_copy_is_aligned_and_equal() -> None:
    network = displaced(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    parameters = list(network.parameters())
    assert in_own_memory(network) is network
    assert addresses(network) == {0}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(now is then for now, then in zip(network.parameters(), parameters, strict=True)), "optimisers hold these"
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_tied_weights_stay_tied() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    network = in_own_memory(nn.Sequential(first, second))
    assert network[0].weight.data_ptr() == network[1].weight.data_ptr()


@pytest.mark.parametrize("kind", ["restorer", "purifier", "guide"])
def test_loaders(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the constructor has put the weights."""
    built = load._built
    monkeypatch.setattr(load, "_built", lambda cls, *given: off(built(cls, *given)))
    if kind == "restorer":
        network: nn.Module = load.load_restorer(save_restorer(tmp_path))
    elif kind == "purifier":
        network = load.load_purifier(save_purifier(tmp_path)).network
    else:
        GuideEncoder(widths=(4, 8), blocks=(1, 1)).save_pretrained(tmp_path)
        write_checksums(tmp_path)
        network = load.load_guide(tmp_path)
    assert addresses(network) == {0}


def off(built: Any) -> Any:
    return displaced(built) if isinstance(built, nn.Module) else built


def test_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever diffusers has put the weights."""
    both = tmp_path / "both"
    restorer = load.load_restorer(save_restorer(tmp_path / "restorer"))
    UDCDefensePipeline.from_pretrained(save_purifier(tmp_path / "purifier"), restorer=restorer).save_pretrained(both)
    read = DiffusionPipeline.from_pretrained.__func__  # type: ignore[attr-defined]

    def reads(cls: Any, *args: Any, **options: Any) -> Any:
        pipe = read(cls, *args, **options)
        displaced(pipe.unet)
        displaced(pipe.restorer)
        return pipe

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(reads))
    pipe = UDCDefensePipeline.from_pretrained(both)
    assert addresses(pipe.unet) == addresses(pipe.restorer) == {0}


def test_somebodys_network(monkeypatch: pytest.MonkeyPatch) -> None:
    network = displaced(nn.Conv2d(3, 3, 3, padding=1))
    monkeypatch.setitem(globals(), "theirs", network)
    assert addresses(load.load_restorer(f"{__name__}:theirs")) == {0}


def test_vgg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are the file's own tensors, not copied into others."""
    blocks, taps = ((4, 2), (8, 2)), (3, 8)
    save_file(Vgg(blocks, taps).state_dict(), tmp_path / FILE)
    monkeypatch.setattr("udc_defense.vgg.resolve", lambda source, kind: tmp_path)
    monkeypatch.setattr("udc_defense.vgg.in_own_memory", lambda network: in_own_memory(displaced(network)))
    assert addresses(load_vgg("me/vgg", "a test", blocks, taps)) == {0}
