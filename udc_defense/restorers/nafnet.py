"""NAFNet: a U-Net without activations; blocks multiply one half of their channels by the other.

Chen et al., ECCV 2022, arXiv 2204.04676. State dicts of the official repository fit, `megvii-research/NAFNet` (MIT);
none of its code was used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from udc_defense.restorers import register
from udc_defense.restorers.base import Restorer


@register("nafnet")
class NAFNet(Restorer):
    """Published for 8-bit photos in [0, 1]; here it gets tone-mapped captures as they are. Unbounded output.

    Channels are weighted by their mean over the image, so pixels at any distance matter: an image larger than
    `tile_size` gets the means of each tile and another result than it would get whole. With a `window` the means are
    local (arXiv 2112.04491), and tiles differ less from the whole.

    Args:
        width: channels at full size, doubled at each coarser scale.
        encoder_blocks: blocks per scale on the way down; their number is the number of scales.
        middle_blocks: blocks at the coarsest scale.
        decoder_blocks: blocks per scale on the way up, coarsest first.
        window: side of the window of local means, in pixels of the image; None for the whole image, as published for
            SIDD. The published GoPro and REDS results have 384.
    """

    @register_to_config
    def __init__(
        self,
        width: int = 32,
        encoder_blocks: Sequence[int] = (2, 2, 4, 8),
        middle_blocks: int = 12,
        decoder_blocks: Sequence[int] = (2, 2, 2, 2),
        window: int | None = None,
    ) -> None:
        super().__init__()
        scales = range(len(encoder_blocks))
        windows = [None if window is None else max(1, window >> scale) for scale in (*scales, len(scales))]
        self.stride = 2 ** len(encoder_blocks)
        self.intro = nn.Conv2d(3, width, 3, padding=1)
        self.encoders = nn.ModuleList(_stage(width << s, encoder_blocks[s], windows[s]) for s in scales)
        self.downs = nn.ModuleList(nn.Conv2d(width << s, width << s + 1, 2, stride=2) for s in scales)
        self.middle_blks = _stage(width * self.stride, middle_blocks, windows[-1])
        self.ups = nn.ModuleList(_up(width << s + 1) for s in reversed(scales))
        self.decoders = nn.ModuleList(
            _stage(width << s, count, windows[s]) for s, count in zip(reversed(scales), decoder_blocks, strict=True)
        )
        self.ending = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def windows(self) -> tuple[int, ...]:
        window = self.config["window"]
        return (self.stride,) if window is None else (self.stride, window)

    def network_forward(self, image: Tensor) -> Tensor:
        """Values of about [0, 1], (B, 3, H, W), any sides: the network pads by zeros, which count in the means."""
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % self.stride, 0, -height % self.stride))
        x, skips = self.intro(image), []
        for stage, down in zip(self.encoders, self.downs, strict=True):
            x = stage(x)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x)
        for up, stage in zip(self.ups, self.decoders, strict=True):
            x = stage(up(x) + skips.pop())
        return (self.ending(x) + image)[..., :height, :width]


class Block(nn.Module):
    """Two residual steps: a gated depthwise convolution with channel attention, then a gated 1×1 convolution."""

    def __init__(self, width: int, window: int | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(width, eps=1e-6), ChannelNorm(width, eps=1e-6)
        self.conv1 = nn.Conv2d(width, 2 * width, 1)
        self.conv2 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.sca = nn.Sequential(Mean(window), nn.Conv2d(width, width, 1))
        self.conv3 = nn.Conv2d(width, width, 1)
        self.conv4 = nn.Conv2d(width, 2 * width, 1)
        self.conv5 = nn.Conv2d(width, width, 1)
        self.beta = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = _gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.beta * self.conv3(y * self.sca(y))
        return x + self.gamma * self.conv5(_gate(self.conv4(self.norm2(x))))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mean(nn.Module):
    """The mean over the image, (B, C, 1, 1), or over a window around each pixel, (B, C, H, W).

    A window that does not fit is cut to the image's side. Pixels too near the border for a whole window take the
    nearest one's mean.
    """

    def __init__(self, window: int | None) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        if self.window is None:
            return x.mean(dim=(2, 3), keepdim=True)
        return _sliding_mean(_sliding_mean(x, 2, self.window), 3, self.window)


def _sliding_mean(x: Tensor, dim: int, window: int) -> Tensor:
    """Means along one side by differences of a running sum; windows start at 0 … side - window, borders repeat."""
    side = x.shape[dim]
    window = (side + window - abs(side - window)) // 2  # the smaller one, without a branch that a trace would freeze
    total = x.cumsum(dim=dim, dtype=torch.promote_types(x.dtype, torch.float32))
    total = F.pad(total, _along(dim, 1, 0))
    count = side + 1 - window
    mean = ((total.narrow(dim, window, count) - total.narrow(dim, 0, count)) / window).to(x.dtype)
    before = (window - 1) // 2
    return F.pad(mean, _along(dim, before, window - 1 - before), mode="replicate")


def _along(dim: int, before: int, after: int) -> tuple[int, int, int, int]:
    """Arguments of `F.pad` for one side of (B, C, H, W)."""
    return (before, after, 0, 0) if dim == 3 else (0, 0, before, after)


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return a * b


def _stage(width: int, count: int, window: int | None) -> nn.Sequential:
    return nn.Sequential(*(Block(width, window) for _ in range(count)))


def _up(before: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, 2 * before, 1, bias=False), nn.PixelShuffle(2))
