"""BNUDC and Uformer against their official networks, DE-UNet against what its paper says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from restorer_contract import RestorerContract, picture, randomised
from zoo_fixture import Reference, reference

from udc_defense.restorers import Restorer
from udc_defense.restorers.bnudc import BNUDC
from udc_defense.restorers.de_unet import DEUNet
from udc_defense.restorers.uformer import SIZES, Block, Uformer, _cut, _join, _wrap_mask


def small_bnudc() -> BNUDC:
    return BNUDC(n_feat_high=12, n_feat_low=8, scale_feats=4, num_blk=2)


def small_uformer(img_size: int = 64, shift_flag: bool = True) -> Uformer:
    depths = (1, 2, 1, 2, 2, 1, 2, 1, 2)
    return Uformer(img_size=img_size, embed_dim=4, depths=depths, win_size=4, shift_flag=shift_flag)


def small_de_unet() -> DEUNet:
    return DEUNet(width=4, depth=2)


@pytest.fixture(scope="module")
def bnudc() -> Reference:
    return reference("bnudc")


@pytest.fixture(scope="module")
def uformer() -> Reference:
    return reference("uformer")


class TestBNUDC(RestorerContract):
    # The weights of the fixture: where a random box filter sums to nothing, its division means nothing.
    def network(self) -> Restorer:
        return reference("bnudc").fill(small_bnudc())


class TestUformer(RestorerContract):
    def network(self) -> Restorer:
        return reference("uformer").fill(small_uformer())


class TestDEUNet(RestorerContract):
    def network(self) -> Restorer:
        return randomised(small_de_unet(), scale=1.3)  # wide enough to leave [0, 1]


def test_bnudc_computes_what_the_official_network_does(bnudc: Reference) -> None:
    network, image = bnudc.fill(small_bnudc()), bnudc.tensors["input"]
    high, low, final = network.branches(image)
    bnudc.assert_close(high, "output_high")
    bnudc.assert_close(low, "output_low")
    bnudc.assert_close(final, "output")
    assert torch.equal(network.network_forward(image), final)
    assert torch.equal(network(image), final)  # its domain is the tone-mapped one


def test_uformer_computes_what_the_official_network_does(uformer: Reference) -> None:
    network, image = uformer.fill(small_uformer()), uformer.tensors["input"]
    uformer.assert_close(network.network_forward(image), "output")
    assert torch.equal(network(image), network.network_forward(image))


def test_by_default_bnudc_fits_the_official_weights(bnudc: Reference) -> None:
    bnudc.assert_published(BNUDC)
    assert bnudc.manifest["parameters"] == 4_574_559


def test_by_default_uformer_fits_the_official_weights(uformer: Reference) -> None:
    uformer.assert_published(Uformer)
    with torch.device("meta"):
        buffers = {name: str(buffer.dtype) for name, buffer in Uformer().named_buffers()}
    assert buffers == {name: f"torch.{dtype}" for name, dtype in uformer.manifest["buffers"].items()}


@pytest.mark.parametrize(("size", "count"), [("T", 5_291_853), ("S", 20_751_197), ("B", 50_880_946)])
def test_sizes_of_uformer(size: str, count: int) -> None:
    with torch.device("meta"):
        assert parameters(Uformer(**SIZES[size])) == count


def test_de_unet_has_as_many_parameters_as_its_paper_says() -> None:
    with torch.device("meta"):
        assert round(parameters(DEUNet()) / 1e6, 2) == 8.93


def test_both_encoders_of_de_unet_count() -> None:
    network, image = randomised(small_de_unet()), picture(1, 3, 16, 16)
    whole = network(image)
    for encoder in (network.content, network.residual):
        copy = randomised(small_de_unet())
        other = copy.content if encoder is network.content else copy.residual
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert (copy(image) - whole).abs().max() > 1e-3


def test_only_the_configuration_of_uformer_tells_whether_its_bottom_shifts(uformer: Reference) -> None:
    """The nominal side decides, not the actual one, and the weights fit either way."""
    image = uformer.tensors["input"]
    nominal, larger = uformer.fill(small_uformer()), uformer.fill(small_uformer(img_size=128))
    assert [block.shift for block in nominal.conv.blocks] == [0, 0]
    assert [block.shift for block in larger.conv.blocks] == [0, 2]
    assert (nominal(image) - larger(image)).abs().max() > 1e-3


def test_a_uformer_without_shifts_has_the_same_weights_and_is_another_network(uformer: Reference) -> None:
    image = uformer.tensors["input"]
    shifted, unshifted = uformer.fill(small_uformer()), uformer.fill(small_uformer(shift_flag=False))
    assert not any(block.shift for block in unshifted.modules() if isinstance(block, Block))
    assert (shifted(image) - unshifted(image)).abs().max() > 1e-3


def test_windows_of_any_rectangle() -> None:
    x = picture(2, 8, 12, 5)
    tokens = _cut(x, 4)
    assert torch.equal(tokens[1, 4].unflatten(0, (4, 4)), x[1, 4:8, 4:8])  # the second row's second of three
    assert torch.equal(_join(tokens, 8, 12, 4), x)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 12), (16, 4)])
def test_shifted_windows_do_not_look_across_the_border(height: int, width: int) -> None:
    """Two pixels of a window see each other where they lie to each other as they did before the roll."""
    here = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), dim=-1)[None]
    now, before = (_cut(grid, 4)[0] for grid in (here, here.roll((-2, -2), dims=(1, 2))))
    seen = (now[:, :, None] - now[:, None] == before[:, :, None] - before[:, None]).all(dim=-1)
    assert torch.equal(_wrap_mask(height, width, 4, 2, here.device)[:, 0], torch.where(seen, 0.0, -100.0))


@pytest.mark.parametrize("build", [small_bnudc, small_uformer, small_de_unet])
def test_training_starts_near_a_sensible_image(build: Callable[[], Restorer]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build()
    image = picture(1, 3, 32, 32)
    assert (network(image) - image).abs().max() < 1


def parameters(network: Restorer) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
