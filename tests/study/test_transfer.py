"""Transfer: linear models, whose worst perturbation is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from toy_models import Gain

from study.measure.transfer import transfer_row, transfer_success
from udc_defense.images import quantize
from udc_defense.metrics import psnr
from udc_defense.noise import seeded

EPS = 4 / 255


def sample() -> tuple[Tensor, Tensor]:
    """A capture far from 0 and 1, and the clean image of a gain of 1."""
    captured = quantize(0.4 + 0.2 * torch.rand(1, 3, 12, 12, generator=seeded(0)))
    return captured, captured.clone()


def gain(*channels: float) -> nn.Module:
    return Gain(torch.tensor(channels).view(1, 3, 1, 1))


class TestRow:
    def test_the_same_model_transfers_wholly(self) -> None:
        """|g - 1| |x| + g ε per value is what the worst perturbation makes of the error of a gain."""
        captured, clean = sample()
        model = gain(1.2, 1.2, 1.2)
        row = transfer_row(model, model, captured, clean, eps=EPS, steps=10, seed=0)
        worst = (0.2 * captured + 1.2 * EPS).square().mean()
        assert row["white_box"] == row["transferred"] == pytest.approx(float(-10 * worst.log10()), abs=0.01)
        assert row["clean"] == pytest.approx(float(psnr(1.2 * captured, clean)))
        assert row["noise"] > row["transferred"] + 0.1
        assert transfer_success([row, row])["share"] == pytest.approx(1)

    def test_a_surrogate_that_errs_to_the_other_side_helps_no_attacker(self) -> None:
        """Its attack darkens where the target's would brighten, which mends the target's error."""
        captured, clean = sample()
        row = transfer_row(gain(1.2, 1.2, 1.2), gain(0.8, 0.8, 0.8), captured, clean, eps=EPS, steps=10, seed=0)
        assert row["transferred"] > row["clean"] > row["white_box"]
        assert transfer_success([row])["share"] < 0

    def test_a_target_without_gradients(self) -> None:
        """A function is asked for outputs alone, of images on the grid of a file."""
        captured, clean = sample()
        asked: list[Tensor] = []

        def target(image: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            asked.append(image)
            return image * 1.2

        row = transfer_row(target, gain(1.2, 1.2, 1.2), captured, clean, eps=EPS, steps=5, seed=0)
        assert set(row) == {"clean", "noise", "transferred"} and "share" not in transfer_success([row])
        for image in asked:
            assert torch.allclose(image, quantize(image), atol=1e-6) and (image - captured).abs().max() <= EPS + 1e-6


def test_share_is_that_of_mean_drops() -> None:
    rows = [
        {"clean": 30.0, "transferred": 25.0, "white_box": 20.0},
        {"clean": 40.0, "transferred": 39.0, "white_box": 38.0},
    ]
    assert transfer_success(rows) == {"clean": 35, "transferred": 32, "white_box": 29, "share": 0.5}
