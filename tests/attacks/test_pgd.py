"""PGD against models whose worst perturbation is known in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_models import Gain, Linear, Scripted, anywhere, conv, inside, noise, rms

from udc_defense import attacks
from udc_defense.attacks.objectives import mse
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
    def test_the_whole_radius_of_each_sample_is_used(self, norm: str) -> None:
        image, radii = inside(3, 3, 4, 4), torch.tensor([0.0, 0.01, 0.03], dtype=torch.float64)
        model = Gain(torch.ones(3, 4, 4, dtype=torch.float64))
        result = attacks.pgd(model, image, model(image), eps=radii, norm=norm, steps=60, generator=seeded(0))
        delta = result.image - image
        assert torch.allclose(rms(delta), radii, atol=1e-12)
        if norm == "linf":
            assert torch.allclose(delta.abs().flatten(1).amax(dim=1), radii, atol=1e-12)


class TestBestIterate:
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


class TestRestarts:
    def test_each_starts_elsewhere_and_the_best_of_all_wins(self) -> None:
        image, model = anywhere(2, 3, 8, 8), conv()
        reference = model(image)
        result = attacks.pgd(model, image, reference, eps=0.2, steps=2, restarts=3, generator=seeded(0))
        assert result.steps == 6 and result.losses.shape == (2, 9)
        starts = result.losses[:, ::3]
        assert len(starts[0].unique()) == 3
        measured = (model(result.image) - reference).square().flatten(1).mean(dim=1)
        assert torch.allclose(measured, result.losses.amax(dim=1), rtol=1e-12)


class TestMomentum:
    def test_it_keeps_a_share_of_the_last_direction(self) -> None:
        """Gradients +, +, −: with a share of 0.9 the third direction is 0.9 (0.9 + 1) − 1 > 0."""
        image = inside(1, 3, 4, 4)
        moves = {}
        for momentum in (0.0, 0.9):
            slopes, seen = iter([1.0, 1.0, -0.4, 0.0]), []

            class Ramp(nn.Module):
                def forward(self, x: Tensor, slopes: Any = slopes, seen: list[float] = seen) -> Tensor:
                    seen.append(float(x.detach().mean()))
                    return next(slopes) * x

            attacks.pgd(
                Ramp(),
                image,
                image,
                eps=0.1,
                steps=3,
                objective=lambda output, reference: output.flatten(1).sum(dim=1),
                momentum=momentum,
                generator=seeded(0),
            )
            moves[momentum] = [after > before for before, after in zip(seen, seen[1:], strict=False)]
        assert moves == {0.0: [True, True, False], 0.9: [True, True, True]}

    def test_it_does_not_depend_on_the_scale_of_the_loss(self) -> None:
        """Gradients are scaled before they are added: a first slope of 1 weighs no more than a second of 0.4."""
        image, model = anywhere(1, 3, 8, 8), conv()

        def scaled(output: Tensor, reference: Tensor) -> Tensor:
            return 1e6 * (output - reference).square().flatten(1).mean(dim=1)

        options: dict[str, Any] = {"eps": 0.1, "steps": 5, "momentum": 0.75}
        one, other = (
            attacks.pgd(model, image, model(image), objective=objective, generator=seeded(0), **options).image
            for objective in (mse, scaled)
        )
        assert torch.allclose(one, other, atol=1e-12)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "one negative eps of many": ({"eps": torch.tensor([0.1, -0.25])}, "-0.25"),
    "three eps for two samples": ({"eps": torch.tensor([0.1, 0.1, 0.1])}, "(3,)"),
    "eps per value": ({"eps": torch.full((2, 3, 4, 4), 0.1)}, "(2, 3, 4, 4)"),
    "no restarts": ({"restarts": 0}, "0 restarts"),
    "all momentum": ({"momentum": 1.0}, "momentum 1"),
    "momentum against itself": ({"momentum": -0.5}, "momentum -0.5"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(name: str) -> None:
    changes, words = BAD[name]
    image = inside(2, 3, 4, 4)
    with pytest.raises(SettingError) as caught:
        attacks.pgd(Gain(torch.ones(1)), image, image, **({"eps": 0.1, "steps": 1} | changes))
    message = str(caught.value)
    assert words in message and message.endswith(".") and "\n" not in message


def test_a_long_list_of_radii_still_makes_one_sentence() -> None:
    image = inside(40, 3, 2, 2)
    with pytest.raises(SettingError) as caught:
        attacks.pgd(Gain(torch.ones(1)), image, image, eps=torch.linspace(-1, 1, 40))
    assert "\n" not in str(caught.value)
