"""UDC-UNet: a U-Net on linear light, modulated by a branch that sees the image and filtered by one that sees the PSF.

Liu et al., ECCV 2022 workshops, arXiv 2209.01809. State dicts of the official repository fit, `J-FHu/UDCUNet` (MIT);
none of its code was used. Filters per pixel and residual blocks are those of DISCNet (arXiv 2104.09556).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from udc_defense.imaging import KNEE, MAX_RADIANCE, tone_map
from udc_defense.restorers import register
from udc_defense.restorers.base import Restorer
from udc_defense.restorers.discnet import PSF_CODE, SLOPE, ResidualBlock, dynamic_filter, spread_code

WHITE = MAX_RADIANCE / (MAX_RADIANCE + KNEE)
MODULATION_WIDTH = 32  # hidden channels, whatever the width of the network


@register("udc_unet")
class UDCUNet(Restorer):
    """Published at 800×800 on linear radiance 0…500. Its own last step is a ReLU: no output is below black.

    Args:
        width: channels at full size, doubled at each of the three coarser scales.
        depths: modulated blocks of the seven stages: three down, the bottom, three up.
        filter_size: side k of the predicted filters, odd.
        psf_code: the display's code; the default is the published constant.
    """

    multiple = 8
    tile_size = 800  # as published; 0.95 GB of memory

    @register_to_config
    def __init__(
        self,
        width: int = 32,
        depths: Sequence[int] = (2, 2, 2, 8, 2, 2, 2),
        filter_size: int = 3,
        psf_code: Sequence[float] = PSF_CODE,
    ) -> None:
        super().__init__()
        self.filter_size = filter_size
        widths = [width * 2**scale for scale in range(4)]
        self.cond_head, self.cond_first = _stem(3, width), _two_blocks(width)
        self.k_head, self.k_first = _stem(3 + len(psf_code), width), _two_blocks(width)
        for scale, channels in enumerate(widths):
            self.add_module(f"CondNet{scale}", _head(width, channels, halvings=scale))
            self.add_module(f"KNet{scale}", _head(width, channels * filter_size**2, halvings=scale))
        self.conv_first = _stem(3, width)
        for scale, channels in enumerate(widths[:-1]):
            self.add_module(f"enconv_layer{scale}", Stage(channels, depths[scale]))
            self.add_module(f"down_conv{scale}", nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1))
            self.add_module(f"up_conv{scale}", _up(2 * channels, channels))
            self.add_module(f"deconv_layer{scale}", Stage(channels, depths[6 - scale]))
        self.Bottom_conv = Stage(widths[-1], depths[3])
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def to_network(self, image: Tensor) -> Tensor:
        """Tone-mapped to linear radiance, in float32 because bfloat16 knows no number between 0.996 and white.

        White, 1.0, would be infinite light: what is brighter than 500 counts as 500, as in the data set, but keeps the
        gradient at 500. A plain clamp would hide saturated pixels from an attacker, who can darken them.
        """
        t = image.to(torch.promote_types(image.dtype, torch.float32))
        t = t - (t - WHITE).clamp_min(0.0).detach()
        return (KNEE * t / (1.0 - t)).to(image.dtype)

    def from_network(self, image: Tensor) -> Tensor:
        return tone_map(image.to(torch.promote_types(image.dtype, torch.float32))).to(image.dtype)

    def network_forward(self, image: Tensor) -> Tensor:
        """Linear radiance (B, 3, H, W) to the same, sides a multiple of eight."""
        condition = self.cond_first(self.cond_head(image))
        kernel = self.k_first(self.k_head(torch.cat([image, spread_code(self.config["psf_code"], image)], dim=1)))
        x, conditions, skips = self.conv_first(image), [], []
        for scale in range(3):
            conditions.append(self._part("CondNet", scale)(condition))
            x = self._part("enconv_layer", scale)(x, conditions[scale])
            skips.append(self._filtered(x, kernel, scale))
            x = self._part("down_conv", scale)(x)
        x = self.Bottom_conv(x, self._part("CondNet", 3)(condition)) + self._filtered(x, kernel, 3)
        for scale in (2, 1, 0):
            x = self._part("up_conv", scale)(x) + skips.pop()
            x = self._part("deconv_layer", scale)(x, conditions.pop())
        return F.relu(image + self.conv_last(x))

    def _part(self, name: str, scale: int) -> nn.Module:
        return self.get_submodule(f"{name}{scale}")

    def _filtered(self, feature: Tensor, kernel: Tensor, scale: int) -> Tensor:
        *hidden, predict = self._part("KNet", scale).children()
        return dynamic_filter(feature, nn.Sequential(*hidden)(kernel), predict, nn.Identity(), size=self.filter_size)


class Stage(nn.ModuleList):
    """Blocks that share a condition."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(ModulatedBlock(width) for _ in range(depth))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        for block in self:
            x = block(x, condition)
        return x


class ModulatedBlock(nn.Module):
    """A residual block with a modulation before each convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sft1, self.sft2 = Modulation(width), Modulation(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        y = F.leaky_relu(self.conv1(self.sft1(x, condition)), SLOPE)
        return x + self.conv2(self.sft2(y, condition))


class Modulation(nn.Module):
    """Spatial feature transform (arXiv 1804.02815): x · (scale + 1) + shift, both from the condition, per pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.SFT_scale_conv0 = nn.Conv2d(width, MODULATION_WIDTH, 1)
        self.SFT_scale_conv1 = nn.Conv2d(MODULATION_WIDTH, width, 1)
        self.SFT_shift_conv0 = nn.Conv2d(width, MODULATION_WIDTH, 1)
        self.SFT_shift_conv1 = nn.Conv2d(MODULATION_WIDTH, width, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale = self.SFT_scale_conv1(F.leaky_relu(self.SFT_scale_conv0(condition), SLOPE))
        shift = self.SFT_shift_conv1(F.leaky_relu(self.SFT_shift_conv0(condition), SLOPE))
        return x * (scale + 1.0) + shift


def _stem(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(SLOPE))


def _two_blocks(width: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(width), ResidualBlock(width))


def _head(width: int, out: int, *, halvings: int) -> nn.Sequential:
    """Three convolutions, the first `halvings` of them 3×3 with stride two, the others 1×1; a last 1×1 to `out`."""
    layers: list[nn.Module] = []
    for index in range(3):
        size, stride = (3, 2) if index < halvings else (1, 1)
        layers += [nn.Conv2d(width, width, size, stride, padding=size // 2), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers, nn.Conv2d(width, out, 1))


def _up(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, 4 * after, 3, padding=1), nn.PixelShuffle(2))
