"""CosPGD: its weights against the formulas, and that weights steer the gradient while damage stays plain."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_models import anywhere, conv, inside, noise

from udc_defense import attacks
from udc_defense.attacks.cospgd import WEIGHTS, error_weight, softmax_weight, weighted
from udc_defense.attacks.gradients import loss, loss_and_grad
from udc_defense.errors import SettingError
from udc_defense.noise import seeded

OUTPUT, REFERENCE = inside(3, 3, 4, 5) + 0.1 * noise(3, 3, 4, 5), inside(3, 3, 4, 5, seed=1)


def numpy_softmax_weight(output: Tensor, reference: Tensor) -> np.ndarray:
    """Pixel by pixel, as the paper writes it."""
    p, y = output.numpy(), reference.numpy()
    weights = np.empty((p.shape[0], *p.shape[2:]))
    for b, i, j in np.ndindex(weights.shape):
        u, v = (np.exp(a[b, :, i, j]) / np.exp(a[b, :, i, j]).sum() for a in (p, y))
        weights[b, i, j] = u @ v / np.sqrt((u @ u) * (v @ v))
    return weights


def numpy_error_weight(output: Tensor, reference: Tensor) -> np.ndarray:
    error = ((output - reference).numpy() ** 2).mean(axis=1)
    return np.stack([np.exp(-e / 0.01) / np.exp(-e.min() / 0.01) for e in error])


class TestWeights:
    def test_softmax_is_the_papers(self) -> None:
        np.testing.assert_allclose(softmax_weight(OUTPUT, REFERENCE), numpy_softmax_weight(OUTPUT, REFERENCE))

    def test_error_falls_with_the_squared_error_of_the_pixel(self) -> None:
        np.testing.assert_allclose(error_weight(OUTPUT, REFERENCE), numpy_error_weight(OUTPUT, REFERENCE))

    @pytest.mark.parametrize("name", WEIGHTS)
    def test_a_pixel_that_is_right_weighs_one(self, name: str) -> None:
        weights = WEIGHTS[name](REFERENCE, REFERENCE)
        assert weights.shape == (3, 4, 5) and torch.allclose(weights, torch.ones_like(weights))

    def test_softmax_spans_two_thirds_to_one_on_rgb(self) -> None:
        """The least is between red and cyan."""
        red, cyan = (torch.tensor(c).view(1, 3, 1, 1) for c in ([1.0, 0.0, 0.0], [0.0, 1.0, 1.0]))
        least = 3 * math.e / math.sqrt((math.e**2 + 2) * (2 * math.e**2 + 1))
        assert softmax_weight(red, cyan).item() == pytest.approx(least, abs=1e-6) == pytest.approx(0.67, abs=0.001)
        grid = torch.cartesian_prod(*[torch.linspace(0, 1, 3)] * 6)
        weights = softmax_weight(*(c[..., None, None] for c in grid.split(3, dim=1)))
        assert least - 1e-6 < weights.min() and weights.max() < 1 + 1e-6

    @pytest.mark.parametrize("spread", [0.02, 0.1, 0.3])
    def test_error_varies_and_softmax_hardly(self, spread: float) -> None:
        output = REFERENCE + spread * noise(3, 3, 4, 5, seed=2)
        assert error_weight(output, REFERENCE).std() > 10 * softmax_weight(output, REFERENCE).std()

    def test_error_leaves_a_gradient_where_everything_is_far_off(self) -> None:
        """exp(-(2 / 0.1)²) is zero in float32."""
        reference = inside(2, 3, 4, 4).float()
        _, gradient = loss_and_grad(nn.Identity(), reference + 2, reference, weighted("error"))
        assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("name", WEIGHTS)
class TestObjective:
    def test_the_value_is_the_plain_mean_squared_error(self, name: str) -> None:
        expected = (OUTPUT - REFERENCE).square().mean(dim=(1, 2, 3))
        assert torch.allclose(loss(nn.Identity(), OUTPUT, REFERENCE, weighted(name)), expected, rtol=1e-12)

    def test_the_gradient_is_that_of_the_weighted_error_with_fixed_weights(self, name: str) -> None:
        """For the identity: ∂/∂x of the mean of w (x - y)² is 2 w (x - y) / n. B = C = 3: lined up, or not at all."""
        numpy_weight = {"softmax": numpy_softmax_weight, "error": numpy_error_weight}[name]
        weights = torch.from_numpy(numpy_weight(OUTPUT, REFERENCE))[:, None]
        _, gradient = loss_and_grad(nn.Identity(), OUTPUT, REFERENCE, weighted(name))
        assert torch.allclose(gradient, 2 * weights * (OUTPUT - REFERENCE) / OUTPUT[0].numel(), rtol=1e-9)

    def test_the_gradient_goes_through_the_model(self, name: str) -> None:
        model, image = conv(), inside(2, 3, 6, 5)
        reference = inside(2, 3, 6, 5, seed=1)
        x = image.clone().requires_grad_(True)
        output = model(x)
        weights = WEIGHTS[name](output, reference).detach()
        written_out = (weights * (output - reference).square().sum(dim=1) / 3).mean(dim=(1, 2)).sum()
        (expected,) = torch.autograd.grad(written_out, x)
        _, gradient = loss_and_grad(model, image, reference, weighted(name))
        assert torch.allclose(gradient, expected, rtol=1e-9)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
class TestAttack:
    def test_three_samples_of_three_channels_equal_three_alone(self, name: str, norm: str) -> None:
        image, model = anywhere(3, 3, 8, 8), conv()
        reference = model(image)
        options: dict[str, Any] = {"eps": 0.05, "steps": 6, "norm": norm, "weight": name}
        together = attacks.cospgd(model, image, reference, generator=[seeded(i) for i in range(3)], **options)
        for i in range(3):
            one = slice(i, i + 1)
            alone = attacks.cospgd(model, image[one], reference[one], generator=[seeded(i)], **options)
            assert torch.allclose(together.image[one], alone.image, atol=1e-6, rtol=0)
            assert torch.allclose(together.losses[one], alone.losses, atol=1e-6, rtol=0)

    def test_losses_and_the_best_iterate_are_by_the_plain_error(self, name: str, norm: str) -> None:
        image, model = anywhere(2, 3, 8, 8), conv()
        reference = model(image)
        result = attacks.cospgd(model, image, reference, eps=0.2, norm=norm, weight=name, generator=seeded(0))
        measured = (model(result.image) - reference).square().flatten(1).mean(dim=1)
        assert result.losses.shape == (2, 21) and torch.allclose(measured, result.losses.amax(dim=1), rtol=1e-12)
        assert (result.losses[:, -1] > 2 * result.losses[:, 0]).all()

    def test_the_weights_change_the_attack(self, name: str, norm: str) -> None:
        image, model = anywhere(2, 3, 8, 8), conv()
        reference = model(image)
        options: dict[str, Any] = {"eps": 0.2, "norm": norm}
        plain = attacks.pgd(model, image, reference, generator=seeded(0), **options)
        result = attacks.cospgd(model, image, reference, weight=name, generator=seeded(0), **options)
        assert torch.equal(plain.losses[:, 0], result.losses[:, 0])
        assert not torch.allclose(plain.image, result.image, atol=1e-4)


def test_the_weights_name_is_a_choice() -> None:
    (option,) = attacks.cospgd.options
    assert (option.name, option.default, option.choices) == ("weight", "softmax", tuple(WEIGHTS))
    assert "objective" not in attacks.cospgd.defaults


def test_an_unknown_weight_is_refused() -> None:
    image = inside(1, 3, 4, 4)
    with pytest.raises(SettingError, match=r"^weight 'cosine' is not one of softmax, error\.$"):
        attacks.cospgd(conv(), image, image, eps=0.1, weight="cosine")
