"""FGSM against models whose best single step is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toy_models import Gain, Linear, Scripted, anywhere, conv, inside, noise, rms

from udc_defense import attacks
from udc_defense.noise import seeded

NORMS = ("linf", "l2")
MATRIX, WEIGHT = noise(48, 48), noise(48, seed=1)
SLOPE = (MATRIX.T @ WEIGHT).view(1, 3, 4, 4)


def linear(output: Tensor, reference: Tensor) -> Tensor:
    """Its gradient at the image is `SLOPE`, wherever it is taken."""
    return output.flatten(1) @ WEIGHT


def test_linf_of_a_linear_objective_is_the_sign_of_its_gradient() -> None:
    image = inside(2, 3, 4, 4)
    result = attacks.fgsm(Linear(MATRIX), image, image, eps=0.03, objective=linear, generator=seeded(0))
    assert torch.allclose(result.image - image, 0.03 * SLOPE.sign().expand_as(image), atol=1e-12)


def test_l2_is_parallel_to_the_gradient_and_as_long_as_the_radius() -> None:
    image = inside(2, 3, 4, 4)
    result = attacks.fgsm(Linear(MATRIX), image, image, eps=0.03, objective=linear, norm="l2", generator=seeded(0))
    delta = result.image - image
    cosine = torch.cosine_similarity(delta.flatten(1), SLOPE.flatten(1))
    assert torch.allclose(cosine, torch.ones_like(cosine), atol=1e-12)
    assert torch.allclose(rms(delta), torch.full((2,), 0.03, dtype=torch.float64))


@pytest.mark.parametrize("norm", NORMS)
def test_the_clean_output_as_reference_gives_a_gradient(norm: str) -> None:
    """At the image it is zero, and a step along it would go nowhere."""
    model, image = conv(), inside(2, 3, 8, 8)
    result = attacks.fgsm(model, image, model(image), eps=0.03, norm=norm, generator=seeded(0))
    assert result.zero_gradients == 0
    assert torch.allclose(rms(result.image - image), torch.full((2,), 0.03, dtype=torch.float64))
    # The nearby point is at most a hundredth as far: in a quadratic, a ten-thousandth of the damage.
    assert (result.losses[:, 1] > 1000 * result.losses[:, 0]).all()


def test_single_precision_reaches_the_border_from_the_clean_output() -> None:
    image = inside(2, 3, 8, 8).float()
    model = Gain(torch.full((3, 8, 8), 0.5))
    result = attacks.fgsm(model, image, model(image), eps=1 / 255, generator=seeded(0))
    assert torch.allclose((result.image - image).abs(), torch.full_like(image, 1 / 255), atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_away_from_the_reference_the_gradient_is_the_images_own(norm: str) -> None:
    """The step is from the image and not from the nearby point."""
    model, image, reference = conv(), inside(2, 3, 8, 8), inside(2, 3, 8, 8, seed=1)
    x = image.clone().requires_grad_(True)
    (own,) = torch.autograd.grad((model(x) - reference).square().sum(), x)
    delta = attacks.fgsm(model, image, reference, eps=0.01, norm=norm, generator=seeded(0)).image - image
    expected = own.sign() if norm == "linf" else own / rms(own).view(-1, 1, 1, 1)
    assert torch.cosine_similarity(delta.flatten(1), expected.flatten(1)).min() > 0.99


def test_the_better_of_the_nearby_point_and_the_step_wins() -> None:
    """The model's noise decides which of its two evaluations is the worse one."""
    image = inside(1, 3, 4, 4)
    near = attacks.fgsm(Scripted([5.0, 0.0]), image, image, eps=0.1, generator=seeded(0))
    stepped = attacks.fgsm(Scripted([5.0, 9.0]), image, image, eps=0.1, generator=seeded(0))
    assert 0 < (near.image - image).abs().max() <= 0.001
    assert torch.allclose(stepped.image, image + 0.1)


@pytest.mark.parametrize("draws", [1, 3])
def test_it_is_one_step_of_one_gradient(draws: int) -> None:
    image = anywhere(2, 3, 8, 8)
    states = list(attacks.fgsm.iterate(conv(), image, image, eps=0.03, draws=draws, generator=seeded(0)))
    assert [(s.step, s.steps, s.forwards, s.backwards) for s in states] == [(1, 1, 2 * draws, draws)]


@pytest.mark.parametrize("norm", NORMS)
def test_a_sample_does_not_depend_on_its_batch_mates(norm: str) -> None:
    image, model = anywhere(3, 3, 8, 8), conv()
    reference = model(image)
    together = attacks.fgsm(model, image, reference, eps=0.03, norm=norm, generator=[seeded(i) for i in range(3)])
    for i in range(3):
        one = slice(i, i + 1)
        alone = attacks.fgsm(model, image[one], reference[one], eps=0.03, norm=norm, generator=[seeded(i)])
        assert torch.allclose(together.image[one], alone.image, atol=1e-6, rtol=0)
