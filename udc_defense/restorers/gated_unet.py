"""The default restorer of this project: a plain U-Net of gated residual blocks.

From NAFNet (arXiv 2204.04676) it takes the gate instead of an activation and the absence of everything else. Dense 3×3
convolutions replace its layer norm, depthwise convolution and global channel attention: they are several times faster
on a CPU, and without a global average the network is local, so that tiles give the untiled result. The gate is a
sigmoid (arXiv 1612.08083): NAFNet's plain product diverged without the norm. It works on 2×2 blocks of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from udc_defense.restorers import register
from udc_defense.restorers.base import Restorer


class GatedBlock(nn.Module):
    """x + conv(gate(conv(x))), gate(a, b) = a · sigmoid(b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.project = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.expand(x).chunk(2, dim=1)
        return x + self.project(a * torch.sigmoid(b))


@register("gated_unet")
class GatedUNet(Restorer):
    """U-Net over scales 1/2, 1/4, …; `widths` and `blocks` per scale, encoder and decoder alike."""

    @register_to_config
    def __init__(self, widths: Sequence[int] = (32, 64, 128, 128), blocks: Sequence[int] = (2, 2, 2, 3)) -> None:
        super().__init__()
        self.multiple = 2 ** len(widths)
        scales = list(zip(widths, widths[1:], strict=False))
        self.stem = nn.Conv2d(12, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(gated_stage(width, count) for width, count in zip(widths, blocks, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in scales)
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in scales)
        self.decoder = nn.ModuleList(
            gated_stage(width, count) for (width, _), count in zip(scales, blocks, strict=False)
        )
        self.head = nn.Conv2d(widths[0], 12, 3, padding=1)
        start_near_identity(self)

    def network_forward(self, image: Tensor) -> Tensor:
        return image + through_scales(self, image)


def start_near_identity(network: Any) -> None:
    """Make last convolutions small: each gated block, and the network with its `head`, starts near the identity."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, GatedBlock):
                module.project.weight.mul_(0.1)
        network.head.weight.mul_(0.1)


def through_scales(network: Any, image: Tensor) -> Tensor:
    """Run the `stem`, `encoder`, `down`, `up`, `decoder` and `head` of a network on 2×2 blocks of pixels."""
    x = network.stem(F.pixel_unshuffle(image, 2))
    skips = []
    for stage, down in zip(network.encoder, network.down, strict=False):
        x = stage(x)
        skips.append(x)
        x = down(x)
    x = network.encoder[-1](x)
    for stage, up in zip(reversed(network.decoder), reversed(network.up), strict=True):
        x = stage(F.pixel_shuffle(up(x), 2) + skips.pop())
    return F.pixel_shuffle(network.head(x), 2)


def gated_stage(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(GatedBlock(width) for _ in range(count)))
