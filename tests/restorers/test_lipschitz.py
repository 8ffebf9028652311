"""The bound of the Lipschitz restorer: against dense matrices, power iteration and attacks, on its whole path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from restorer_contract import RestorerContract, picture
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from udc_defense.checkpoints.files import WEIGHTS
from udc_defense.checkpoints.load import load_restorer
from udc_defense.errors import CheckpointError
from udc_defense.noise import seeded
from udc_defense.restorers.lipschitz import LipschitzRestorer
from udc_defense.restorers.lipschitz_layers import (
    GradientStep,
    LipschitzNetwork,
    haar,
    inverse_haar,
    squared_norm,
)

SHAPE = {"widths": (14, 20), "hidden": (10, 12), "sent": (4,), "steps": (2, 2)}
GAIN = 1.5


def trained(strength: float = 4.0) -> LipschitzNetwork:
    """A small network as training leaves it: far from the identity, every convolution at its norm of 1."""
    torch.manual_seed(0)
    network = LipschitzNetwork(GAIN, **SHAPE, constrained=True)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("original"):
                parameter.mul_(strength)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
        network.parametrizations.gain.original.fill_(1.3)  # type: ignore[union-attr]
    return network.fold().requires_grad_(False)


def restorer(**options: float) -> LipschitzRestorer:
    network = LipschitzRestorer(gain=GAIN, **SHAPE, **options)
    network.network.load_state_dict(trained().state_dict())
    return network.eval().requires_grad_(False)


class TestLipschitz(RestorerContract):
    def network(self) -> LipschitzRestorer:
        return restorer()


def largest_gain(model: nn.Module, image: Tensor, steps: int = 25) -> float:
    """The largest singular value of the Jacobian at an image, by power iteration: below any Lipschitz constant."""
    direction = torch.randn(image.shape, generator=seeded(1), dtype=image.dtype)
    for _ in range(steps):
        direction = direction / direction.norm()
        _, forward = torch.autograd.functional.jvp(model, image, direction)
        _, direction = torch.autograd.functional.vjp(model, image, forward)
    return float(direction.norm().sqrt())


def dense(weight: Tensor, height: int, width: int) -> Tensor:
    """The matrix of a convolution that pads by zeros."""
    channels = weight.shape[1]
    impulses = torch.eye(channels * height * width, dtype=weight.dtype).view(-1, channels, height, width)
    return F.conv2d(impulses, weight, padding=1).flatten(1)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 4), (9, 9)])
def test_the_norm_of_a_convolution_is_bounded_at_every_size(size: tuple[int, int]) -> None:
    weight = torch.randn(6, 5, 3, 3, generator=seeded(2), dtype=torch.float64)
    true = float(torch.linalg.matrix_norm(dense(weight, *size), 2)) ** 2
    assert true <= float(squared_norm(weight))
    assert size != (9, 9) or float(squared_norm(weight)) < 1.5 * true


def test_the_norm_of_one_shifted_pixel_is_found_exactly() -> None:
    weight = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    weight[0, 1, 0, 2], weight[1, 0, 2, 1] = 3.0, -0.5
    assert float(squared_norm(weight)) == pytest.approx(9.0, rel=1e-4)


def test_the_gradient_of_the_bound_points_uphill() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=seeded(2), dtype=torch.float64).requires_grad_(True)
    bound = squared_norm(weight)
    bound.backward()
    assert weight.grad is not None
    # Of degree 2 in the weight (Euler's theorem).
    assert float((weight.grad * weight.detach()).sum()) == pytest.approx(2 * float(bound.detach()), rel=1e-9)


@pytest.mark.parametrize("size", [(4, 4), (8, 12)])
def test_the_haar_transform_is_orthogonal(size: tuple[int, int]) -> None:
    image = picture(2, 5, *size).double()
    there = haar(image)
    assert torch.allclose(there.norm(), image.norm())
    assert torch.allclose(inverse_haar(there), image)
    assert torch.allclose(haar(torch.ones(1, 5, *size))[:, 5:], torch.zeros(1)), "means come first"


def test_training_weights_and_plain_ones_are_the_same_network() -> None:
    torch.manual_seed(0)
    network, image = LipschitzNetwork(GAIN, **SHAPE, constrained=True), picture(1, 3, 16, 12)
    with torch.no_grad():
        before = network(image)
        assert torch.allclose(network.fold()(image), before, atol=1e-5)
    assert not any("parametrizations" in name for name in network.state_dict())


def test_it_begins_as_the_identity() -> None:
    torch.manual_seed(0)
    image = picture(1, 3, 16, 16)
    assert (LipschitzNetwork(GAIN, **SHAPE)(image) - image).square().mean().sqrt() < 0.1


def test_what_training_leaves_keeps_the_gain() -> None:
    network = trained()
    assert 0.9 * GAIN < network.lipschitz() <= GAIN


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (17, 16)])
def test_power_iteration_stays_below_the_bound_whatever_the_padding(size: tuple[int, int]) -> None:
    network = restorer().double()
    found = largest_gain(network, picture(1, 3, *size).double(), steps=20)
    assert found <= network.lipschitz_bound
    assert size != (17, 16) or found > 0.6 * network.lipschitz_bound, "the bound is not idle"


def test_weights_out_of_bounds_have_a_larger_bound_and_gain() -> None:
    """The bound is read from the weights: such a network does exceed the gain that its configuration names."""
    network = restorer().double()
    image, kept = picture(1, 3, 16, 16).double(), network.lipschitz_bound
    for module in network.modules():
        if isinstance(module, GradientStep):
            module.weight.mul_(1.6)
    assert largest_gain(network, image) > kept
    assert largest_gain(network, image) <= network.lipschitz_bound


@pytest.mark.parametrize("attack", ["pgd", "apgd"])
def test_no_attack_in_l2_moves_the_output_further(attack: str) -> None:
    from udc_defense.attacks import ATTACKS

    network, image = restorer(), picture(2, 3, 24, 20)
    with torch.no_grad():
        before = network(image)
    eps = 8 / 255
    found = ATTACKS.get(attack)(network, image, before, eps=eps, steps=15, norm="l2", generator=seeded(0)).image
    with torch.no_grad():
        moved = (network(found) - before).square().flatten(1).mean(dim=1).sqrt()
        radius = (found - image).square().flatten(1).mean(dim=1).sqrt()
    assert (radius <= eps * 1.0001).all() and (radius > eps / 2).all()
    assert (moved <= network.lipschitz_bound * radius + network.network.rounding(torch.float32)).all()
    assert (moved > 0.3 * radius).all()


@pytest.mark.parametrize("size", [(70, 40), (41, 97), (130, 61)])
def test_tiles_change_nothing(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """So the bound of the whole image is that of the tiled one."""
    network, image = restorer().double(), picture(1, 3, *size).double()
    whole = network(image)
    monkeypatch.setattr(network, "tile_size", 2 * network.network.reach + network.multiple)
    tiles: list[int] = []
    network.network.register_forward_hook(lambda *_: tiles.append(1))
    assert torch.allclose(network(image), whole, atol=1e-12)
    assert len(tiles) > 1


def test_the_reach_is_that_of_the_gradient() -> None:
    network = restorer().double()
    side = 4 * network.network.reach
    image = picture(1, 3, 4, side).double().requires_grad_(True)
    network(image)[..., side // 2].sum().backward()
    assert image.grad is not None
    touched = image.grad.abs().amax(dim=(0, 1, 2)).nonzero().flatten()
    assert network.network.reach / 2 < max(side // 2 - int(touched.min()), int(touched.max()) - side // 2)
    assert max(side // 2 - int(touched.min()), int(touched.max()) - side // 2) <= network.network.reach


def test_rounding_is_covered() -> None:
    network, image = restorer(), picture(2, 3, 32, 32)
    single = network(image).double()
    bound = network.network.rounding(torch.float32)
    exact = network.double()(image.double())
    error = float((single - exact).square().mean().sqrt())
    assert 0 < error <= bound < 0.01
    assert network.network.rounding(torch.float64) < 1e-10


def test_weights_that_break_the_promise_are_refused(tmp_path: Path) -> None:
    network = restorer(certified=1.5)
    network.save_pretrained(tmp_path)
    assert load_restorer(tmp_path).lipschitz_bound == network.lipschitz_bound
    state = load_file(tmp_path / WEIGHTS)
    state["network.scale.after.0.weight"] *= 1.1
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"have a gain of up to 2\.\d+, not 1\.4"):
        load_restorer(tmp_path)


def test_nothing_is_proven_of_other_restorers() -> None:
    assert load_restorer("axon20").lipschitz_bound is None
