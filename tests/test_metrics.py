"""PSNR and SSIM against scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from udc_defense.metrics import METRICS, psnr, ssim


def pair(*shape: int, spread: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """An image with structure and a disturbed copy, both in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(shape[0], shape[1], 4, 4, generator=generator)
    image = torch.nn.functional.interpolate(coarse, size=shape[2:], mode="bicubic").clamp(0, 1)
    return image, (image + spread * torch.randn(shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("spread", [0.003, 0.05, 0.4])
def test_psnr_equals_scikit_image(spread: float) -> None:
    image, reference = pair(3, 3, 24, 37, spread=spread)
    expected = [
        peak_signal_noise_ratio(r.double().numpy(), i.double().numpy(), data_range=1)
        for i, r in zip(image, reference, strict=True)
    ]
    assert psnr(image, reference).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", [(11, 11), (12, 11), (24, 37), (64, 64)])
@pytest.mark.parametrize("spread", [0.003, 0.05, 0.4])
def test_ssim_equals_scikit_image(size: tuple[int, int], spread: float) -> None:
    image, reference = pair(2, 3, *size, spread=spread)
    expected = [
        structural_similarity(
            i.double().numpy(),
            r.double().numpy(),
            channel_axis=0,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for i, r in zip(image, reference, strict=True)
    ]
    assert ssim(image, reference).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("side", [1, 3, 5, 9])
def test_ssim_of_an_image_of_one_window(side: int) -> None:
    """scikit-image refuses sides below 11; where the window fills the image, its formula is a weighted mean."""
    image, reference = pair(1, 3, side, side)
    bell = np.exp(-(np.arange(-(side // 2), side // 2 + 1) ** 2) / (2 * 1.5**2))
    weight = np.outer(bell, bell) / bell.sum() ** 2
    scores = []
    for x, y in zip(image[0].double().numpy(), reference[0].double().numpy(), strict=True):
        ux, uy = (weight * x).sum(), (weight * y).sum()
        vx, vy = (weight * (x - ux) ** 2).sum(), (weight * (y - uy) ** 2).sum()
        cov = (weight * (x - ux) * (y - uy)).sum()
        scores.append((2 * ux * uy + 1e-4) * (2 * cov + 9e-4) / ((ux**2 + uy**2 + 1e-4) * (vx + vy + 9e-4)))
    assert ssim(image, reference).item() == pytest.approx(np.mean(scores), abs=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (4, 40), (10, 10)])
@pytest.mark.parametrize("name", METRICS)
def test_small_sides_give_one_finite_value_per_sample(name: str, size: tuple[int, int]) -> None:
    image, reference = pair(2, 3, *size)
    value = METRICS[name](image, reference)
    assert value.shape == (2,) and value.isfinite().all()


def test_equal_images() -> None:
    image, _ = pair(2, 3, 16, 16)
    assert psnr(image, image).tolist() == [math.inf] * 2
    assert ssim(image, image).tolist() == pytest.approx([1.0, 1.0], abs=1e-6)


def test_values_outside_the_range_count_as_a_file_would_hold_them() -> None:
    image, reference = pair(1, 3, 16, 16)
    wild = image * 3 - 1
    for metric in METRICS.values():
        assert torch.equal(metric(wild, reference), metric(wild.clamp(0, 1), reference))


@pytest.mark.parametrize("name", METRICS)
def test_a_sample_does_not_see_its_batch_mates(name: str) -> None:
    image, reference = pair(3, 3, 16, 16, spread=0.2)
    together = METRICS[name](image, reference)
    alone = [METRICS[name](image[i : i + 1], reference[i : i + 1]).item() for i in range(3)]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    assert len({round(value, 3) for value in alone}) == 3


@pytest.mark.parametrize("name", METRICS)
def test_gradient_is_the_finite_difference(name: str) -> None:
    image, reference = (part.double() for part in pair(1, 3, 13, 12))
    image = image.clamp(0.05, 0.95).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: METRICS[name](x, reference), (image,), fast_mode=True)
