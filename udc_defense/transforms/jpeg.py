"""Compression by the real codec."""

from __future__ import annotations

import io

import torch
from torch import Tensor

from udc_defense.images import read_image, to_pil
from udc_defense.noise import Generators
from udc_defense.transforms.base import Transform, register, whole
from udc_defense.transforms.soft_jpeg import SoftJpeg


@register("jpeg")
class Jpeg(Transform):
    """Write a JPEG file with Pillow, 4:2:0, and read it again (arXiv 1608.00853).

    It is not differentiable, and its output hangs on no graph: an exact attack is told so, and BPDA gets through by the
    gradient of `soft_jpeg`.

    Args:
        quality: of libjpeg, whole, 1 to 95; the higher, the less is lost.

    Raises:
        SettingError: the quality is out of range.
    """

    def __init__(self, *, quality: int = 75) -> None:
        super().__init__()
        self.quality = whole("quality", quality, 1, 95)

    def stand_in(self) -> Transform:
        """`soft_jpeg` of the same quality."""
        return SoftJpeg(quality=self.quality)

    @torch.no_grad()
    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        """Captures (B, 3, H, W) through 8-bit files: what is outside [0, 1] is clamped."""
        return torch.cat([self._decoded(sample) for sample in image]).to(image)

    def _decoded(self, sample: Tensor) -> Tensor:
        file = io.BytesIO()
        to_pil(sample).save(file, format="JPEG", quality=self.quality)
        return read_image(file.getvalue(), max_pixels=sample[0].numel())
