"""Blur."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from udc_defense.noise import Generators
from udc_defense.transforms.base import Transform, between, register
from udc_defense.transforms.mirror import mirror


@register("gaussian_blur")
class GaussianBlur(Transform):
    """Convolve with a Gaussian, cut off at four standard deviations as in scipy.ndimage.

    Args:
        sigma: standard deviation in pixels, 0 (the identity) to 32.

    Raises:
        SettingError: sigma is out of range.
    """

    def __init__(self, *, sigma: float = 1.0) -> None:
        super().__init__()
        self.sigma = between("sigma", sigma, 0, 32)

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        """Captures (B, 3, H, W), blurred; linear."""
        radius = int(4 * self.sigma + 0.5)
        if radius == 0:  # below σ = 1/8 the kernel is one pixel; 0 could not divide
            return image
        distance = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (distance / self.sigma) ** 2)
        kernel = (kernel / kernel.sum()).to(image)
        planes = mirror(image, radius, radius).flatten(0, 1)[:, None]
        blurred = F.conv2d(F.conv2d(planes, kernel[None, None, :, None]), kernel[None, None, None, :])
        return blurred.reshape(image.shape)
