"""Noise and blur against scipy; the deblurrer against the blur's own matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from toy_models import anywhere, inside

from udc_defense.checkpoints.load import load_restorer
from udc_defense.evaluation.degradations import (
    BLUR,
    BLUR_NOISE,
    DEGRADATIONS,
    NOISE,
    RESTORERS,
    Deblurrer,
    _response,
    blurred,
    noisy,
)
from udc_defense.metrics import psnr
from udc_defense.noise import seeded
from udc_defense.samples import STREETS, scene_of
from udc_defense.scenes import clean_image


def test_noise_has_its_deviation_and_lies_on_the_grid_of_a_file() -> None:
    clean = torch.full((1, 3, 200, 200), 0.5)
    image = noisy(clean, seeded(0))
    assert float((image - clean).std()) * 255 == pytest.approx(NOISE, rel=0.01)
    assert torch.equal(image, (image * 255).round() / 255)
    assert torch.equal(image, noisy(clean, seeded(0))) and not torch.equal(image, noisy(clean, seeded(1)))


def test_blur_is_scipys_and_a_little_noise() -> None:
    clean = inside(1, 3, 100, 90).float()
    residual = blurred(clean, seeded(0)).numpy() - gaussian_filter(clean.numpy(), (0, 0, BLUR, BLUR))
    assert residual.std() * 255 == pytest.approx(BLUR_NOISE, rel=0.05) and abs(residual.mean()) < 1e-3


@pytest.mark.parametrize("length", [1, 5, 24])
def test_the_response_is_what_the_blur_does_to_each_cosine(length: int) -> None:
    x = np.arange(length)
    expected = []
    for index in range(length):
        cosine = np.cos(np.pi * index * (x + 0.5) / length)
        expected.append((gaussian_filter(cosine, BLUR, mode="reflect") @ cosine) / (cosine @ cosine))
    assert _response(length, torch.zeros(1).double()).tolist() == pytest.approx(expected, abs=1e-9)


def test_the_deblurrer_is_linear_and_keeps_brightness() -> None:
    x, y = anywhere(1, 3, 20, 17), anywhere(1, 3, 20, 17, seed=1)
    deblur = Deblurrer()
    assert torch.allclose(deblur(x + 2 * y), deblur(x) + 2 * deblur(y))
    assert torch.allclose(deblur(x).mean((2, 3)), x.mean((2, 3)))


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_its_restorer_gives_back_a_decibel_and_more(name: str) -> None:
    clean = clean_image(scene_of(next(iter(STREETS)), 96))
    image = DEGRADATIONS[name](clean, seeded(0))
    assert float(psnr(load_restorer(RESTORERS[name])(image), clean)) > float(psnr(image, clean)) + 1
