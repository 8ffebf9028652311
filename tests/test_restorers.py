"""The contract that every restorer keeps, whatever is inside."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from udc_defense.checkpoints import load_restorer
from udc_defense.noise import seeded
from udc_defense.restorers import RESTORERS, Restorer, restorer_class
from udc_defense.restorers.base import pad_to_multiple

# Small configurations; a restorer without one is tested as it is by default.
SMALL: dict[str, dict[str, list[int]]] = {"gated_unet": {"widths": [4, 8, 8], "blocks": [1, 1, 2]}}

every_restorer = pytest.mark.parametrize("name", RESTORERS.names())


def build(name: str, scale: float = 1.0) -> Restorer:
    """With random weights far from the identity that training starts at."""
    network = RESTORERS.get(name)(**SMALL.get(name, {}))
    generator = seeded(0)
    with torch.no_grad():
        for parameter in network.parameters():
            fan = parameter[0].numel() if parameter.dim() > 1 else 100
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator) / fan**0.5)
    return network.eval().requires_grad_(False)


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed))


@every_restorer
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3), (17, 31), (33, 16), (48, 64)])
def test_any_size_in_the_same_size_out(name: str, size: tuple[int, int]) -> None:
    restored = build(name)(picture(2, 3, *size))
    assert restored.shape == (2, 3, *size) and restored.dtype == torch.float32
    assert restored.isfinite().all()


@every_restorer
def test_a_sample_does_not_depend_on_its_batch_mates(name: str) -> None:
    network, image = build(name), picture(3, 3, 24, 20)
    together = network(image)
    for i in range(3):
        assert torch.allclose(together[i : i + 1], network(image[i : i + 1]), atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


@every_restorer
def test_the_gradient_reaches_every_value_of_the_input(name: str) -> None:
    x = picture(1, 3, 21, 18).requires_grad_(True)
    build(name)(x).square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert (x.grad != 0).all()


@every_restorer
def test_save_and_load(name: str, tmp_path: Path) -> None:
    network, image = build(name), picture(1, 3, 19, 33)
    network.save_pretrained(tmp_path / "net")
    loaded = load_restorer(tmp_path / "net")
    assert type(loaded) is type(network) and not loaded.training
    network.to(memory_format=torch.channels_last)  # as loaded: bits depend on the order of memory
    assert torch.equal(loaded(image), network(image))


@every_restorer
def test_same_input_same_bits(name: str) -> None:
    network, image = build(name), picture(1, 3, 24, 24)
    before = image.clone()
    assert torch.equal(network(image), network(image)) and torch.equal(image, before)


@every_restorer
def test_nothing_is_clamped(name: str) -> None:
    """A clamp inside would cut the gradient of an attacker and flatter the network."""
    restored = build(name, scale=3.0)(picture(1, 3, 32, 32))
    assert restored.min() < 0 and restored.max() > 1


@every_restorer
def test_tiles_give_the_untiled_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is local, so only what a border spoils may differ; the shape must not."""
    network, image = build(name), picture(1, 3, 90, 40)
    whole = network(image)
    monkeypatch.setattr(type(network), "tile_size", 64)
    monkeypatch.setattr(type(network), "tile_overlap", 30)
    tiled = network(image)
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)
    assert torch.allclose(tiled[..., :20, :], whole[..., :20, :], atol=0.05)


@every_restorer
def test_a_checkpoint_is_found_by_its_class_name(name: str) -> None:
    cls = RESTORERS.get(name)
    assert restorer_class(cls.__name__) is cls and restorer_class("NoSuchNet") is None


@every_restorer
def test_training_starts_near_a_sensible_image(name: str) -> None:
    """A fresh network must not explode: its output stays of the order of its input."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RESTORERS.get(name)(**SMALL.get(name, {}))
    image = picture(1, 3, 32, 32)
    assert (network(image) - image).abs().max() < 1


@pytest.mark.parametrize("size", [(1, 1), (3, 20), (9, 5), (16, 8)])
@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_padding_keeps_the_image_in_the_corner(size: tuple[int, int], multiple: int) -> None:
    image = picture(1, 3, *size)
    padded = pad_to_multiple(image, multiple)
    assert torch.equal(padded[..., : size[0], : size[1]], image)
    for before, after in zip(size, padded.shape[-2:], strict=True):
        assert after % multiple == 0 and 0 <= after - before < multiple
