"""BNUDC: one branch for sharp details, one at a quarter of the size for colour (Koh et al., CVPR 2022).

The paper is on pages 1950-1959 of the proceedings; no arXiv version is known. State-dict compatible with the
checkpoints of https://github.com/JaihyunKoh/BNUDC (BSD 2-clause style licence); written from a description of the
architecture, no code of that repository was used.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from udc_defense.restorers import register
from udc_defense.restorers.base import Restorer

DILATIONS = (1, 2, 4, 8)


class SharedFilter(nn.Module):
    """One learned filter for every channel; it starts as the identity."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.zeros(1, 1, size, size))
        with torch.no_grad():
            self.weight[..., size // 2, size // 2] = 1

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.expand(self.channels, -1, -1, -1)
        return F.conv2d(x, weight, padding=self.weight.shape[-1] // 2, groups=self.channels)


class NormalisedConv(nn.Module):
    """Dilated 3×3 convolution whose weight is g · v / ‖v‖ per output channel (arXiv 1602.07868).

    PyTorch's own weight norm keeps g and v under names that differ from the checkpoints'.
    """

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        v = nn.Conv2d(inputs, outputs, 3).weight.detach()
        self.weight_g = nn.Parameter(_norm(v))
        self.weight_v = nn.Parameter(v)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_v * (self.weight_g / _norm(self.weight_v))
        return F.conv2d(x, weight, padding=self.dilation, dilation=self.dilation)


class SmoothDilatedBlock(nn.Module):
    """Residual block of four dilations; a filter as wide as the gaps goes before each, against gridding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for dilation in DILATIONS:
            self.add_module(f"pre_conv{dilation}", SharedFilter(width, 2 * dilation - 1))
            self.add_module(f"conv{dilation}", NormalisedConv(width, width // 2, dilation))
        self.conv = nn.Conv2d(len(DILATIONS) * (width // 2), width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        paths = [getattr(self, f"conv{d}")(getattr(self, f"pre_conv{d}")(x)) for d in DILATIONS]
        return _activate(x + self.conv(_activate(torch.cat(paths, dim=1))))


class ResidualGroup(nn.Module):
    """Blocks and a convolution with one skip around all of them."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.body = _stage(width, blocks).append(nn.Conv2d(width, width, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Encoder(nn.Module):
    """Features (B, L, h, w) to those of three scales, each half as large and wider by `step`."""

    def __init__(self, width: int, step: int) -> None:
        super().__init__()
        self.encoder_level1 = _stage(width, 2)
        self.down12 = nn.ModuleDict({"down": _resize(0.5, width, width + step)})
        self.encoder_level2 = _stage(width + step, 2)
        self.down23 = nn.ModuleDict({"down": _resize(0.5, width + step, width + 2 * step)})
        self.encoder_level3 = _stage(width + 2 * step, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.encoder_level1(x)
        middle = self.encoder_level2(self.down12["down"](fine))
        return fine, middle, self.encoder_level3(self.down23["down"](middle))


class Decoder(nn.Module):
    """The way back from three scales to (B, L, h, w); the skips go through a block each."""

    def __init__(self, width: int, step: int) -> None:
        super().__init__()
        self.decoder_level3 = _stage(width + 2 * step, 2)
        self.up32 = nn.ModuleDict({"up": _resize(2.0, width + 2 * step, width + step)})
        self.skip_attn2 = SmoothDilatedBlock(width + step)
        self.decoder_level2 = _stage(width + step, 2)
        self.up21 = nn.ModuleDict({"up": _resize(2.0, width + step, width)})
        self.skip_attn1 = SmoothDilatedBlock(width)
        self.decoder_level1 = _stage(width, 2)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        x = self.decoder_level3(coarse)
        x = self.decoder_level2(self.up32["up"](x) + self.skip_attn2(middle))
        return self.decoder_level1(self.up21["up"](x) + self.skip_attn1(fine))


@register("bnudc")
class BNUDC(Restorer):
    """Gain and offset per pixel, then a colour matrix and offset per pixel that vary slowly.

    Its official domain is this project's: the SYNTH checkpoint takes and gives tone-mapped values x / (x + 0.25). Those
    for POLED and TOLED were trained on 8-bit photos / 255; they load, but meet other tones here.

    No statistic is global. Tiles still differ a little from the whole image: the quarter-size branch resizes with
    aligned corners, so that where it samples depends on the sides.

    Args:
        n_feat_high: width of the branch for details.
        n_feat_low: width of the branch for colour at its finest scale.
        scale_feats: what each coarser scale is wider by.
        num_blk: blocks in each of the three residual groups.
    """

    multiple = 16

    @register_to_config
    def __init__(self, n_feat_high: int = 72, n_feat_low: int = 32, scale_feats: int = 8, num_blk: int = 6) -> None:
        super().__init__()
        self.shallow_feat = _head(12, n_feat_high)
        self.orsnet = nn.Sequential(OrderedDict((f"orb{i}", ResidualGroup(n_feat_high, num_blk)) for i in (1, 2, 3)))
        self.tail = nn.Conv2d(n_feat_high, 24, 3, padding=1)
        self.box_filter = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)
        nn.init.ones_(self.box_filter.weight)
        self.shallow_sub = _head(3, n_feat_low)
        self.encoder_sub = Encoder(n_feat_low, scale_feats)
        self.decoder_sub = Decoder(n_feat_low, scale_feats)
        self.tail_sub = nn.Conv2d(n_feat_low, 12, 3, padding=1)
        _start_near(self.tail, torch.tensor([1.0, 0.0]).repeat_interleave(12))
        _start_near(self.tail_sub, torch.eye(4, 3).flatten())

    def network_forward(self, image: Tensor) -> Tensor:
        return self.branches(image)[2]

    def branches(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the official network returns: details alone, colour alone, and both, the result.

        Args:
            image: (B, 3, H, W), sides multiples of 16.
        """
        gain, offset = self._details(image).chunk(2, dim=1)
        high = image * gain + offset
        matrix, shift = self._colours(image).split((9, 3), dim=1)
        matrix = matrix.unflatten(1, (3, 3))
        low, final = (torch.einsum("brchw,bchw->brhw", matrix, x) + shift for x in (image, high))
        return high, low, final

    def _details(self, image: Tensor) -> Tensor:
        features = self.orsnet(self.shallow_feat(F.pixel_unshuffle(image, 2)))
        return F.pixel_shuffle(self.tail(features), 2)

    def _colours(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        small = _aligned_resize(image, (height // 4, width // 4))
        # The division makes it a mean over the pixels that exist, at the border too.
        smooth = self.box_filter(small) / self.box_filter(torch.ones_like(small))
        features = self.decoder_sub(*self.encoder_sub(self.shallow_sub(smooth)))
        return _aligned_resize(self.tail_sub(features), (height, width))


def _start_near(last: nn.Conv2d, values: Tensor) -> None:
    """Training starts near the identity: gain 1, the unit matrix, offsets 0."""
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias = nn.Parameter(values)


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def _norm(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True)


def _stage(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(SmoothDilatedBlock(width) for _ in range(count)))


def _head(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), SmoothDilatedBlock(width))


def _resize(scale: float, inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=scale, mode="bilinear"), nn.Conv2d(inputs, outputs, 1, bias=False))


def _aligned_resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=True)
