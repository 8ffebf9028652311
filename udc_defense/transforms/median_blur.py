"""The median of each pixel's neighbourhood."""

from __future__ import annotations

from torch import Tensor

from udc_defense.errors import SettingError
from udc_defense.noise import Generators
from udc_defense.transforms.base import Transform, register, whole
from udc_defense.transforms.mirror import mirror


@register("median_blur")
class MedianBlur(Transform):
    """Replace each value by the median of a square around it, channel by channel (arXiv 1704.01155).

    Differentiable: the gradient goes to the pixel that was selected.

    Args:
        size: side of the square in pixels, odd, 1 (the identity) to 9; memory grows with its square.

    Raises:
        SettingError: the size is even or out of range.
    """

    def __init__(self, *, size: int = 3) -> None:
        super().__init__()
        self.size = whole("size", size, 1, 9)
        if self.size % 2 == 0:
            raise SettingError(f"size {self.size} is even: no pixel is in the middle of such a square.")

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        """Captures (B, 3, H, W), filtered."""
        padded = mirror(image, self.size // 2, self.size // 2)
        squares = padded.unfold(-2, self.size, 1).unfold(-2, self.size, 1)  # (B, 3, H, W, size, size)
        return squares.flatten(-2).median(dim=-1).values
