"""The square attack against models whose worst corner is known, and against the paper's schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_models import Counting, Gain, Linear, Scripted, anywhere, conv, inside, noise

from udc_defense import attacks
from udc_defense.attacks.square import share, side
from udc_defense.errors import SettingError
from udc_defense.noise import seeded, uniform

EPS = 4 / 256


class Recording(nn.Module):
    """The identity; keeps what it was asked, and insists that no gradient is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        assert not torch.is_grad_enabled() and not image.requires_grad
        self.seen.append(image.clone())
        return image


def constant(output: Tensor, reference: Tensor) -> Tensor:
    return output.new_zeros(len(output))


class TestSchedule:
    # First square index (the stripes are no square) at which each share holds, of 10000 queries: section 3.3.
    TABLE = (
        (0, 1),
        (11, 2),
        (51, 4),
        (201, 8),
        (501, 16),
        (1001, 32),
        (2001, 64),
        (4001, 128),
        (6001, 256),
        (8001, 512),
    )

    @pytest.mark.parametrize("budget", [10_000, 1000, 50_000])
    def test_shares_of_the_image_follow_the_table_and_the_budget(self, budget: int) -> None:
        starts = [math.ceil(first * budget / 10_000) for first, _ in self.TABLE] + [budget - 1]
        for (_, divisor), start, end in zip(self.TABLE, starts, starts[1:], strict=False):
            assert start < end
            for index in (start, end - 1):
                assert share(0.8, index + 2, budget) == 0.8 / divisor

    def test_sides_follow_from_the_shares(self) -> None:
        square, wide = torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 16, 256)
        assert side(0.8, 2, 10_000, square) == round(math.sqrt(0.8) * 128)
        assert side(0.8, 10_000, 10_000, square) == round(math.sqrt(0.8 / 512) * 128)
        assert side(0.8, 2, 10_000, wide) == 16
        assert side(0.8, 10_000, 10_000, torch.zeros(1, 3, 4, 4)) == 1

    @pytest.mark.parametrize("p_init", [0, -0.1, 1.1, math.nan])
    def test_a_share_that_is_none_is_refused(self, p_init: float) -> None:
        image = inside(1, 3, 4, 4)
        with pytest.raises(SettingError, match=f"^p_init {p_init:g} is not in .*\\.$"):
            attacks.square(nn.Identity(), image, image, eps=EPS, p_init=p_init)


class TestOracles:
    def test_stripes_are_optimal_for_a_gain_per_value(self) -> None:
        """Damage of ±ε is mean(gain²) ε², whatever the signs: the first query reaches it, none rises above."""
        gain = noise(3, 8, 8)
        model, image = Gain(gain), inside(2, 3, 8, 8)
        result = attacks.square(model, image, model(image), eps=EPS, steps=30, generator=seeded(0))
        assert torch.allclose(result.losses, (gain.square().mean() * EPS**2).expand(2, 30))

    def test_the_stripes_are_vertical(self) -> None:
        model, image = Recording(), inside(2, 3, 8, 16)
        attacks.square(model, image, image, eps=EPS, steps=1, generator=seeded(0))
        (stripes,) = model.seen
        signs = (stripes - image).sign()
        assert torch.equal(signs, signs[:, :, :1].expand_as(signs))
        assert len(signs[:, :, 0].flatten(0, 1).unique(dim=0)) == 6 and set(signs.unique().tolist()) == {-1, 1}

    def test_a_linear_objective_of_one_sign_per_channel_is_solved(self) -> None:
        weight = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64).view(3, 1, 1)
        image = anywhere(2, 3, 4, 4)

        def objective(output: Tensor, reference: Tensor) -> Tensor:
            return (output * weight).flatten(1).sum(dim=1)

        result = attacks.square(
            nn.Identity(), image, image, eps=EPS, steps=600, objective=objective, generator=seeded(0)
        )
        assert torch.allclose(result.image, (image + EPS * weight.sign()).clamp(0, 1), atol=1e-15, rtol=0)

    def test_it_beats_as_many_random_corners(self) -> None:
        model, image = Linear(noise(192, 192)), inside(2, 3, 8, 8)
        reference = model(image)
        result = attacks.square(model, image, reference, eps=EPS, steps=300, generator=seeded(0))
        corners = [image + EPS * uniform(image, [seeded(i), seeded(1000 + i)]).sign() for i in range(300)]
        luckiest = torch.stack([(model(x) - reference).square().flatten(1).mean(dim=1) for x in corners]).amax(dim=0)
        assert (result.losses[:, -1] > 1.5 * luckiest).all()

    def test_every_value_is_at_a_corner_of_the_ball_at_all_times(self) -> None:
        image, model = anywhere(2, 3, 8, 8), conv()
        low, high = (image - EPS).clamp(0, 1), (image + EPS).clamp(0, 1)
        for state in attacks.square.iterate(model, image, model(image), eps=EPS, steps=40, generator=seeded(0)):
            distance = torch.minimum((state.image - low).abs(), (state.image - high).abs())
            assert distance.max() < 1e-15

    def test_losses_never_fall_and_are_those_of_the_images(self) -> None:
        model, image = conv(), anywhere(2, 3, 8, 8)
        reference = model(image)
        for state in attacks.square.iterate(model, image, reference, eps=EPS, steps=60, generator=seeded(0)):
            assert state.losses.shape == (2, state.step)
            measured = (model(state.image) - reference).square().flatten(1).mean(dim=1)
            assert torch.allclose(measured, state.losses[:, -1], rtol=1e-9)
        assert (state.losses.diff(dim=1) >= 0).all() and (state.losses[:, -1] > state.losses[:, 0]).all()

    def test_noise_of_the_model_is_judged_as_it_comes(self) -> None:
        image = inside(1, 3, 4, 4)
        options: dict[str, Any] = {"eps": EPS, "generator": seeded(0)}
        lucky = attacks.square(Scripted([5.0, 0.0, 0.0]), image, image, steps=3, **options)
        stripes = attacks.square(nn.Identity(), image, image, steps=1, **options | {"generator": seeded(0)})
        assert torch.equal(lucky.image, stripes.image)


class TestSquares:
    @pytest.mark.parametrize("shape", [(3, 8, 8), (3, 5, 12)])
    def test_each_try_changes_one_square_to_one_sign_per_channel(self, shape: tuple[int, int, int]) -> None:
        """Nothing raises a constant, so that every try departs from the stripes."""
        model, image, steps = Recording(), inside(1, *shape), 200
        attacks.square(model, image, image, eps=EPS, steps=steps, objective=constant, generator=seeded(0))
        (stripes, *tries), ends = model.seen, torch.zeros(2)
        for step, tried in enumerate(tries, start=2):
            size = side(0.8, step, steps, image)
            rows, columns = ((tried != stripes)[0].any(dim=0).any(dim=1 - axis).nonzero() for axis in (0, 1))
            assert len(rows) > 0, "a try that changes nothing is a lost query"
            assert rows.max() - rows.min() < size and columns.max() - columns.min() < size
            inside_square = (tried - image)[0, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert (inside_square.sign().flatten(1).std(dim=1, correction=0) == 0).all()
            ends = torch.maximum(ends, torch.stack([rows.max(), columns.max()]))
        assert ends.tolist() == [shape[1] - 1, shape[2] - 1], "the last row and column are within reach"

    def test_the_signs_of_a_redrawn_square_are_uniform_over_the_others(self) -> None:
        """With 1 value per channel, 7 choices of signs are left, and all come up about equally often."""
        model, image = Recording(), inside(1, 3, 1, 1)
        attacks.square(model, image, image, eps=EPS, steps=2001, objective=constant, generator=seeded(0))
        signs = (torch.cat(model.seen[1:]) > image).flatten(1)
        counts = signs.unique(dim=0, return_counts=True)[1]
        assert len(counts) == 7 and counts.min() > 220 and counts.max() < 350

    def test_radius_zero_ends(self) -> None:
        image = anywhere(1, 3, 4, 4)
        assert torch.equal(attacks.square(conv(), image, image, eps=0, steps=5).image, image)


class TestBatch:
    @pytest.mark.parametrize("draws", [1, 3])
    def test_queries_are_counted(self, draws: int) -> None:
        model, image = Counting(conv()), anywhere(2, 3, 8, 8)
        result = attacks.square(model, image, image, eps=EPS, steps=7, draws=draws, generator=seeded(0))
        assert result.forwards == model.forwards == 7 * draws
        assert (result.backwards, model.graphs, result.queries) == (0, 0, None)

    def test_a_model_without_gradient_is_enough(self) -> None:
        class Rounded(Recording):
            def forward(self, image: Tensor) -> Tensor:
                return (super().forward(image) * 16).round() / 16

        image = inside(2, 3, 8, 8)
        result = attacks.square(Rounded(), image, image, eps=EPS, steps=60, generator=seeded(0))
        assert (result.losses[:, -1] > result.losses[:, 0]).all()

    def test_a_sample_does_not_depend_on_its_batch_mates(self) -> None:
        image, model, radii = anywhere(3, 3, 8, 8), conv(), torch.tensor([0.01, 0.02, 0.03])
        together = attacks.square(model, image, image, eps=radii, steps=50, generator=[seeded(i) for i in range(3)])
        for i in range(3):
            one = slice(i, i + 1)
            alone = attacks.square(model, image[one], image[one], eps=radii[one], steps=50, generator=[seeded(i)])
            assert torch.allclose(together.image[one], alone.image, atol=1e-12, rtol=0)
            assert torch.allclose(together.losses[one], alone.losses, atol=1e-12, rtol=0)

    def test_same_seed_same_bits(self) -> None:
        image, model = anywhere(2, 3, 8, 8), conv()
        first, second, other = (
            attacks.square(model, image, image, eps=EPS, steps=6, generator=seeded(s)).image for s in (1, 1, 2)
        )
        assert torch.equal(first, second) and not torch.equal(first, other)

    def test_earlier_results_stay_as_they_were(self) -> None:
        model, image = conv(), anywhere(2, 3, 8, 8)
        states = attacks.square.iterate(model, image, model(image), eps=EPS, steps=12, generator=seeded(0))
        kept = [(state, state.image.clone(), state.losses.clone()) for state in states]
        for state, pixels, losses in kept:
            assert torch.equal(state.image, pixels) and torch.equal(state.losses, losses)
