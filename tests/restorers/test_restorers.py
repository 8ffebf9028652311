"""The contract of the default restorer, and that no registered one is without."""

from __future__ import annotations

import pytest
import torch
from restorer_contract import RestorerContract, contracts, picture, randomised

from udc_defense.restorers import RESTORERS, Restorer, restorer_class
from udc_defense.restorers.gated_unet import GatedUNet
from udc_defense.restorers.spandrel import SpandrelRestorer
from udc_defense.tiles import pad_to_multiple


def small() -> GatedUNet:
    return GatedUNet(widths=[4, 8, 8], blocks=[1, 1, 2])


class TestGatedUNet(RestorerContract):
    def network(self) -> Restorer:
        return randomised(small())

    def test_tiles_give_the_untiled_result(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The network is local, so only what a border spoils may differ."""
        network, image = randomised(small()), picture(1, 3, 90, 40)
        whole = network(image)
        monkeypatch.setattr(type(network), "tile_size", 64)
        monkeypatch.setattr(type(network), "tile_overlap", 30)
        tiled = network(image)
        assert tiled.shape == whole.shape and not torch.equal(tiled, whole)
        assert torch.allclose(tiled[..., :20, :], whole[..., :20, :], atol=0.05)

    def test_training_starts_near_a_sensible_image(self) -> None:
        """A fresh network must not explode: its output stays of the order of its input."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = small()
        image = picture(1, 3, 32, 32)
        assert (network(image) - image).abs().max() < 1


def test_every_registered_restorer_keeps_the_contract() -> None:
    always = [contract for name, contract in contracts().items() if name != "TestSpandrel"]  # which an extra brings
    kept = {type(contract().network()) for contract in always}
    assert kept | {SpandrelRestorer} == {RESTORERS.get(name) for name in RESTORERS.names()}


@pytest.mark.parametrize("name", RESTORERS.names())
def test_a_checkpoint_is_found_by_its_class_name(name: str) -> None:
    cls = RESTORERS.get(name)
    assert restorer_class(cls.__name__) is cls and restorer_class("NoSuchNet") is None


@pytest.mark.parametrize("size", [(1, 1), (3, 20), (9, 5), (16, 8)])
@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_padding_keeps_the_image_in_the_corner(size: tuple[int, int], multiple: int) -> None:
    image = picture(1, 3, *size)
    padded = pad_to_multiple(image, multiple)
    assert torch.equal(padded[..., : size[0], : size[1]], image)
    for before, after in zip(size, padded.shape[-2:], strict=True):
        assert after % multiple == 0 and 0 <= after - before < multiple
