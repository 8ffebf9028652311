"""DE-UNet: a U-Net with two encoders (Zhou et al., CVPR 2021, arXiv 2003.04857).

The paper describes the network in a few sentences; there is no official repository or checkpoint that this could match,
so the keys are our own, and no code was used. From the paper: the encoder of a U-Net is split in two, one that encodes
the content and one that computes residual details to add, which costs fewer parameters than doubling the width. A U-Net
of 32 channels and four halvings (arXiv 1505.04597) with that encoder twice has the paper's 8.93 million parameters. The
rest is our reading: each encoder goes its own way down, their sum at every scale is what the skips and the bottom get.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from udc_defense.restorers import register
from udc_defense.restorers.base import Restorer


@register("de_unet")
class DEUNet(Restorer):
    """U-Net whose encoder is split in two, content and residual details.

    The paper's network maps 4-channel RAW to RGB; this one takes and gives tone-mapped RGB. It is local: a tile differs
    from the whole image only by where the grid of its halvings lies.

    Args:
        width: channels at the finest scale; they double with every scale.
        depth: how often the sides are halved.
    """

    @register_to_config
    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.multiple = 2**depth
        widths = [width * 2**level for level in range(depth + 1)]
        scales = list(zip(widths, widths[1:], strict=False))
        inputs = [3, *widths[: depth - 1]]
        self.content = nn.ModuleList(_stage(before, after) for before, after in zip(inputs, widths, strict=False))
        self.residual = nn.ModuleList(_stage(before, after) for before, after in zip(inputs, widths, strict=False))
        self.bottom = _stage(*scales[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in scales)
        self.decoder = nn.ModuleList(_stage(coarse, fine) for fine, coarse in scales)
        self.head = nn.Conv2d(width, 3, 1)
        self.head.bias = nn.Parameter(torch.full((3,), 0.5))  # training starts at grey

    def network_forward(self, image: Tensor) -> Tensor:
        content = residual = image
        skips: list[Tensor] = []
        for content_stage, residual_stage in zip(self.content, self.residual, strict=True):
            if skips:
                content, residual = F.max_pool2d(content, 2), F.max_pool2d(residual, 2)
            content, residual = content_stage(content), residual_stage(residual)
            skips.append(content + residual)
        x = self.bottom(F.max_pool2d(skips[-1], 2))
        for up, stage in zip(reversed(self.up), reversed(self.decoder), strict=True):
            x = stage(torch.cat((skips.pop(), up(x)), dim=1))
        return self.head(x)


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(),
    )
