"""PGD against models whose worst perturbation is known in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_models import Counting, Gain, Linear, Scripted, anywhere, conv, inside, noise, rms

from udc_defense import attacks
from udc_defense.attacks import ATTACKS, AttackResult
from udc_defense.errors import SettingError
from udc_defense.noise import seeded

NORMS = ("linf", "l2")


class TestOracles:
    def test_l2_reaches_the_top_singular_vector(self) -> None:
        """Damage ‖A δ‖² in a ball is at most (σ₁ ‖δ‖)². With the clean output as reference."""
        matrix = noise(48, 48)
        image, eps = inside(2, 3, 4, 4), 0.02
        model = Linear(matrix)
        result = attacks.pgd(model, image, model(image), eps=eps, steps=150, norm="l2", generator=seeded(0))
        damage = (model(result.image) - model(image)).square().flatten(1).mean(dim=1)
        optimum = (torch.linalg.matrix_norm(matrix, ord=2) * eps) ** 2
        assert (damage <= optimum * (1 + 1e-9)).all()
        assert (damage >= 0.98 * optimum).all()
        assert torch.allclose(rms(result.image - image), torch.full((2,), eps, dtype=torch.float64))

    @pytest.mark.parametrize("norm", NORMS)
    def test_the_start_is_random_because_the_gradient_at_the_image_is_zero(self, norm: str) -> None:
        """Without the start, every gradient would be zero and the damage too."""
        model, image = Linear(noise(48, 48)), inside(1, 3, 4, 4)
        result = attacks.pgd(model, image, model(image), eps=0.02, steps=1, norm=norm, generator=seeded(0))
        assert result.losses[0, 0] > 0 and result.losses[0, 1] > result.losses[0, 0]

    def test_linf_drives_every_value_of_a_gain_to_the_border(self) -> None:
        gain = noise(3, 8, 8)
        model, image = Gain(gain), inside(2, 3, 8, 8)
        result = attacks.pgd(model, image, model(image), eps=4 / 255, generator=seeded(0))
        assert torch.allclose((result.image - image).abs(), torch.full_like(image, 4 / 255), atol=1e-12)
        expected = (gain.square().mean() * (4 / 255) ** 2).expand(2)
        assert torch.allclose(result.losses[:, -1], expected)

    def test_linf_of_a_linear_objective_is_the_sign_of_its_gradient(self) -> None:
        """max of w·A δ over |δ| ≤ ε is at δ = ε sign(Aᵀ w)."""
        matrix, weight, image = noise(48, 48), noise(48, seed=1), inside(2, 3, 4, 4)

        def objective(output: Tensor, reference: Tensor) -> Tensor:
            return output.flatten(1) @ weight

        result = attacks.pgd(Linear(matrix), image, image, eps=0.03, steps=10, objective=objective, generator=seeded(0))
        expected = 0.03 * (matrix.T @ weight).sign().view(1, 3, 4, 4)
        assert torch.allclose(result.image - image, expected.expand_as(image), atol=1e-12)

    def test_l2_follows_the_gradient_and_not_its_sign(self) -> None:
        """Sign steps would end at a corner of a cube, far from parallel to Aᵀ w."""
        matrix, weight, image = noise(48, 48), noise(48, seed=1), inside(2, 3, 4, 4)

        def objective(output: Tensor, reference: Tensor) -> Tensor:
            return output.flatten(1) @ weight

        result = attacks.pgd(
            Linear(matrix), image, image, eps=0.02, steps=60, objective=objective, norm="l2", generator=seeded(0)
        )
        delta = (result.image - image).flatten(1)
        cosine = torch.cosine_similarity(delta, (matrix.T @ weight)[None])
        assert (1 - cosine).abs().max() < 1e-3
        assert torch.allclose(rms(delta), torch.full((2,), 0.02, dtype=torch.float64))


class TestBall:
    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("eps", [1 / 255, 0.1, 2.0])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_every_step_stays_in_ball_and_box(self, norm: str, eps: float, dtype: torch.dtype) -> None:
        image = anywhere(2, 3, 8, 8).to(dtype)
        model = conv().to(dtype)
        for state in attacks.pgd.iterate(model, image, model(image), eps=eps, steps=5, norm=norm, generator=seeded(0)):
            delta = state.image - image
            size = delta.abs().amax() if norm == "linf" else rms(delta).amax()
            assert size <= eps + (1e-6 if dtype == torch.float32 else 1e-12)
            assert state.image.min() >= 0 and state.image.max() <= 1

    @pytest.mark.parametrize("norm", NORMS)
    def test_each_sample_has_its_own_radius(self, norm: str) -> None:
        image, radii = inside(3, 3, 4, 4), torch.tensor([0.0, 0.01, 0.03], dtype=torch.float64)
        model = Gain(torch.ones(3, 4, 4, dtype=torch.float64))
        result = attacks.pgd(model, image, model(image), eps=radii, norm=norm, steps=60, generator=seeded(0))
        delta = result.image - image
        assert torch.allclose(rms(delta), radii, atol=1e-12)
        if norm == "linf":
            assert torch.allclose(delta.abs().flatten(1).amax(dim=1), radii, atol=1e-12)

    @pytest.mark.parametrize("norm", NORMS)
    def test_radius_zero_gives_the_image(self, norm: str) -> None:
        image = anywhere(2, 3, 8, 8)
        assert torch.equal(attacks.pgd(conv(), image, image, eps=0, norm=norm, steps=2).image, image)


class TestBatch:
    @pytest.mark.parametrize("norm", NORMS)
    def test_a_sample_does_not_depend_on_its_batch_mates(self, norm: str) -> None:
        image, model = anywhere(3, 3, 8, 8), conv()
        reference = model(image)
        options: dict[str, Any] = {"eps": 0.03, "steps": 6, "norm": norm}
        together = attacks.pgd(model, image, reference, generator=[seeded(i) for i in range(3)], **options)
        for i in range(3):
            one = slice(i, i + 1)
            alone = attacks.pgd(model, image[one], reference[one], generator=[seeded(i)], **options)
            assert torch.allclose(together.image[one], alone.image, atol=1e-6, rtol=0)
            assert torch.allclose(together.losses[one], alone.losses, atol=1e-6, rtol=0)

    def test_same_seed_same_bits(self) -> None:
        image, model = anywhere(2, 3, 8, 8), conv()
        first, second, other = (
            attacks.pgd(model, image, image, eps=0.03, steps=2, generator=seeded(s)).image for s in (1, 1, 2)
        )
        assert torch.equal(first, second) and not torch.equal(first, other)

    def test_arguments_stay_as_they_were(self) -> None:
        image, model = anywhere(1, 3, 8, 8), conv()
        before = image.clone()
        attacks.pgd(model, image, image, eps=0.03, steps=2, generator=seeded(0))
        assert torch.equal(image, before) and not image.requires_grad


class TestProgress:
    def test_steps_can_be_watched(self) -> None:
        image = anywhere(1, 3, 8, 8)
        options: dict[str, Any] = {"eps": 0.03, "steps": 4}
        states = list(attacks.pgd.iterate(conv(), image, image, generator=seeded(0), **options))
        assert [(s.step, s.steps) for s in states] == [(i, 4) for i in range(1, 5)]
        drained = attacks.pgd(conv(), image, image, generator=seeded(0), **options)
        assert isinstance(drained, AttackResult) and torch.equal(drained.image, states[-1].image)

    def test_closing_stops_the_work(self) -> None:
        model, image = Counting(conv()), anywhere(1, 3, 8, 8)
        steps = attacks.pgd.iterate(model, image, image, eps=0.03, steps=50, generator=seeded(0))
        assert next(steps).step == 1
        steps.close()
        assert model.forwards == 1 and list(steps) == []

    @pytest.mark.parametrize("draws", [1, 3])
    def test_evaluations_are_counted(self, draws: int) -> None:
        model, image = Counting(conv()), anywhere(2, 3, 8, 8)
        result = attacks.pgd(model, image, image, eps=0.03, steps=4, draws=draws, generator=seeded(0))
        assert (result.forwards, result.backwards) == (model.forwards, model.graphs) == (5 * draws, 4 * draws)

    @pytest.mark.parametrize("steps", [1, 7])
    def test_the_best_iterate_wins(self, steps: int) -> None:
        image, model = anywhere(2, 3, 8, 8), conv()
        reference = model(image)
        result = attacks.pgd(model, image, reference, eps=0.2, steps=steps, generator=seeded(0))
        assert result.losses.shape == (2, steps + 1)
        measured = (model(result.image) - reference).square().flatten(1).mean(dim=1)
        assert torch.allclose(measured, result.losses.amax(dim=1), rtol=1e-12)

    def test_a_falling_loss_keeps_the_earlier_iterate(self) -> None:
        """The model's noise makes the second evaluation worse than the first: the start must win."""
        image = inside(1, 3, 4, 4)
        result = attacks.pgd(Scripted([5.0, 0.0]), image, image, eps=0.03, steps=1, generator=seeded(0))
        start = attacks.pgd(Scripted([5.0, 9.0]), image, image, eps=0.03, steps=1, generator=seeded(0))
        assert result.losses[0, 0] > result.losses[0, 1]
        assert not torch.equal(result.image, start.image)
        assert result.losses[0, 0] == pytest.approx((5 + result.image - image).square().mean().item())

    def test_draws_average_losses_and_not_outputs(self) -> None:
        """Outputs x±1 have mean x and loss 0 at ε = 0; the mean of their losses is 1."""
        image = inside(1, 3, 4, 4)
        result = attacks.pgd(Scripted([1.0, -1.0, 3.0, -1.0]), image, image, eps=0, steps=1, draws=2)
        assert result.losses.tolist() == [[pytest.approx(1.0), pytest.approx(5.0)]]


class Detached(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            return image * 2


class Halved(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image[..., ::2]


IMAGE = inside(2, 3, 4, 4)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "negative eps": ({"eps": -0.1}, "-0.1"),
    "eps not a number": ({"eps": math.nan}, "nan"),
    "infinite eps": ({"eps": math.inf}, "inf"),
    "one negative eps of many": ({"eps": torch.tensor([0.1, -0.25])}, "-0.25"),
    "three eps for two samples": ({"eps": torch.tensor([0.1, 0.1, 0.1])}, "(3,)"),
    "eps per value": ({"eps": torch.full((2, 3, 4, 4), 0.1)}, "(2, 3, 4, 4)"),
    "NaN in the image": ({"image": IMAGE.where(IMAGE < 0.6, torch.nan)}, "not finite"),
    "image above 1": ({"image": IMAGE + 0.5}, "[0, 1]"),
    "image below 0": ({"image": IMAGE - 0.5}, "[0, 1]"),
    "no batch": ({"image": IMAGE[0], "reference": IMAGE[0]}, "(3, 4, 4)"),
    "reference of another shape": ({"reference": IMAGE[:, :1]}, "(2, 1, 4, 4)"),
    "NaN in the reference": ({"reference": IMAGE * math.nan}, "not finite"),
    "model of another shape": ({"model": Halved()}, "(2, 3, 4, 2)"),
    "model under no_grad": ({"model": Detached()}, "not differentiable"),
    "no steps": ({"steps": 0}, "0 steps"),
    "no draws": ({"draws": 0}, "0 draws"),
    "unknown norm": ({"norm": "l7"}, "l7"),
    "three generators for two samples": ({"generator": [seeded(0)] * 3}, "3 generators"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(name: str) -> None:
    changes, words = BAD[name]
    arguments = {"model": Gain(torch.ones(1)), "image": IMAGE, "reference": IMAGE, "eps": 0.1, "steps": 1} | changes
    with pytest.raises(SettingError) as caught:
        attacks.pgd(**arguments)
    message = str(caught.value)
    assert words in message and message.endswith(".") and "\n" not in message


def test_a_long_list_of_radii_still_makes_one_sentence() -> None:
    image = inside(40, 3, 2, 2)
    with pytest.raises(SettingError) as caught:
        attacks.pgd(Gain(torch.ones(1)), image, image, eps=torch.linspace(-1, 1, 40))
    assert "\n" not in str(caught.value)


def test_unknown_attack_names_the_known_ones() -> None:
    with pytest.raises(SettingError, match=r"^attack 'gradient' is not one of .*pgd.*\.$"):
        ATTACKS.get("gradient")
