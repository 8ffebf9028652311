"""One perturbation for all: against models on which every capture has the same worst one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_models import Counting, Gain, Linear, Scripted, anywhere, conv, inside, noise, rms

from udc_defense import attacks
from udc_defense.attacks.universal import Pass, perturbation
from udc_defense.errors import SettingError
from udc_defense.noise import seeded

NORMS = ("linf", "l2")


def last(model: nn.Module, loader: Any, **options: Any) -> Pass:
    *_, found = perturbation(model, loader, generator=seeded(0), **options)
    return found


class Recorded:
    """Batches made when asked for; records what was asked for."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.batches, self.events = batches, []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index, batch in enumerate(self.batches):
            self.events.append(index)
            yield batch


class TestOracles:
    def test_l2_reaches_the_top_singular_vector(self) -> None:
        """With clean outputs as reference every capture's damage is ‖A δ‖², whatever the capture."""
        matrix, image = noise(48, 48), inside(4, 3, 4, 4)
        model = Linear(matrix)
        result = attacks.universal(model, image, model(image), eps=0.02, steps=150, norm="l2", generator=seeded(0))
        optimum = (torch.linalg.matrix_norm(matrix, ord=2) * 0.02) ** 2
        assert (result.losses <= optimum * (1 + 1e-9)).all() and (result.losses[:, -1] >= 0.98 * optimum).all()
        assert torch.allclose(rms(result.image - image), torch.full((4,), 0.02, dtype=torch.float64))

    def test_linf_drives_every_value_of_a_gain_to_the_border(self) -> None:
        gain, image = noise(3, 8, 8), inside(3, 3, 8, 8)
        result = attacks.universal(Gain(gain), image, Gain(gain)(image), eps=4 / 255, generator=seeded(0))
        assert torch.allclose((result.image - image).abs(), torch.full_like(image, 4 / 255), atol=1e-12)

    def test_the_mean_decides_where_captures_disagree(self) -> None:
        """Two captures want +δ and one wants −δ: a linear loss of weights 1, 1 and −1."""
        image, weight = inside(3, 3, 4, 4), torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)

        class Weighted:
            def __call__(self, output: Tensor, reference: Tensor) -> Tensor:
                return weight * output.flatten(1).sum(dim=1)

        model = Gain(torch.ones(1, dtype=torch.float64))
        result = attacks.universal(model, image, image, eps=0.03, objective=Weighted(), generator=seeded(0))
        assert torch.allclose(result.image - image, torch.full_like(image, 0.03))

    def test_a_capture_that_the_box_cuts_does_not_decide(self) -> None:
        """A black capture wants −δ three times as much, but below 0 nothing changes: the grey one gets its +δ."""
        image = torch.cat([torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5)]).double()
        weight = torch.tensor([-3.0, 1.0], dtype=torch.float64)

        def objective(output: Tensor, reference: Tensor) -> Tensor:
            return weight * output.flatten(1).sum(dim=1)

        model = Gain(torch.ones(1, dtype=torch.float64))
        states = list(perturbation(model, [(image, image)], eps=0.03, objective=objective, generator=seeded(0)))
        # Above 0 the black one wins and leads back: δ stays within a step of 0.
        assert states[-1].delta.abs().max() <= 0.03 / 4 + 1e-12

    def test_a_value_that_does_nothing_comes_back(self) -> None:
        """All captures are black and want +δ; where the random start is below 0 the clamp's own gradient is zero."""
        image = torch.zeros(2, 3, 4, 4, dtype=torch.float64)

        def objective(output: Tensor, reference: Tensor) -> Tensor:
            return output.flatten(1).sum(dim=1)

        model = Gain(torch.ones(1, dtype=torch.float64))
        result = attacks.universal(model, image, image, eps=0.03, objective=objective, generator=seeded(0))
        assert torch.allclose(result.image, torch.full_like(image, 0.03))


class TestShared:
    @pytest.mark.parametrize("norm", NORMS)
    def test_one_perturbation_for_all(self, norm: str) -> None:
        image, model = inside(3, 3, 8, 8), conv()
        result = attacks.universal(model, image, model(image), eps=0.03, steps=4, norm=norm, generator=seeded(0))
        delta = result.image - image
        assert torch.allclose(delta, delta[:1].expand_as(delta), atol=1e-12)
        size = delta.abs().max() if norm == "linf" else rms(delta).max()
        assert 0 < size <= 0.03 + 1e-12

    def test_the_box_cuts_each_image_but_not_the_perturbation(self) -> None:
        image, model = anywhere(3, 3, 8, 8), conv()
        found = last(model, [(image, model(image))], eps=0.1, steps=4)
        result = attacks.universal(model, image, model(image), eps=0.1, steps=4, generator=[seeded(0)] * 3)
        assert found.delta.shape == (1, 3, 8, 8) and found.delta.abs().max().item() == pytest.approx(0.1)
        assert result.image.min() >= 0 and result.image.max() <= 1

    def test_the_best_mean_wins(self) -> None:
        """The model's noise makes the first of three passes the most damaging."""
        image = inside(1, 3, 4, 4)
        states = list(perturbation(Scripted([5.0, 0.0, 0.0]), [(image, image)], eps=0.03, steps=2))
        assert states[0].mean_loss > states[1].mean_loss
        assert torch.equal(states[2].delta, states[0].delta)
        assert [(s.number, s.total) for s in states] == [(1, 3), (2, 3), (3, 3)]


class TestLoader:
    @pytest.mark.parametrize("norm", NORMS)
    def test_a_list_of_batches_equals_one_batch(self, norm: str) -> None:
        """Of unequal lengths: every capture counts the same, not every batch."""
        image, model = anywhere(5, 3, 8, 8), conv()
        reference = model(image)
        cut = [(image[:4], reference[:4]), (image[4:], reference[4:])]
        whole = last(model, [(image, reference)], eps=0.03, steps=4, norm=norm)
        parts = last(model, cut, eps=0.03, steps=4, norm=norm)
        assert torch.allclose(whole.delta, parts.delta, atol=1e-12)
        assert torch.allclose(whole.losses, parts.losses) and whole.mean_loss == pytest.approx(parts.mean_loss)

    def test_a_data_loader_is_one(self) -> None:
        image, model = anywhere(4, 3, 8, 8), conv()
        data = torch.utils.data.TensorDataset(image, model(image))
        found = last(model, torch.utils.data.DataLoader(data, batch_size=3), eps=0.03, steps=2)
        whole = last(model, [(image, model(image))], eps=0.03, steps=2)
        assert torch.allclose(found.delta, whole.delta, atol=1e-12)

    def test_one_batch_at_a_time(self) -> None:
        """Each batch goes through the model before the next is asked for; a pass reads the loader once."""
        image = inside(6, 3, 4, 4)
        loader = Recorded([(image[i : i + 2], image[i : i + 2]) for i in (0, 2, 4)])

        class Noting(nn.Module):
            def forward(self, batch: Tensor) -> Tensor:
                loader.events.append("model")
                return batch * 2

        states = perturbation(Noting(), loader, eps=0.03, steps=1, generator=seeded(0))
        next(states)
        assert loader.events == [0, "model", 1, "model", 2, "model"]
        assert len(list(states)) == 1 and len(loader.events) == 12

    @pytest.mark.parametrize("shape", [(1, 3, 4, 6), (1, 3, 8, 4)])
    def test_several_sizes_are_refused(self, shape: tuple[int, ...]) -> None:
        image, other = inside(2, 3, 4, 4), inside(*shape)
        with pytest.raises(SettingError, match=r"4 × 4 and .* pixels .*\.$"):
            last(conv(), [(image, image), (other, other)], eps=0.03, steps=1)

    def test_a_generator_is_refused_before_it_is_read(self) -> None:
        image = inside(1, 3, 4, 4)
        batches = (pair for pair in [(image, image)])
        with pytest.raises(SettingError, match=r"generator.*only once.*\.$"):
            last(conv(), batches, eps=0.03, steps=1)
        assert next(batches)[0] is image

    def test_an_empty_loader_is_refused(self) -> None:
        with pytest.raises(SettingError, match=r"no captures in pass 1\.$"):
            last(conv(), [], eps=0.03, steps=1)


class TestAttack:
    @pytest.mark.parametrize("draws", [1, 2])
    @pytest.mark.parametrize("steps", [1, 3])
    def test_evaluations_and_steps_are_counted(self, steps: int, draws: int) -> None:
        model, image = Counting(conv()), anywhere(2, 3, 8, 8)
        states = list(
            attacks.universal.iterate(model, image, image, eps=0.03, steps=steps, draws=draws, generator=seeded(0))
        )
        assert [(s.step, s.steps) for s in states] == [(i, steps) for i in range(1, steps + 1)]
        result = states[-1]
        assert (result.forwards, result.backwards) == (model.forwards, model.graphs)
        assert (result.forwards, result.backwards) == ((steps + 1) * draws, steps * draws)
        assert result.losses.shape == (2, steps + 1)

    def test_losses_are_of_each_capture(self) -> None:
        image, model = anywhere(3, 3, 8, 8), conv()
        reference = model(image)
        result = attacks.universal(model, image, reference, eps=0.2, steps=5, generator=seeded(0))
        measured = (model(result.image) - reference).square().flatten(1).mean(dim=1)
        assert torch.allclose(measured, result.losses[:, result.losses.mean(dim=0).argmax()])

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"eps": torch.tensor([0.1, 0.1])}, "eps has the shape"),
            ({"eps": -0.1}, "eps.*-0.1"),
            ({"norm": "l7"}, "l7"),
            ({"steps": 0}, "0 steps"),
            ({"generator": [seeded(0)] * 3}, "3 generators"),
        ],
    )
    def test_bad_input_is_refused_in_one_sentence(self, changes: dict[str, Any], words: str) -> None:
        image = inside(2, 3, 4, 4)
        with pytest.raises(SettingError, match=rf"{words}.*\.$"):
            attacks.universal(conv(), image, image, **({"eps": 0.1} | changes))
