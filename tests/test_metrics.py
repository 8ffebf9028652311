"""PSNR, SSIM and CIEDE2000 against scikit-image, MS-SSIM and GMSD against scipy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, prewitt
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.measure import block_reduce
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from udc_defense.metrics import (
    METRICS,
    ciede2000,
    delta_e,
    gmsd,
    ms_ssim,
    psnr,
    ssim,
    unclamped_ms_ssim,
    unclamped_ssim,
)


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
    assert ms_ssim(image, image).tolist() == pytest.approx([1.0, 1.0], abs=1e-6)


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


def msssim_by_scipy(x: np.ndarray, y: np.ndarray, weights: list[float]) -> float:
    """Wang et al. 2003 for one channel, as its authors' program does it."""
    scores = []
    for _ in weights:
        bell = {"sigma": 1.5, "radius": 5}
        ux, uy = gaussian_filter(x, **bell), gaussian_filter(y, **bell)
        vx, vy = gaussian_filter(x * x, **bell) - ux**2, gaussian_filter(y * y, **bell) - uy**2
        contrast = (2 * (gaussian_filter(x * y, **bell) - ux * uy) + 0.03**2) / (vx + vy + 0.03**2)
        luminance = (2 * ux * uy + 0.01**2) / (ux**2 + uy**2 + 0.01**2)
        inner = (slice(5, -5), slice(5, -5))
        scores.append((contrast[inner].mean(), (luminance * contrast)[inner].mean()))
        x, y = (block_reduce(z[: len(z) // 2 * 2, : z.shape[1] // 2 * 2], (2, 2), np.mean) for z in (x, y))
    factors = [contrast for contrast, _ in scores[:-1]] + [scores[-1][1]]
    return float(np.prod(np.maximum(factors, 0) ** np.array(weights)))


FIVE = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]


@pytest.mark.parametrize(
    ("size", "scales"), [((176, 183), 5), ((175, 300), 4), ((88, 90), 4), ((47, 44), 3), ((22, 25), 2), ((21, 40), 1)]
)
@pytest.mark.parametrize("spread", [0.003, 0.05, 0.4])
def test_ms_ssim_equals_scipy(size: tuple[int, int], scales: int, spread: float) -> None:
    image, reference = (part.double() for part in pair(2, 3, *size, spread=spread))
    weights = [weight / sum(FIVE[:scales]) for weight in FIVE[:scales]]
    expected = [
        np.mean([msssim_by_scipy(a, b, weights) for a, b in zip(x, y, strict=True)])
        for x, y in zip(image.numpy(), reference.numpy(), strict=True)
    ]
    assert ms_ssim(image, reference).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("spread", [0.003, 0.05, 0.4])
def test_ms_ssim_is_close_to_torchmetrics(spread: float) -> None:
    """Which pads the coarsest scale and takes the mean over channels before the product."""
    image_metrics = pytest.importorskip("torchmetrics.functional.image")
    image, reference = pair(2, 3, 256, 256, spread=spread)
    expected = image_metrics.multiscale_structural_similarity_index_measure(
        image, reference, data_range=1.0, reduction="none"
    )
    assert ms_ssim(image, reference).tolist() == pytest.approx(expected.tolist(), abs=2e-3)


@pytest.mark.parametrize("side", [5, 11, 21])
def test_ms_ssim_of_one_scale_is_ssim(side: int) -> None:
    image, reference = pair(2, 3, side, side)
    assert ms_ssim(image, reference).tolist() == pytest.approx(ssim(image, reference).tolist(), abs=1e-6)


def test_ms_ssim_of_what_does_not_correlate_is_zero_and_has_a_gradient_that_is_a_number() -> None:
    image, _ = (part.double() for part in pair(1, 3, 48, 48, spread=0))
    negative = (1 - image).requires_grad_(True)
    value = ms_ssim(negative, image)
    (gradient,) = torch.autograd.grad(value.sum(), negative)
    assert value.item() == 0 and gradient.isfinite().all()


def test_gradient_of_ms_ssim_over_scales_is_the_finite_difference() -> None:
    image, reference = (part.double() for part in pair(1, 3, 46, 44))
    image = image.clamp(0.05, 0.95).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: ms_ssim(x, reference), (image,), fast_mode=True)


@pytest.mark.parametrize("metric", [unclamped_ssim, unclamped_ms_ssim])
def test_unclamped_forms_keep_their_gradient_outside_the_range(metric: Callable[[Tensor, Tensor], Tensor]) -> None:
    image, reference = (part.double() for part in pair(1, 3, 24, 24))
    wild = (image * 3 + 1.5).requires_grad_(True)
    (gradient,) = torch.autograd.grad(metric(wild, reference).sum(), wild)
    assert (gradient != 0).all()
    assert torch.autograd.gradcheck(lambda x: metric(x, reference), (wild,), fast_mode=True)


def gmsd_by_scipy(x: np.ndarray, y: np.ndarray) -> float:
    """Xue et al. 2014, equations 2 to 6, for an RGB pair of even sides (3, H, W) in 0…255."""
    magnitudes = []
    for picture in (x, y):
        luma = np.tensordot([0.299, 0.587, 0.114], picture, axes=1)
        halved = block_reduce(luma, (2, 2), np.mean)
        gradients = [prewitt(halved, axis=axis, mode="constant") / 3 for axis in (0, 1)]
        magnitudes.append(np.hypot(*gradients))
    one, other = magnitudes
    return float(np.std((2 * one * other + 170) / (one**2 + other**2 + 170)))


@pytest.mark.parametrize("spread", [0.003, 0.05, 0.4])
def test_gmsd_equals_scipy(spread: float) -> None:
    image, reference = pair(2, 3, 40, 26, spread=spread)
    expected = [gmsd_by_scipy(255 * a.numpy(), 255 * b.numpy()) for a, b in zip(image, reference, strict=True)]
    assert gmsd(image, reference).tolist() == pytest.approx(expected, abs=1e-4)
    assert gmsd(image, image).tolist() == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("spread", [0.003, 0.05, 0.4])
def test_delta_e_equals_scikit_image(spread: float) -> None:
    image, reference = pair(2, 3, 24, 37, spread=spread)
    expected = [
        deltaE_ciede2000(*(rgb2lab(part.double().numpy(), channel_axis=0) for part in both), channel_axis=0).mean()
        for both in zip(image, reference, strict=True)
    ]
    assert delta_e(image, reference).tolist() == pytest.approx(expected, abs=1e-4)


# Sharma, Wu and Dalal (2005), table 1: L, a, b of two colours, and their difference.
SHARMA = """
50 2.6772 -79.7751 50 0 -82.7485 2.0425
50 3.1571 -77.2803 50 0 -82.7485 2.8615
50 2.8361 -74.0200 50 0 -82.7485 3.4412
50 -1.3802 -84.2814 50 0 -82.7485 1.0000
50 -1.1848 -84.8006 50 0 -82.7485 1.0000
50 -0.9009 -85.5211 50 0 -82.7485 1.0000
50 0 0 50 -1 2 2.3669
50 -1 2 50 0 0 2.3669
50 2.4900 -0.0010 50 -2.4900 0.0009 7.1792
50 2.4900 -0.0010 50 -2.4900 0.0010 7.1792
50 2.4900 -0.0010 50 -2.4900 0.0011 7.2195
50 2.4900 -0.0010 50 -2.4900 0.0012 7.2195
50 -0.0010 2.4900 50 0.0009 -2.4900 4.8045
50 -0.0010 2.4900 50 0.0010 -2.4900 4.8045
50 -0.0010 2.4900 50 0.0011 -2.4900 4.7461
50 2.5 0 50 0 -2.5 4.3065
50 2.5 0 73 25 -18 27.1492
50 2.5 0 61 -5 29 22.8977
50 2.5 0 56 -27 -3 31.9030
50 2.5 0 58 24 15 19.4535
50 2.5 0 50 3.1736 0.5854 1.0000
50 2.5 0 50 3.2972 0 1.0000
50 2.5 0 50 1.8634 0.5757 1.0000
50 2.5 0 50 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""


def test_ciede2000_of_the_published_pairs() -> None:
    table = torch.tensor([[float(word) for word in line.split()] for line in SHARMA.split("\n") if line]).double()
    first, second, expected = table[:, :3, None, None], table[:, 3:6, None, None], table[:, 6]
    for one, other in ((first, second), (second, first)):
        assert ciede2000(one, other).flatten().tolist() == pytest.approx(expected.tolist(), abs=1e-4)
