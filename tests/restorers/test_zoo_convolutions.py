"""Published convolutional restorers: the official numbers, keys and sizes, and the contract."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from restorer_contract import RestorerContract, picture, randomised
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from zoo_fixture import reference

from udc_defense.imaging import inverse_tone_map
from udc_defense.restorers import Restorer
from udc_defense.restorers.discnet import DISCNet, dynamic_filter
from udc_defense.restorers.nafnet import Mean, NAFNet
from udc_defense.restorers.udc_unet import UDCUNet


class Largest(TorchDispatchMode):
    """Counts the values of the largest tensor that is made."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.values = max(self.values, result.numel())
        return result


class TestDISCNet(RestorerContract):
    def network(self) -> DISCNet:
        published = reference("discnet")
        return published.fill(DISCNet(width=8, psf_code=published.tensors["psf"].flatten().tolist()))

    def test_keys_shapes_and_size_are_the_published_ones(self) -> None:
        reference("discnet").assert_published(DISCNet)

    @pytest.mark.parametrize("case", ["", "_unaligned"])
    def test_it_computes_what_the_official_network_does(self, case: str) -> None:
        published = reference("discnet")
        published.assert_close(self.network().network_forward(published.tensors["input" + case]), "output" + case)

    def test_the_code_matters(self) -> None:
        network, image = self.network(), picture(1, 3, 16, 16)
        before = network(image)
        network.register_to_config(psf_code=(0.0,) * 5)
        assert (network(image) - before).abs().max() > 1e-3

    def test_no_tensor_is_larger_than_the_features(self) -> None:
        """All filters of the published size would have 25 times as many values."""
        with torch.device("meta"), torch.no_grad(), Largest() as largest:
            DISCNet()(torch.empty(1, 3, 800, 800))
        assert largest.values <= 32 * 804 * 804

    @pytest.mark.slow
    def test_the_published_size_takes_the_memory_of_a_dozen_feature_maps(self) -> None:
        """All filters at once would be 25 of them, and their gradients' buffers as many again."""
        code = (
            "import resource, sys, torch; from udc_defense.restorers.discnet import DISCNet;"
            "torch.set_grad_enabled(False); DISCNet()(torch.rand(1, 3, *[int(sys.argv[1])] * 2));"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        small, large = (
            int(subprocess.run([sys.executable, "-c", code, side], check=True, capture_output=True, text=True).stdout)
            for side in ("16", "800")
        )
        assert 1024 * (large - small) < 15 * (32 * 804 * 804 * 4)


class TestUDCUNet(RestorerContract):
    def network(self) -> UDCUNet:
        """Small weights: with large ones the modulations raise a light of 500 to a power, and the output is white."""
        return randomised(UDCUNet(width=8, depths=(1, 2, 1, 2, 2, 1, 1)), scale=0.5)

    def test_keys_shapes_and_size_are_the_published_ones(self) -> None:
        reference("udc_unet").assert_published(UDCUNet)

    def test_it_computes_what_the_official_network_does(self) -> None:
        published = reference("udc_unet")
        network = published.fill(self.network())
        published.assert_close(network.network_forward(published.tensors["input"]), "output")

    def test_nothing_is_clamped(self) -> None:
        """The published network is: no light is negative, and no finite light is white."""
        restored = self.network()(4 * picture(1, 3, 32, 32) - 1.5)
        assert restored.min() == 0 and restored.max() < 1

    def test_its_domain_is_linear_radiance(self) -> None:
        network, image = self.network(), picture(1, 3, 8, 8) * 0.99
        assert torch.equal(network.to_network(image), inverse_tone_map(image))
        assert torch.allclose(network.from_network(network.to_network(image)), image, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_white_is_the_brightest_light_of_the_data_set(self, dtype: torch.dtype) -> None:
        light = self.network().to_network(torch.tensor([0.9998, 1.0, 1.5], dtype=dtype))
        assert torch.allclose(light.float(), torch.tensor(500.0), rtol=5e-3)


class TestNAFNet(RestorerContract):
    def network(self, window: int | None = None) -> NAFNet:
        blocks = {"encoder_blocks": (1, 2, 1, 2), "middle_blocks": 1, "decoder_blocks": (2, 1, 1, 1)}
        return reference("nafnet").fill(NAFNet(width=8, window=window, **blocks))

    @pytest.mark.parametrize("index", range(4))
    def test_keys_shapes_and_size_are_the_published_ones(self, index: int) -> None:
        variant = reference("nafnet").manifest["variants"][index]
        names = {"enc_blk_nums": "encoder_blocks", "middle_blk_num": "middle_blocks", "dec_blk_nums": "decoder_blocks"}
        options = {names.get(key, key): value for key, value in variant["overrides"].items()}
        if not options:
            reference("nafnet").assert_published(NAFNet)
        with torch.device("meta"):
            network = NAFNet(**options)
        assert sum(parameter.numel() for parameter in network.parameters()) == variant["parameters"]

    @pytest.mark.parametrize("case", ["", "_unaligned"])
    @pytest.mark.parametrize("window", [None, 1024])
    def test_it_computes_what_the_official_network_does(self, case: str, window: int | None) -> None:
        """With a window as large as the image too."""
        published = reference("nafnet")
        output = self.network(window).network_forward(published.tensors["input" + case])
        published.assert_close(output, "output" + case)

    def test_local_means_are_local(self) -> None:
        image = picture(1, 3, 32, 400)
        other = image.clone()
        other[..., 300:] = 0
        for window, equal in [(None, False), (32, True)]:
            network = self.network(window)
            assert torch.allclose(network(image)[..., :32], network(other)[..., :32], atol=1e-5) == equal


class TestNAFNetWithWindow(RestorerContract):
    def network(self) -> NAFNet:
        return TestNAFNet().network(window=16)


@pytest.mark.parametrize("network", [TestDISCNet().network(), TestUDCUNet().network()], ids=["discnet", "udc_unet"])
def test_tiles_of_a_local_network_give_the_untiled_result(network: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tiles start at a multiple of the network's stride."""
    image = picture(1, 3, 24, 304)
    whole = network(image)
    monkeypatch.setattr(network, "tile_size", 256)
    assert torch.allclose(network(image), whole, atol=1e-3) and not torch.equal(network(image), whole)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_filtering_by_taps_is_filtering_by_all_filters_at_once(side: int) -> None:
    """Value and gradients, against an unfolded image and the explicit filters."""
    torch.manual_seed(0)
    predict, slope = nn.Conv2d(4, 3 * side**2, 1).double(), nn.PReLU().double()
    feature = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    patches = F.unfold(F.pad(feature, [side // 2] * 4, mode="replicate"), side).view(2, 3, side**2, 6, 5)
    expected = (patches * slope(predict(hidden)).view_as(patches)).sum(2)
    actual = dynamic_filter(feature, hidden, predict, slope, size=side)
    assert torch.allclose(actual, expected)
    leaves = [feature, hidden, *predict.parameters(), *slope.parameters()]
    for mine, theirs in zip(*(torch.autograd.grad(y.sin().sum(), leaves) for y in (actual, expected)), strict=True):
        assert torch.allclose(mine, theirs)


@pytest.mark.parametrize(("size", "window"), [((9, 12), 4), ((9, 12), 5), ((3, 12), 7), ((6, 6), 8), ((1, 1), 1)])
def test_the_sliding_mean_repeats_its_border(size: tuple[int, int], window: int) -> None:
    x = picture(2, 3, *size)
    height, width = (min(window, side) for side in size)
    missing = [((side - 1) // 2, side // 2) for side in (width, height)]
    expected = F.pad(F.avg_pool2d(x, (height, width), stride=1), [*missing[0], *missing[1]], mode="replicate")
    assert torch.allclose(Mean(window)(x), expected, atol=1e-6)
