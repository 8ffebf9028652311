"""Image quality of (B, 3, H, W) against a reference of the same shape, one value per sample, differentiable.

Metrics clamp values to [0, 1] first, as a file would, and refuse what is far outside (`tensors.check_pair`). A clamp
has no gradient outside, so that what is to be optimised takes the forms `unclamped_…`: the same formulas, smooth for
any value and unchecked.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from udc_defense.tensors import check_pair

Metric = Callable[[Tensor, Tensor], Tensor]

WINDOW = 11
# Of the scales from fine to coarse (Wang et al. 2003).
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
LUMA = (0.299, 0.587, 0.114)  # Rec. 601, of gamma-coded values
GMSD_CONSTANT = 170 / 255**2
# Linear sRGB to XYZ (IEC 61966-2-1), and the white D65 that it belongs to.
XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)
TINY = 1e-20  # under a root, whose gradient at 0 would be infinite


def _of_images(metric: Metric) -> Metric:
    """Decorator: refuse what are no two images alike, and clamp them to [0, 1]."""

    @functools.wraps(metric)
    def checked(image: Tensor, reference: Tensor) -> Tensor:
        check_pair(image, reference)
        return metric(image.clamp(0, 1), reference.clamp(0, 1))

    return checked


@_of_images
def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over RGB in dB, (B,); infinite for equal images."""
    error = (image - reference).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(error)


def effective_gain(clean: float, attacked: float, eps: float) -> float:
    """How often the error of an output grew by what the attacker may change: (RMSE attacked - RMSE clean) / ε.

    What the worst direction of a system is multiplied by. Unlike a recovered share, it does not flatter a system that
    breaks easily without its defense. To be averaged over images, never taken of mean PSNRs.

    Args:
        clean: PSNR of one image without an attack, in dB, against the clean image.
        attacked: PSNR of the same image under attack.
        eps: radius of the attack, above 0, for values in [0, 1]; a root mean square in L2.
    """
    return (10 ** (-attacked / 20) - 10 ** (-clean / 20)) / eps


def certified_psnr(clean: float, lipschitz: float, eps: float) -> float:
    """What no perturbation of size ε can undercut where the gain is bounded: the RMSE grows by at most L ε.

    Args:
        clean: PSNR of one image without an attack, in dB.
        lipschitz: L, a proven bound of the gain in ℓ2.
        eps: root mean square of the perturbation, for values in [0, 1]; so it may be an L∞ radius as well.
    """
    rmse = 10 ** (-clean / 20) + lipschitz * eps
    return -20 * math.log10(rmse) if rmse > 0 else math.inf


def recovered_share(clean: float | None, attacked: float | None, defended: float | None) -> float | None:
    """Share of the lost PSNR that a defense gives back; None where a part is missing or nothing was lost.

    Args:
        clean: PSNR of the undefended restorer without an attack, in dB.
        attacked: PSNR of the same under attack.
        defended: PSNR of the defended restorer under that attack.
    """
    if clean is None or attacked is None or defended is None or clean - attacked < 0.01:
        return None
    return (defended - attacked) / (clean - attacked)


@_of_images
def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), mean over RGB and valid pixels, (B,).

    Gaussian window of 11 pixels, σ = 1.5; on images with a side below 11 the window shrinks to the largest odd side.
    """
    return unclamped_ssim(image, reference)


def unclamped_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """`ssim` of the values as they are."""
    luminance, contrast = _similarity(image, reference)
    return (luminance * contrast).flatten(1).mean(dim=1)


@_of_images
def ms_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Multi-scale structural similarity (Wang et al. 2003), mean over RGB, (B,), in [0, 1].

    Scales are halved by 2×2 means. There are 5 where the coarsest still holds the window of 11 pixels, which takes
    sides of 176; smaller images have as many as fit (4 from 88, 3 from 44, 2 from 22), their weights scaled to sum 1,
    so that values for different numbers of scales do not compare. A scale that correlates negatively counts as 0.
    """
    return unclamped_ms_ssim(image, reference)


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


@_of_images
def gmsd(image: Tensor, reference: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation (arXiv 1308.3052) of the luma, (B,); 0 for equal images, lower is better.

    Prewitt gradients of the image halved by 2×2 means, zeros around it, as in the authors' code.
    """
    x, y = (_squared_gradient(picture) for picture in (image, reference))
    similarity = (2 * (x * y).clamp_min(TINY).sqrt() + GMSD_CONSTANT) / (x + y + GMSD_CONSTANT)  # eq. 4
    return similarity.flatten(1).var(dim=1, correction=0).clamp_min(TINY).sqrt()  # eq. 6


def _squared_gradient(image: Tensor) -> Tensor:
    luma = torch.einsum("bchw,c->bhw", image, image.new_tensor(LUMA))[:, None]
    halved = F.avg_pool2d(luma, 2, ceil_mode=True)
    prewitt = halved.new_tensor([[1, 0, -1]] * 3).div(3)
    kernels = torch.stack([prewitt, prewitt.T])[:, None]
    return F.conv2d(halved, kernels, padding=1).square().sum(dim=1)


@_of_images
def delta_e(image: Tensor, reference: Tensor) -> Tensor:
    """Colour difference CIEDE2000, mean over pixels, (B,); values are read as sRGB. 1 is about what an eye can see."""
    return ciede2000(_lab(image), _lab(reference)).flatten(1).mean(dim=1)


def _lab(image: Tensor) -> Tensor:
    """From sRGB (B, 3, H, W) in [0, 1] to CIE L*a*b* of the white D65."""
    linear = torch.where(image > 0.04045, ((image + 0.055) / 1.055) ** 2.4, image / 12.92)
    xyz = torch.einsum("ij,bjhw->bihw", image.new_tensor(XYZ), linear) / image.new_tensor(WHITE).view(3, 1, 1)
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp_min(TINY) ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def ciede2000(first: Tensor, second: Tensor) -> Tensor:
    """ΔE₀₀ of colours in L*a*b* (B, 3, H, W), (B, H, W); equations of Sharma, Wu and Dalal (2005)."""
    l1, a1, b1 = first.unbind(dim=1)
    l2, a2, b2 = second.unbind(dim=1)
    grey = 0.5 * (1 - _share_of_25((_length(a1, b1) + _length(a2, b2)) / 2))  # eqs. 3-5
    a1, a2 = a1 * (1 + grey), a2 * (1 + grey)
    c1, c2 = _length(a1, b1), _length(a2, b2)
    h1, h2 = torch.atan2(b1, a1) % (2 * math.pi), torch.atan2(b2, a2) % (2 * math.pi)
    turn, total = h2 - h1, h1 + h2
    far = turn.abs() > math.pi + 1e-6  # a half turn, where rounding would decide, is not
    turn = torch.where(far, turn - 2 * math.pi * turn.sign(), turn)  # eq. 10
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = (total + torch.where(far, torch.where(total < 2 * math.pi, 2 * math.pi, -2 * math.pi), 0)) / 2  # eq. 14
    weight = 1 - 0.17 * torch.cos(hue - math.radians(30)) + 0.24 * torch.cos(2 * hue)  # eq. 15
    weight = weight + 0.32 * torch.cos(3 * hue + math.radians(6)) - 0.2 * torch.cos(4 * hue - math.radians(63))
    offset = (lightness - 50).square()
    light = (l2 - l1) / (1 + 0.015 * offset / (20 + offset).sqrt())
    colour = (c2 - c1) / (1 + 0.045 * chroma)
    tint = 2 * (c1 * c2).clamp_min(TINY).sqrt() * torch.sin(turn / 2) / (1 + 0.015 * chroma * weight)
    # In the blue, chroma and hue are not independent (eqs. 16, 17 and 21).
    angle = math.radians(60) * torch.exp(-((torch.rad2deg(hue) - 275) / 25).square())
    mixed = -2 * _share_of_25(chroma) * torch.sin(angle) * colour * tint
    return (light.square() + colour.square() + tint.square() + mixed).clamp_min(TINY).sqrt()


def _length(a: Tensor, b: Tensor) -> Tensor:
    return (a.square() + b.square()).clamp_min(TINY).sqrt()


def _share_of_25(chroma: Tensor) -> Tensor:
    return (chroma**7 / (chroma**7 + 25.0**7)).clamp_min(TINY).sqrt()


METRICS = {"psnr": psnr, "ssim": ssim, "ms_ssim": ms_ssim, "gmsd": gmsd, "delta_e": delta_e}
