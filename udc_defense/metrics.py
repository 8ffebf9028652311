"""Image quality, one value per sample, differentiable.

Metrics clamp values to [0, 1] first, as a file would. A clamp has no gradient outside, so that what is to be optimised
takes the forms `unclamped_…`: the same formulas, smooth for any value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11
# Of the scales from fine to coarse (Wang et al. 2003).
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over RGB in dB, (B,); infinite for equal images."""
    error = (image.clamp(0, 1) - reference.clamp(0, 1)).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(error)


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), mean over RGB and valid pixels, (B,).

    Gaussian window of 11 pixels, σ = 1.5; on images with a side below 11 the window shrinks to the largest odd side.
    """
    return unclamped_ssim(image.clamp(0, 1), reference.clamp(0, 1))


def unclamped_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """`ssim` of the values as they are."""
    luminance, contrast = _similarity(image, reference)
    return (luminance * contrast).flatten(1).mean(dim=1)


def ms_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Multi-scale structural similarity (Wang et al. 2003), mean over RGB, (B,), in [0, 1].

    Scales are halved by 2×2 means. There are 5 where the coarsest still holds the window of 11 pixels, which takes
    sides of 176; smaller images have as many as fit (4 from 88, 3 from 44, 2 from 22), their weights scaled to sum 1,
    so that values for different numbers of scales do not compare. A scale that correlates negatively counts as 0.
    """
    return unclamped_ms_ssim(image.clamp(0, 1), reference.clamp(0, 1))


def unclamped_ms_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """`ms_ssim` of the values as they are."""
    fitting = [weight for j, weight in enumerate(SCALE_WEIGHTS) if min(image.shape[-2:]) >> j >= WINDOW]
    weights = fitting or SCALE_WEIGHTS[:1]
    similarity = image.new_ones(image.shape[:2])
    for j, weight in enumerate(weights):
        if j > 0:
            image, reference = F.avg_pool2d(image, 2), F.avg_pool2d(reference, 2)
        luminance, contrast = _similarity(image, reference)
        # Luminance is compared at the coarsest scale alone.
        scale = luminance * contrast if j == len(weights) - 1 else contrast
        # ReLU, for a fractional power of a negative number is none; its gradient there is 0, not 0 · ∞.
        similarity = similarity * scale.mean(dim=(-2, -1)).relu() ** (weight / sum(weights))
    return similarity.mean(dim=1)


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Per valid pixel, the comparison of luminance and that of contrast and structure, the two factors of SSIM."""
    window = _gaussian(min(WINDOW, *(size - 1 + size % 2 for size in x.shape[-2:])), x)
    mean_x, mean_y = _blur(x, window), _blur(y, window)
    var_x = _blur(x * x, window) - mean_x**2
    var_y = _blur(y * y, window) - mean_y**2
    covariance = _blur(x * y, window) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (var_x + var_y + c2)


def _gaussian(side: int, like: Tensor) -> Tensor:
    axis = torch.arange(side, device=like.device, dtype=like.dtype) - (side - 1) / 2
    bell = torch.exp(-(axis**2) / (2 * 1.5**2))
    return bell / bell.sum()


def _blur(image: Tensor, window: Tensor) -> Tensor:
    channels = image.shape[1]
    rows = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    return F.conv2d(F.conv2d(image, rows, groups=channels), rows.transpose(-1, -2), groups=channels)


METRICS = {"psnr": psnr, "ssim": ssim, "ms_ssim": ms_ssim}
