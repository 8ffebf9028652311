"""C&W against models whose smallest perturbation of a given damage is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from toy_models import Counting, Gain, Linear, Scripted, anywhere, conv, inside, noise, rms

from udc_defense import attacks
from udc_defense.attacks import AttackResult
from udc_defense.errors import SettingError
from udc_defense.noise import seeded


def attack(model: nn.Module, image: Tensor, psnr: float, **options: int) -> AttackResult:
    """With the clean output as reference: the damage is ‖A δ‖², and the image itself has none."""
    return attacks.cw(model, image, model(image), psnr=psnr, generator=seeded(0), **options)


def damage(model: nn.Module, result: AttackResult, image: Tensor) -> Tensor:
    """PSNR of what the attack returns."""
    return -10 * torch.log10((model(result.image) - model(image)).square().flatten(1).mean(dim=1))


class TestOracles:
    @pytest.mark.parametrize("spread", [1.0, 8.0], ids=["1.9/255", "0.24/255"])
    def test_a_linear_model_needs_the_top_singular_vector(self, spread: float) -> None:
        """‖A δ‖ ≤ σ₁ ‖δ‖, with equality for that vector: the root mean square is 10^(−psnr/20) / σ₁.

        σ₂ is 0.99 σ₁ here; with the default 50 steps some samples are 2.2 % above.
        """
        matrix, image = spread * noise(48, 48), inside(2, 3, 4, 4)
        model = Linear(matrix)
        result = attack(model, image, 20, steps=100)
        smallest = 10 ** (-20 / 20) / torch.linalg.matrix_norm(matrix, ord=2)
        assert (rms(result.image - image) >= smallest * (1 - 1e-9)).all()
        assert (rms(result.image - image) <= 1.02 * smallest).all()
        assert (damage(model, result, image) <= 20).all()

    @pytest.mark.parametrize("psnr", [20.0, 35.0])
    def test_a_gain_needs_its_greatest_value_alone(self, psnr: float) -> None:
        gain, image = noise(3, 4, 4, seed=5), inside(2, 3, 4, 4)
        result = attack(Gain(gain), image, psnr)
        delta = (result.image - image).flatten(1).abs()
        smallest = 10 ** (-psnr / 20) / gain.abs().max()
        assert (rms(delta) <= 1.02 * smallest).all() and (rms(delta) >= smallest * (1 - 1e-9)).all()
        assert delta.argmax(dim=1).tolist() == [int(gain.abs().argmax())] * 2

    def test_a_tiny_perturbation_is_found_as_well(self) -> None:
        """Where 0.017/255 is enough: a weight that only halves would still be 60 times too large after 9 searches."""
        matrix, image = 20 * noise(48, 48), inside(2, 3, 4, 4)
        result = attack(Linear(matrix), image, 35)
        smallest = 10 ** (-35 / 20) / torch.linalg.matrix_norm(matrix, ord=2)
        assert smallest * 255 < 0.02 and (rms(result.image - image) <= 1.03 * smallest).all()

    def test_each_sample_has_its_own_weight(self) -> None:
        """The second sample's gain is four times the first's, so a quarter of the perturbation is enough."""
        image = torch.cat([inside(1, 3, 4, 4), inside(1, 3, 4, 4)])
        gain = noise(3, 4, 4, seed=5) * torch.tensor([1.0, 4.0], dtype=torch.float64).view(2, 1, 1, 1)
        size = rms(attack(Gain(gain), image, 30).image - image)
        assert (size[0] / size[1]).item() == pytest.approx(4, rel=0.02)


class TestBox:
    def test_black_and_white_values_can_move(self) -> None:
        """The paper's tanh is flat there. The smallest perturbation is inward, with the same size as elsewhere."""
        gain, image = noise(3, 4, 4, seed=5), (noise(2, 3, 4, 4, seed=3) > 0).double()
        result = attack(Gain(gain), image, 30)
        assert result.image.isfinite().all() and result.losses.isfinite().all()
        assert (rms(result.image - image) <= 1.02 * 10 ** (-30 / 20) / gain.abs().max()).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_every_step_stays_in_the_box(self, dtype: torch.dtype) -> None:
        image, model = anywhere(2, 3, 8, 8).to(dtype), conv().to(dtype)
        for state in attacks.cw.iterate(model, image, model(image), steps=8, searches=3, generator=seeded(0)):
            assert state.image.min() >= 0 and state.image.max() <= 1 and state.losses.isfinite().all()


class TestSuccess:
    def test_damage_that_is_there_already_needs_no_attack(self) -> None:
        image = anywhere(2, 3, 4, 4)
        result = attacks.cw(Gain(torch.ones(1)), image, image + 0.5, psnr=20, steps=3, searches=2)
        assert torch.equal(result.image, image)

    def test_out_of_reach_gives_the_most_damaged_image_and_says_so(self) -> None:
        """0.01 x within [0, 1] cannot do more than 40 dB, and every value at the far end of the box does most."""
        image = inside(2, 3, 4, 4)
        model = Gain(torch.full((1,), 0.01, dtype=torch.float64))
        result = attack(model, image, 20)
        assert (result.losses < -20).all()
        assert torch.allclose(damage(model, result, image), -result.losses.amax(dim=1))
        assert (damage(model, result, image) < 46.5).all()

    def test_one_sample_out_of_reach_leaves_the_other_alone(self) -> None:
        image, gain = inside(2, 3, 4, 4), torch.tensor([0.01, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
        result = attack(Gain(gain), image, 30)
        assert (result.losses.amax(dim=1) >= -30).tolist() == [False, True]
        # Every value counts alike here, so every direction is a smallest one.
        assert rms(result.image - image)[1].item() == pytest.approx(10 ** (-30 / 20), rel=5e-3)

    def test_success_is_judged_by_the_evaluation_at_hand(self) -> None:
        """The model's noise does the damage at the second evaluation only: what was evaluated there is returned."""
        image = inside(1, 3, 4, 4)
        model = Scripted([0.0, 1.0] + [0.0] * 9)
        result = attacks.cw(model, image, image, psnr=10, steps=1, searches=1, generator=seeded(0))
        size = rms(result.image - image).item()
        assert 0 < size < 0.15 / 255 and (result.losses[0] >= -10).tolist() == [False, True] + [False] * 8


class TestSearch:
    def test_a_sample_does_not_depend_on_its_batch_mates(self) -> None:
        image, model = anywhere(3, 3, 8, 8), conv()
        reference = model(image)
        together, *alone = (
            attacks.cw(
                model, image[i], reference[i], psnr=30, steps=6, searches=3, generator=[seeded(k) for k in range(3)[i]]
            )
            for i in (slice(0, 3), slice(0, 1), slice(1, 2), slice(2, 3))
        )
        assert torch.allclose(together.image, torch.cat([a.image for a in alone]), atol=1e-9, rtol=0)
        assert torch.allclose(together.losses, torch.cat([a.losses for a in alone]), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("draws", [1, 2])
    def test_evaluations_and_steps_are_counted(self, draws: int) -> None:
        model, image = Counting(conv()), anywhere(2, 3, 8, 8)
        states = list(
            attacks.cw.iterate(model, image, image, steps=3, searches=2, draws=draws, psnr=5.0, generator=seeded(0))
        )
        assert [(s.step, s.steps) for s in states] == [(i, 6) for i in range(1, 7)]
        assert (states[-1].forwards, states[-1].backwards) == (model.forwards, model.graphs) == (15 * draws, 6 * draws)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [({"searches": 0}, "0 searches"), ({"psnr": math.nan}, "psnr nan"), ({"psnr": math.inf}, "psnr inf")],
    )
    def test_bad_options_are_refused_in_one_sentence(self, changes: dict[str, float], words: str) -> None:
        image = inside(1, 3, 4, 4)
        with pytest.raises(SettingError, match=rf"{words}.*\.$"):
            attacks.cw(conv(), image, image, **changes)
