"""Auto-PGD: optima known in closed form, its schedule against the paper, and its step sizes as the model sees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_models import Gain, Linear, anywhere, conv, inside, noise, rms

from udc_defense import attacks
from udc_defense.attacks.apgd import checkpoints
from udc_defense.errors import SettingError
from udc_defense.noise import seeded

NORMS = ("linf", "l2")


class TestOracles:
    def test_l2_reaches_the_top_singular_vector(self) -> None:
        """Damage ‖A δ‖² in a ball is at most (σ₁ ‖δ‖)². With the clean output as reference."""
        matrix = noise(48, 48)
        image, eps = inside(2, 3, 4, 4), 0.02
        model = Linear(matrix)
        result = attacks.apgd(model, image, model(image), eps=eps, norm="l2", generator=seeded(0))
        damage = (model(result.image) - model(image)).square().flatten(1).mean(dim=1)
        optimum = (torch.linalg.matrix_norm(matrix, ord=2) * eps) ** 2
        assert (damage <= optimum * (1 + 1e-9)).all()
        assert (damage >= 0.98 * optimum).all()
        assert torch.allclose(rms(result.image - image), torch.full((2,), eps, dtype=torch.float64))

    def test_linf_drives_every_value_of_a_gain_to_the_border(self) -> None:
        gain = noise(3, 8, 8)
        model, image = Gain(gain), inside(2, 3, 8, 8)
        result = attacks.apgd(model, image, model(image), eps=4 / 255, steps=10, generator=seeded(0))
        assert torch.allclose((result.image - image).abs(), torch.full_like(image, 4 / 255), atol=1e-12)
        expected = (gain.square().mean() * (4 / 255) ** 2).expand(2)
        assert torch.allclose(result.losses.amax(dim=1), expected)

    def test_linf_of_a_linear_objective_is_the_sign_of_its_gradient(self) -> None:
        matrix, weight, image = noise(48, 48), noise(48, seed=1), inside(2, 3, 4, 4)

        def objective(output: Tensor, reference: Tensor) -> Tensor:
            return output.flatten(1) @ weight

        result = attacks.apgd(Linear(matrix), image, image, eps=0.03, steps=5, objective=objective, generator=seeded(0))
        expected = 0.03 * (matrix.T @ weight).sign().view(1, 3, 4, 4)
        assert torch.allclose(result.image - image, expected.expand_as(image), atol=1e-12)

    def test_linf_settles_inside_the_ball_where_the_optimum_is(self) -> None:
        """-‖δ - target‖² with |target| < ε: fixed steps of ε/4 keep jumping over it, halved ones settle."""
        image = inside(2, 3, 4, 4)
        target = image + 0.05 * (2 * inside(2, 3, 4, 4, seed=1) - 1)

        def objective(output: Tensor, reference: Tensor) -> Tensor:
            return -(output - reference).square().flatten(1).mean(dim=1)

        options: dict[str, Any] = {"eps": 0.05, "steps": 100, "objective": objective, "generator": seeded(0)}
        adaptive = attacks.apgd(Gain(torch.ones(1)), image, target, **options)
        fixed = attacks.pgd(Gain(torch.ones(1)), image, target, **options)
        assert rms(adaptive.image - target).max() < 0.1 * rms(fixed.image - target).min()

    @pytest.mark.parametrize("norm", NORMS)
    def test_it_beats_pgd_at_the_same_number_of_gradients(self, norm: str) -> None:
        gains = []
        for seed in range(8):
            model, image = conv(seed), anywhere(4, 3, 8, 8, seed=seed)
            reference = model(image)
            options: dict[str, Any] = {"eps": 0.05, "steps": 20, "norm": norm}
            adaptive = attacks.apgd(model, image, reference, generator=seeded(seed), **options)
            fixed = attacks.pgd(model, image, reference, generator=seeded(seed), **options)
            assert (adaptive.forwards, adaptive.backwards) == (fixed.forwards, fixed.backwards) == (21, 20)
            gains.append(adaptive.losses.amax(dim=1) / fixed.losses.amax(dim=1))
        assert torch.cat(gains).mean() > 1


class TestCheckpoints:
    def test_a_hundred_steps_have_the_checkpoints_of_the_paper(self) -> None:
        assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]

    def test_other_numbers_of_steps_are_rounded_up(self) -> None:
        assert checkpoints(10) == [0, 3, 5, 6, 7, 8, 9, 10]
        assert checkpoints(1000) == [0, 220, 410, 570, 700, 800, 870, 930, 990]
        assert checkpoints(1) == [0, 1]


class Recording(nn.Module):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.asked.append(image.detach().clone())
        return 1.0 * image


EPS, STEPS = 0.1, 100
Script = tuple[Sequence[float], Callable[[int], float]]  # the k-th loss, and the sign of the k-th gradient


def play(*scripts: Script) -> list[Tensor]:
    """What the model is asked, less the image: (B, 3, 4, 4) at every evaluation, one sample a script."""
    model, image = Recording(), inside(1, 3, 4, 4).expand(len(scripts), -1, -1, -1)
    reference = torch.arange(len(scripts), dtype=torch.float64).view(-1, 1, 1, 1).expand_as(image)

    def objective(output: Tensor, marks: Tensor) -> Tensor:
        played, step = [scripts[int(mark)] for mark in marks[:, 0, 0, 0]], len(model.asked) - 1
        values = torch.tensor([values[step] for values, _ in played], dtype=torch.float64)
        signs = torch.tensor([sign(step) for _, sign in played], dtype=torch.float64)
        slope = signs * output.flatten(1).sum(dim=1)
        return values + slope - slope.detach()

    generators = [seeded(0) for _ in scripts]
    attacks.apgd(model, image, reference, eps=EPS, steps=STEPS, objective=objective, generator=generators)
    return [x - image for x in model.asked]


def halvings(values: Sequence[float], probe: int) -> int:
    """How often the step was halved until `probe`: no gradient before it, so that nothing moves, and one upwards then.

    The probe must not be a checkpoint, where the remembered gradient of the best point can be the one followed.
    """
    seen = play((values, lambda step: float(step >= probe)))
    assert torch.allclose(seen[probe], seen[0], atol=1e-12)
    size = (seen[probe + 1] - seen[probe]).max().item() / 0.75
    # 2ε end at the border from anywhere; ε and less inside, from where the start is lowest.
    whole = size == pytest.approx(EPS - seen[0].min().item())
    count = 0.0 if whole else math.log2(2 * EPS / size)
    assert count == pytest.approx(round(count), abs=1e-6)
    return round(count)


RISING, FALLING = range(STEPS + 1), range(0, -STEPS - 1, -1)


class TestStepSize:
    def test_it_starts_at_two_eps(self) -> None:
        """From anywhere inside, 2ε upwards ends at the border; ε would not. The first step has no momentum."""
        seen = play((RISING, lambda step: 1.0))
        assert seen[0].min() < -EPS / 2 and torch.allclose(seen[1], torch.full_like(seen[1], EPS))

    @pytest.mark.parametrize("count, step", list(enumerate(checkpoints(STEPS)))[:-1])
    def test_where_no_step_improves_it_halves_at_every_checkpoint(self, count: int, step: int) -> None:
        assert halvings(FALLING, step + 1) == count

    @pytest.mark.parametrize("probe", [1, 23, 58, 98])
    def test_where_every_step_improves_it_never_halves(self, probe: int) -> None:
        assert halvings(RISING, probe) == 0

    @pytest.mark.parametrize("improving, count", [(16, 1), (17, 0)])
    def test_three_quarters_of_the_steps_must_improve(self, improving: int, count: int) -> None:
        """Condition 1: 16.5 of the 22 before the first checkpoint."""
        values = [*range(improving + 1), *range(improving - 1, -STEPS, -1)]
        assert halvings(values, 23) == count

    def test_exactly_three_quarters_are_enough(self) -> None:
        """Of the 16 from the second checkpoint to the third, 12 improve: not less than 0.75. Then 11."""
        assert halvings([*range(54), *range(52, -STEPS, -1)], 58) == 0
        assert halvings([*range(53), *range(51, -STEPS, -1)], 58) == 1

    @pytest.mark.parametrize("probe, count", [(23, 1), (42, 1), (58, 2), (71, 2), (81, 3)])
    def test_an_old_best_halves_it_unless_the_last_checkpoint_did(self, probe: int, count: int) -> None:
        """Condition 2: nearly every step improves, but none reaches the loss of the start."""
        assert halvings([1000, *range(STEPS)], probe) == count

    def test_after_a_restart_the_next_step_must_improve_on_the_best(self) -> None:
        """Steps 43 to 53 improve, 11 of 16; step 42 only on the iterate that the restart at 41 gave up."""
        values = [*range(0, -42, -1), *range(-30, -18), *range(-20, -STEPS, -1)]
        assert halvings(values, 42) == 2 and halvings(values, 58) == 3

    def test_a_halved_step_goes_from_the_best_point_along_its_gradient(self) -> None:
        """The start is the best point; its gradient is the only one, and the second of its steps is ε."""
        seen = play((FALLING, lambda step: float(step == 0)))
        start, last = seen[0], seen[21]
        climbed = (start + EPS).clamp(-EPS, EPS)
        expected = start + 0.75 * (climbed - start) + 0.25 * (start - last)
        assert torch.allclose(last, torch.full_like(last, EPS))
        assert torch.allclose(seen[23], expected.clamp(-EPS, EPS), atol=1e-12)


class TestBatch:
    def test_each_sample_halves_alone(self) -> None:
        scripts: list[Script] = [(FALLING, lambda step: 1.0), (RISING, lambda step: 1.0)]
        together, falling, rising = play(*scripts), play(scripts[0]), play(scripts[1])
        for both, first, second in zip(together, falling, rising, strict=True):
            assert torch.allclose(both, torch.cat([first, second]), atol=1e-12)
        assert not torch.allclose(falling[-1], rising[-1], atol=1e-3)

    @pytest.mark.parametrize("norm", NORMS)
    def test_a_sample_does_not_depend_on_its_batch_mates(self, norm: str) -> None:
        image, model = anywhere(3, 3, 8, 8), conv()
        reference = model(image)
        options: dict[str, Any] = {"steps": 20, "norm": norm, "restarts": 2}
        radii = torch.tensor([0.02, 0.05, 0.1])
        together = attacks.apgd(model, image, reference, eps=radii, generator=[seeded(i) for i in range(3)], **options)
        for i in range(3):
            one = slice(i, i + 1)
            alone = attacks.apgd(model, image[one], reference[one], eps=radii[one], generator=[seeded(i)], **options)
            assert torch.allclose(together.image[one], alone.image, atol=1e-6, rtol=0)
            assert torch.allclose(together.losses[one], alone.losses, atol=1e-6, rtol=0)


class TestProgress:
    def test_the_best_of_all_restarts_wins(self) -> None:
        image, model = anywhere(2, 3, 8, 8), conv()
        reference = model(image)
        states = list(attacks.apgd.iterate(model, image, reference, eps=0.1, steps=5, restarts=3, generator=seeded(0)))
        assert [(s.step, s.steps) for s in states] == [(i, 15) for i in range(1, 16)]
        assert states[-1].losses.shape == (2, 18)
        measured = (model(states[-1].image) - reference).square().flatten(1).mean(dim=1)
        assert torch.allclose(measured, states[-1].losses.amax(dim=1), rtol=1e-12)
        starts = states[-1].losses[0, ::6].tolist()
        assert len(set(starts)) == 3

    def test_no_restarts_are_refused(self) -> None:
        image = inside(1, 3, 4, 4)
        with pytest.raises(SettingError, match=r"^0 restarts.*\.$"):
            attacks.apgd(conv(), image, image, eps=0.1, restarts=0)
