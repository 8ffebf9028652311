"""More noise."""

from __future__ import annotations

from torch import Tensor

from udc_defense.noise import Generators, normal, split
from udc_defense.transforms.base import Transform, between, register


@register("gaussian_noise")
class GaussianNoise(Transform):
    """Add white Gaussian noise: what a diffusion purifier does, without its denoising.

    Args:
        sigma: standard deviation in 1/255, 0 (the identity) to 255.

    Raises:
        SettingError: sigma is out of range.
    """

    def __init__(self, *, sigma: float = 8.0) -> None:
        super().__init__()
        self.sigma = between("sigma", sigma, 0, 255)

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        """Captures (B, 3, H, W) with noise of `generator`, one CPU generator or one per sample."""
        (generators,) = split(generator, len(image), 1)
        return image + self.sigma / 255 * normal(image, generators)
