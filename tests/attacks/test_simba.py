"""SimBA against models whose every query is known in advance."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_models import Counting, Gain, Linear, Scripted, anywhere, conv, inside, noise

from udc_defense import attacks
from udc_defense.attacks.objectives import Objective
from udc_defense.attacks.simba import make_basis
from udc_defense.dct import dct_matrix
from udc_defense.errors import SettingError
from udc_defense.noise import seeded

BASES = ("pixel", "dct")
EPS = 4 / 256


class Recording(nn.Module):
    """The identity; keeps what it was asked, sample by sample, and insists that no gradient is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        assert not torch.is_grad_enabled() and not image.requires_grad
        self.seen.extend(image.clone())
        return image


class Weights:
    """w·output, with a w per sample: the first row of the part that it is asked about belongs to its first w."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def select(self, part: slice) -> Weights:
        return Weights(self.weights[part])

    def __call__(self, output: Tensor, reference: Tensor) -> Tensor:
        assert output.shape == self.weights.shape == reference.shape
        return (output * self.weights).flatten(1).sum(dim=1)


def weighted(weight: Tensor) -> Objective:
    return lambda output, reference: output.flatten(1) @ weight


def constant(output: Tensor, reference: Tensor) -> Tensor:
    return output.new_zeros(len(output))


class TestOracles:
    def test_a_linear_objective_is_solved_by_one_pass_over_the_pixels(self) -> None:
        """max of w·A x in ball and box is at ε sign(Aᵀ w), cut by the box; one iteration per value finds it."""
        matrix, weight, image = noise(48, 48), noise(48, seed=1), anywhere(2, 3, 4, 4)
        result = attacks.simba(
            Linear(matrix), image, image, eps=EPS, steps=48, objective=weighted(weight), generator=seeded(0)
        )
        expected = (image + EPS * (matrix.T @ weight).sign().view(1, 3, 4, 4)).clamp(0, 1)
        assert torch.allclose(result.image, expected, atol=1e-15, rtol=0)

    def test_with_the_clean_output_as_reference(self) -> None:
        """The loss starts at zero, where its gradient is zero too; every value then moves, wherever it may go."""
        gain = noise(3, 4, 4)
        model, image = Gain(gain), inside(2, 3, 4, 4)
        result = attacks.simba(model, image, model(image), eps=EPS, steps=48, generator=seeded(0))
        assert result.losses[:, 0].tolist() == [0, 0]
        assert torch.allclose(result.losses[:, -1], (gain.square().mean() * EPS**2).expand(2))

    def test_a_second_pass_can_undo_the_first(self) -> None:
        """Where the loss is highest at the image itself, nothing is kept however long it tries."""
        image = inside(1, 3, 2, 2)

        def nearness(output: Tensor, reference: Tensor) -> Tensor:
            return -(output - reference).square().flatten(1).sum(dim=1)

        away = attacks.simba(nn.Identity(), image, image, eps=EPS, steps=12, generator=seeded(0))
        assert ((away.image - image).abs() > EPS / 2).all()
        result = attacks.simba(nn.Identity(), image, image, eps=EPS, steps=36, objective=nearness, generator=seeded(0))
        assert torch.equal(result.image, image)

    @pytest.mark.parametrize("basis", BASES)
    def test_losses_never_fall_and_are_those_of_the_images(self, basis: str) -> None:
        model, image = conv(), anywhere(2, 3, 8, 8)
        reference = model(image)
        options: dict[str, Any] = {"eps": 0.03, "steps": 60, "basis": basis, "generator": seeded(0)}
        for state in attacks.simba.iterate(model, image, reference, **options):
            assert state.losses.shape == (2, state.step + 1)
            measured = (model(state.image) - reference).square().flatten(1).mean(dim=1)
            assert torch.allclose(measured, state.losses[:, -1], rtol=1e-9)
        assert (state.losses.diff(dim=1) >= 0).all() and (state.losses[:, -1] > 0).all()

    def test_earlier_results_stay_as_they_were(self) -> None:
        model, image = conv(), anywhere(2, 3, 8, 8)
        copies, states = [], []
        for state in attacks.simba.iterate(model, image, model(image), eps=0.03, steps=8, generator=seeded(0)):
            states.append(state)
            copies.append((state.image.clone(), state.losses.clone(), state.queries.clone()))
        for state, (pixels, losses, queries) in zip(states, copies, strict=True):
            assert torch.equal(state.image, pixels) and torch.equal(state.losses, losses)
            assert torch.equal(state.queries, queries)

    def test_noise_of_the_model_is_judged_as_it_comes(self) -> None:
        """A lucky draw at the image makes all that follow lose."""
        image = inside(1, 3, 4, 4)
        lucky = attacks.simba(Scripted([5.0, 0.0, 0.0]), image, image, eps=EPS, steps=1)
        assert torch.equal(lucky.image, image) and lucky.losses[0].tolist() == [25.0, 25.0]

    def test_a_try_without_room_is_no_gain_even_if_luck_says_so(self) -> None:
        """White cannot get brighter: the higher draw for the same image must not stand in the way of the −."""
        image = torch.ones(1, 3, 4, 4, dtype=torch.float64)
        result = attacks.simba(Scripted([1.0, 2.0, 3.0]), image, image, eps=EPS, steps=1, generator=seeded(0))
        assert (result.image - image).sum().item() == pytest.approx(-EPS)
        assert result.queries is not None and result.queries.tolist() == [3]


class TestQueries:
    @pytest.mark.parametrize("draws", [1, 3])
    @pytest.mark.parametrize(("sign", "each"), [(1, 1), (-1, 2)])
    def test_minus_is_asked_only_where_plus_failed(self, sign: int, each: int, draws: int) -> None:
        model, image = Counting(nn.Identity()), inside(1, 3, 4, 4)
        objective = weighted(sign * noise(48).abs())
        result = attacks.simba(
            model, image, image, eps=EPS, steps=20, objective=objective, draws=draws, generator=seeded(0)
        )
        assert result.forwards == model.forwards == draws * (1 + each * 20)
        assert result.queries is not None and result.queries.tolist() == [result.forwards]
        assert (result.backwards, model.graphs) == (0, 0)

    def test_each_sample_pays_for_itself(self) -> None:
        weights = noise(3, 3, 4, 4).abs() * torch.tensor([1, -1, 1]).view(-1, 1, 1, 1)
        model, image = Recording(), inside(3, 3, 4, 4)
        result = attacks.simba(model, image, image, eps=EPS, steps=20, objective=Weights(weights), generator=seeded(0))
        assert result.queries is not None and result.queries.tolist() == [21, 41, 21]
        assert result.forwards == 41 and len(model.seen) == 83

    @pytest.mark.parametrize("basis", BASES)
    def test_a_model_without_gradient_is_enough(self, basis: str) -> None:
        class Rounded(Recording):
            def forward(self, image: Tensor) -> Tensor:
                return (super().forward(image) * 255).round() / 255

        image = inside(2, 3, 4, 4)
        result = attacks.simba(Rounded(), image, image, eps=EPS, steps=30, basis=basis, generator=seeded(0))
        assert (result.losses[:, -1] > result.losses[:, 0]).all()


class TestOrder:
    def test_every_value_is_tried_once_before_any_again(self) -> None:
        """Nothing raises a constant: both signs of each of the 48 values come up, then again in another order."""
        model, image = Recording(), inside(1, 3, 4, 4)
        attacks.simba(model, image, image, eps=EPS, steps=96, objective=constant, generator=seeded(0))
        deltas = torch.stack(model.seen[1:]).flatten(1) - image.flatten(1)
        touched = deltas.nonzero()
        assert torch.equal(touched[:, 0], torch.arange(192))
        assert torch.allclose(deltas.sum(dim=1), EPS * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(96))
        plus, minus = touched[::2, 1], touched[1::2, 1]
        assert torch.equal(plus, minus) and not torch.equal(plus[:48], plus[48:])
        assert set(Counter(plus[:48].tolist()).values()) == set(Counter(plus[48:].tolist()).values()) == {1}
        assert len(set(plus[:48].tolist())) == len(set(plus[48:].tolist())) == 48

    @pytest.mark.parametrize("shape", [(3, 32, 64), (3, 16, 16), (3, 5, 3)])
    def test_low_frequencies_come_first(self, shape: tuple[int, int, int]) -> None:
        """The paper's: 1/8 of the frequencies of each axis, then 1/32 more, in random order within each part."""
        channels, height, width = shape
        order = make_basis("dct", torch.zeros(1, *shape)).order(seeded(0))
        assert order.sort().values.tolist() == list(range(channels * height * width))
        frequencies = torch.stack([order // width % height / height, order % width / width])
        done = 0
        for part in range(4, 33):
            low = (frequencies < part / 32).all(dim=0)
            assert low[: int(low.sum())].all() and low.sum() >= done
            done = int(low.sum())
        assert done == len(order) and not torch.equal(order, order.sort().values)

    @pytest.mark.parametrize("basis", BASES)
    def test_the_basis_is_orthogonal_and_of_magnitude_one(self, basis: str) -> None:
        images = make_basis(basis, inside(1, 3, 4, 6)).images(list(range(72))).flatten(1)
        gram = images @ images.T
        assert torch.allclose(gram, gram.diagonal().diag(), atol=1e-12)
        assert torch.equal(images.abs().amax(dim=1), torch.ones(72, dtype=torch.float64))

    def test_a_step_along_a_cosine_is_a_multiple_of_one(self) -> None:
        image = inside(1, 3, 8, 16)
        result = attacks.simba(nn.Identity(), image, image, eps=EPS, steps=1, basis="dct", generator=seeded(3))
        delta = (result.image - image)[0]
        coefficients = dct_matrix(8, image) @ delta @ dct_matrix(16, image).T
        assert (coefficients.abs() > 1e-9).sum() == 1
        assert delta.abs().amax().item() == pytest.approx(EPS)


class TestBatch:
    @pytest.mark.parametrize("basis", BASES)
    def test_a_sample_does_not_depend_on_its_batch_mates(self, basis: str) -> None:
        """Nor does an objective that holds something per sample mix them up."""
        image, weights, model = anywhere(3, 3, 8, 8), noise(3, 3, 8, 8, seed=4), conv()
        options: dict[str, Any] = {"eps": torch.tensor([0.01, 0.02, 0.03]), "steps": 40, "basis": basis}
        together = attacks.simba(
            model, image, image, objective=Weights(weights), generator=[seeded(i) for i in range(3)], **options
        )
        assert together.queries is not None and len(set(together.queries.tolist())) > 1
        for i in range(3):
            one = slice(i, i + 1)
            alone = attacks.simba(
                model,
                image[one],
                image[one],
                objective=Weights(weights[one]),
                generator=[seeded(i)],
                **options | {"eps": options["eps"][one]},
            )
            assert torch.allclose(together.image[one], alone.image, atol=1e-12, rtol=0)
            assert torch.allclose(together.losses[one], alone.losses, atol=1e-9, rtol=0)
            assert alone.queries is not None and together.queries[i] == alone.queries[0]

    @pytest.mark.parametrize("basis", BASES)
    def test_same_seed_same_bits(self, basis: str) -> None:
        image, model = anywhere(2, 3, 16, 16), conv()
        first, second, other = (
            attacks.simba(model, image, image, eps=0.03, steps=6, basis=basis, generator=seeded(s)).image
            for s in (1, 1, 2)
        )
        assert torch.equal(first, second) and not torch.equal(first, other)

    @pytest.mark.parametrize("basis", BASES)
    def test_untouched_values_keep_their_bits(self, basis: str) -> None:
        image = anywhere(1, 3, 8, 8).float()
        result = attacks.simba(nn.Identity(), image, image, eps=EPS, steps=1, basis=basis, generator=seeded(0))
        changed = (result.image != image)[0].flatten(1)
        assert changed.any(dim=1).sum() == 1 and (basis == "dct" or changed.sum() == 1)


def test_unknown_basis_names_the_known_ones() -> None:
    image = inside(1, 3, 4, 4)
    with pytest.raises(SettingError, match=r"^basis 'haar' is not one of pixel, dct\.$"):
        attacks.simba(nn.Identity(), image, image, eps=EPS, steps=1, basis="haar")
