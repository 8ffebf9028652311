"""Compression as a differentiable function: what `jpeg` does, with a gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from udc_defense.dct import dct_matrix
from udc_defense.noise import Generators
from udc_defense.transforms.base import Transform, register, whole

# RGB to Y, Cb, Cr of JFIF (ITU-T T.871), and the tables of ITU-T T.81, K.1 for luma and K.2 for chroma.
YCBCR = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
LUMA = """
16 11 10 16 24 40  51  61   12 12 14 19 26  58  60  55   14 13 16 24 40  57  69  56   14 17 22 29 51  87  80  62
18 22 37 56 68 109 103 77   24 35 55 64 81 104 113  92   49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99"""
CHROMA = "17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66" + " 99" * 38


@register("soft_jpeg")
class SoftJpeg(Transform):
    """JPEG with the rounding of Shin and Song, "JPEG-resistant adversarial images", 2017.

    Colours, 4:2:0 subsampling, blocks, tables and libjpeg's smooth chroma upsampling are those of the file. Only the
    coefficients are rounded, not the 8-bit values in between: photos differ from the file's by about 1/255 on average.

    Args:
        quality: of libjpeg, whole, 1 to 95; the higher, the less is lost.

    Raises:
        SettingError: the quality is out of range.
    """

    def __init__(self, *, quality: int = 75) -> None:
        super().__init__()
        self.quality = whole("quality", quality, 1, 95)
        scale = 5000 // self.quality if self.quality < 50 else 200 - 2 * self.quality
        tables = torch.tensor([[int(step) for step in table.split()] for table in (LUMA, CHROMA)])
        self.luma, self.chroma = ((tables * scale + 50) // 100).clamp(1, 255).view(2, 8, 8)

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        """Captures (B, 3, H, W) as a decoder would show them: clamped to [0, 1], for it is part of decoding."""
        height, width = image.shape[-2:]
        to_ycbcr = torch.tensor(YCBCR, dtype=torch.float64)
        planes = torch.einsum("dc,bchw->bdhw", to_ycbcr.to(image), image * 255)
        luma = _coded(planes[:, :1] - 128, self.luma) + 128
        # As libjpeg fills blocks up: columns before it halves the chroma, rows after.
        chroma = F.pad(planes[:, 1:], (0, -width % 16, 0, height % 2), mode="replicate")
        chroma = _coded(F.avg_pool2d(chroma, 2), self.chroma)[..., : (width + 1) // 2]
        chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")[..., :height, :width]
        decoded = torch.cat([luma, chroma], dim=1)
        return (torch.einsum("dc,bchw->bdhw", to_ycbcr.inverse().to(image), decoded) / 255).clamp(0, 1)


def _coded(plane: Tensor, table: Tensor) -> Tensor:
    """Quantise the coefficients of each 8 x 8 block."""
    height, width = plane.shape[-2:]
    table, dct = table.to(plane), dct_matrix(8, plane)
    padded = F.pad(plane, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = padded.unfold(-2, 8, 8).unfold(-2, 8, 8)  # (B, C, rows, columns, 8, 8)
    coefficients = _rounded(dct @ blocks @ dct.T / table) * table
    decoded = dct.T @ coefficients @ dct
    return decoded.transpose(-3, -2).reshape(padded.shape)[..., :height, :width]


def _rounded(x: Tensor) -> Tensor:
    """⌊x⌉ + (x - ⌊x⌉)³: close to rounding, with a slope that is zero at whole numbers only."""
    nearest = x.round()
    return nearest + (x - nearest) ** 3
