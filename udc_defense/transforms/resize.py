"""Down and up again."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from udc_defense.noise import Generators
from udc_defense.transforms.base import Transform, between, register


@register("resize")
class Resize(Transform):
    """Make the image smaller and as large as before, bicubic and antialiased, as Pillow does it.

    Args:
        factor: side of the small image over that of the image, 0.01 to 1 (the identity).

    Raises:
        SettingError: the factor is out of range.
    """

    def __init__(self, *, factor: float = 0.5) -> None:
        super().__init__()
        self.factor = between("factor", factor, 0.01, 1)

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        """Captures (B, 3, H, W), smoothed; linear. At edges bicubic interpolation overshoots a little."""
        height, width = image.shape[-2:]
        small = _resized(image, max(1, round(height * self.factor)), max(1, round(width * self.factor)))
        return _resized(small, height, width)


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image, size=(height, width), mode="bicubic", antialias=True)
