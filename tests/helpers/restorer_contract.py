"""What every restorer keeps, as tests to inherit: a test file subclasses `RestorerContract` and defines `network`."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from udc_defense.checkpoints.load import load_restorer
from udc_defense.noise import seeded
from udc_defense.restorers import Restorer

SIZES = [(1, 1), (1, 40), (5, 7), (17, 31), (33, 16)]


class RestorerContract:
    """Name the subclass `Test…`; its `network` gives a new small network, always the same one.

    Attributes:
        brightest: tone of the pictures; filters in linear light round by a share of the brightest light.
    """

    brightest = 1.0

    def network(self) -> Restorer:
        raise NotImplementedError

    @pytest.mark.parametrize("size", SIZES)
    def test_any_size_in_the_same_size_out(self, size: tuple[int, int]) -> None:
        with torch.no_grad():
            restored = self.network()(picture(2, 3, *size))
        assert restored.shape == (2, 3, *size) and restored.dtype == torch.float32
        assert restored.isfinite().all()

    def test_a_sample_does_not_depend_on_its_batch_mates(self) -> None:
        network, image = self.network(), self.brightest * picture(3, 3, 21, 18)
        with torch.no_grad():
            together = network(image)
            alone = torch.cat([network(sample[None]) for sample in image])
        assert torch.allclose(together, alone, atol=1e-5)
        assert (together[0] - together[1]).abs().max() > 1e-3

    def test_the_gradient_reaches_every_value_of_the_input(self) -> None:
        """Black, white and what lies beyond them too: a clamp would hide them from an attacker."""
        image = picture(1, 3, 21, 18)
        image[..., :4] = torch.tensor([-0.1, 0.0, 1.0, 1.1])
        image.requires_grad_(True)
        self.network()(image).square().sum().backward()
        assert image.grad is not None and image.grad.isfinite().all()
        assert (image.grad != 0).all()

    def test_nothing_is_clamped(self) -> None:
        with torch.no_grad():
            restored = self.network()(4 * picture(1, 3, 32, 32) - 1.5)
        assert restored.min() < 0 and restored.max() > 1

    def test_a_network_comes_back_from_its_folder(self, tmp_path: Path) -> None:
        network, image = self.network(), picture(1, 3, 19, 33)
        network.save_pretrained(tmp_path / "net")
        ours, diffusers = load_restorer(tmp_path / "net"), type(network).from_pretrained(tmp_path / "net")
        assert type(ours) is type(network) and not ours.training
        with torch.no_grad():
            # Where diffusers has put the weights decides the last bits.
            torch.testing.assert_close(diffusers(image), network(image), rtol=1e-6, atol=1e-6)
            network.to(memory_format=torch.channels_last)  # as ours: bits depend on the order of memory
            assert torch.equal(ours(image), network(image))

    def test_same_input_same_bits(self) -> None:
        network, image = self.network(), picture(1, 3, 24, 24)
        before = image.clone()
        with torch.no_grad():
            assert torch.equal(network(image), network(image)) and torch.equal(image, before)

    def test_bfloat16_is_the_same_network_more_coarsely(self) -> None:
        network, image = self.network(), picture(1, 3, 21, 18).bfloat16()
        with torch.no_grad():
            exact = network(image.float())
            coarse = network.bfloat16()(image)
        assert coarse.dtype == torch.bfloat16 and coarse.isfinite().all()
        assert (coarse.float() - exact).abs().mean() < 0.1 * exact.std()

    def test_a_large_image_goes_through_in_tiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network, image = self.network(), picture(1, 3, 50, 90)
        monkeypatch.setattr(network, "tile_size", 64)
        monkeypatch.setattr(network, "tile_overlap", 24)
        with torch.no_grad():
            tiled = network(image)
        assert tiled.shape == image.shape and tiled.isfinite().all()


def contracts() -> dict[str, type[RestorerContract]]:
    """The subclasses in `tests/restorers` by their own names."""
    for path in sorted((Path(__file__).parents[1] / "restorers").glob("test_*.py")):
        importlib.import_module(path.stem)
    return {subclass.__name__: subclass for subclass in RestorerContract.__subclasses__()}


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed))


def randomised(network: Restorer, scale: float = 1.0) -> Restorer:
    """The network in evaluation mode with weights far from the identity that training may start at."""
    generator = seeded(0)
    with torch.no_grad():
        for parameter in network.parameters():
            fan = parameter[0].numel() if parameter.dim() > 1 else 100
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator) / fan**0.5)
    return network.eval().requires_grad_(False)
