"""Down and up again."""

from __future__ import annotations

import torch
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
        rows, columns = (_down_and_up(length, self.factor).to(image) for length in image.shape[-2:])
        return rows @ image @ columns.T


def _down_and_up(length: int, factor: float) -> Tensor:
    """What both steps do to a side, (length, length).

    Applied to the image itself, torch's antialiasing is wrong where the result is one pixel wide (2.13 on the CPU) and
    fails on CUDA at small factors (pytorch/vision issue 7671).
    """
    side = torch.eye(length, dtype=torch.float64)[None, None]
    for rows in (max(1, round(length * factor)), length):
        side = F.interpolate(side, size=(rows, length), mode="bicubic", antialias=True)
    return side[0, 0]
