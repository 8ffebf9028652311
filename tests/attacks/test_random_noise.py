"""Random noise: of the size that was asked for, in a random direction, and the worst of several tries."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_models import inside

from udc_defense.attacks.random_noise import random_noise
from udc_defense.noise import seeded


def test_the_size_is_that_of_the_ball() -> None:
    image = inside(2, 3, 8, 8) * 0.5 + 0.25
    signs = random_noise(nn.Identity(), image, image, eps=0.1, generator=seeded(0)).image - image
    assert torch.allclose(signs.abs(), torch.full_like(signs, 0.1))
    assert 0.3 < float((signs > 0).double().mean()) < 0.7
    gaussian = random_noise(nn.Identity(), image, image, eps=0.05, norm="l2", generator=seeded(0)).image - image
    sizes = gaussian.flatten(1).square().mean(dim=1).sqrt()
    assert sizes.tolist() == pytest.approx([0.05, 0.05]) and float(gaussian.abs().max()) > 0.1


def test_more_tries_keep_the_worst() -> None:
    """Of a model that counts the values that went up."""
    image = inside(1, 3, 8, 8) * 0.5 + 0.25
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=8))
    results = [random_noise(model, image, image, eps=0.1, steps=steps, generator=seeded(4)) for steps in (1, 20)]
    assert results[1].losses.shape == (1, 20) and results[1].forwards == 20 and results[1].backwards == 0
    damage = float((model(results[1].image) - image).square().mean())
    assert damage == pytest.approx(float(results[1].losses.max()))
    assert float(results[1].losses.max()) > float(results[0].losses.max())
