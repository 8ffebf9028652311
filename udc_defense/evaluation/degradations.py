"""Other tasks under the same protocol, denoising and deblurring, and a classical restorer for each."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from udc_defense.dct import dct_matrix
from udc_defense.images import quantize
from udc_defense.noise import normal
from udc_defense.transforms.dct_denoise import DctDenoise
from udc_defense.transforms.gaussian_blur import GaussianBlur

NOISE = 25.0  # standard deviation in 1/255, the common one of papers on denoising (arXiv 1608.03981)
BLUR, BLUR_NOISE = 1.6, 2.0  # pixels and 1/255 (arXiv 1704.03264, table 2)
VARIANCE = 0.06  # of photos in [0, 1]


def noisy(clean: Tensor, generator: torch.Generator) -> Tensor:
    """White Gaussian noise on a clean image (1, 3, H, W), as an 8-bit file holds it."""
    return quantize(clean + normal(clean, [generator]) * NOISE / 255)


def blurred(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian blur and a little noise."""
    return quantize(GaussianBlur(sigma=BLUR)(clean) + normal(clean, [generator]) * BLUR_NOISE / 255)


class Denoiser(DctDenoise):
    """The plain denoiser of the transforms, told the noise."""

    def __init__(self) -> None:
        super().__init__(sigma=NOISE)


class Deblurrer(nn.Module):
    """Wiener's filter of that blur and noise, for photos whose power falls as 1/f²; linear.

    In the cosine basis the mirrored blur is a diagonal matrix, and so is the filter.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Blurred images (B, 3, H, W) to sharp ones."""
        rows, columns = (dct_matrix(side, image) for side in image.shape[-2:])
        return rows.T @ (rows @ image @ columns.T * self._filter(image)) @ columns

    def _filter(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        blur = _response(height, image)[:, None] * _response(width, image)
        frequency = (torch.arange(height).to(image) / height)[:, None].square() + (
            torch.arange(width).to(image) / width
        ).square()
        shape = 1 / frequency.clamp_min(1 / (height * width))
        power = VARIANCE * height * width * shape / shape.sum()
        filtered = blur / (blur.square() + (BLUR_NOISE / 255) ** 2 / power)
        filtered[0, 0] = 1  # brightness is known
        return filtered


def _response(length: int, like: Tensor) -> Tensor:
    """What the blur leaves of each of the cosines of an axis."""
    radius = int(4 * BLUR + 0.5)
    distance = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (distance / BLUR) ** 2)
    angles = math.pi / length * torch.arange(length, dtype=torch.float64)
    return (torch.cos(angles[:, None] * distance) @ (kernel / kernel.sum())).to(like)


DEGRADATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {"noise": noisy, "blur": blurred}
# Who restores each unless another is named; the under-display camera's is the embedded network.
RESTORERS = {"udc": "default", "noise": f"{__name__}:Denoiser", "blur": f"{__name__}:Deblurrer"}
