"""Image quality, one value per sample, differentiable. Values are clamped to [0, 1] first, as a file would."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over RGB in dB, (B,); infinite for equal images."""
    error = (image.clamp(0, 1) - reference.clamp(0, 1)).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(error)


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), mean over RGB and valid pixels, (B,).

    Gaussian window of 11 pixels, σ = 1.5; on images with a side below 11 the window shrinks to the largest odd side.
    """
    x, y = image.clamp(0, 1), reference.clamp(0, 1)
    side = min(11, *(size - 1 + size % 2 for size in x.shape[-2:]))
    window = _gaussian(side, x)
    mean_x, mean_y = _blur(x, window), _blur(y, window)
    var_x = _blur(x * x, window) - mean_x**2
    var_y = _blur(y * y, window) - mean_y**2
    covariance = _blur(x * y, window) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(dim=1)


def _gaussian(side: int, like: Tensor) -> Tensor:
    axis = torch.arange(side, device=like.device, dtype=like.dtype) - (side - 1) / 2
    bell = torch.exp(-(axis**2) / (2 * 1.5**2))
    return bell / bell.sum()


def _blur(image: Tensor, window: Tensor) -> Tensor:
    channels = image.shape[1]
    rows = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    return F.conv2d(F.conv2d(image, rows, groups=channels), rows.transpose(-1, -2), groups=channels)


METRICS = {"psnr": psnr, "ssim": ssim}
