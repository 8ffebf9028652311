"""Fewer grey levels."""

from __future__ import annotations

from torch import Tensor

from udc_defense.images import quantize
from udc_defense.noise import Generators
from udc_defense.transforms.base import Transform, register, whole


@register("bit_depth")
class BitDepth(Transform):
    """Round every value to 2^bits levels: feature squeezing (arXiv 1704.01155).

    Its gradient is zero almost everywhere, and autograd says so. That masks gradients and defends against nobody who
    uses BPDA: an exact attack that fails here has shown nothing (arXiv 1802.00420).

    Args:
        bits: per value, whole, 1 to 8; 8 leaves an 8-bit image as it is.

    Raises:
        SettingError: the bits are out of range.
    """

    def __init__(self, *, bits: int = 4) -> None:
        super().__init__()
        self.bits = whole("bits", bits, 1, 8)

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        """Captures (B, 3, H, W) on the levels, all of which lie in [0, 1]."""
        return quantize(image, self.bits)
