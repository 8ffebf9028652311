"""DISCNet: skip connections filtered pixel by pixel, with filters predicted from the image and a code of the PSF.

Feng et al., CVPR 2021, arXiv 2104.09556. State dicts of the official repository fit, `jnjaby/DISCNet` (its README says
MIT, its packaging Apache-2.0); none of its code was used. One display has one code, so the code is configuration and
not an input. Only the published variant exists: filters at all three scales, from image and code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from udc_defense.restorers import register
from udc_defense.restorers.base import Restorer

# Five PCA coefficients of a measured PSF of the data set's phone, the one that UDC-UNet (MIT) publishes.
PSF_CODE = (-0.0020, 0.0352, -2.0215e-05, 0.0060, 9.4328e-05)
SLOPE = 0.2  # of every leaky ReLU, and what a PReLU starts at


@register("discnet")
class DISCNet(Restorer):
    """Published at 800×800 on tone-mapped captures, this project's own domain; unbounded output.

    Args:
        width: channels at full size, doubled at each of the two coarser scales.
        filter_size: side k of the predicted filters, odd.
        psf_code: the display's code; the default is one of the published phone's nine.
    """

    stride = 4
    tile_size = 800  # as published; 0.75 GB of memory

    @register_to_config
    def __init__(self, width: int = 32, filter_size: int = 5, psf_code: Sequence[float] = PSF_CODE) -> None:
        super().__init__()
        fine, middle, coarse = width, 2 * width, 4 * width
        self.filter_size = filter_size
        self._add_encoder("conv", (3, fine, middle, coarse))
        self._add_encoder("kconv", (3 + len(psf_code), fine, middle, coarse))
        self.dynamic_kernel1 = _filter_head(fine, filter_size)
        self.dynamic_kernel2 = _filter_head(middle, filter_size)
        self.dynamic_kernel = _filter_head(coarse, filter_size)
        self.upconv_21 = _up(coarse, middle)
        self.upconv_22, self.upconv_23 = ResidualBlock(middle), ResidualBlock(middle)
        self.upconv_11 = _up(middle, fine)
        self.upconv_12, self.upconv_13 = ResidualBlock(fine), ResidualBlock(fine)
        self.final_conv = _conv(fine, 3, nn.LeakyReLU(SLOPE))

    def _add_encoder(self, prefix: str, widths: Sequence[int]) -> None:
        """Three scales of a convolution and two residual blocks: `PREFIX_11` … `PREFIX_33`."""
        for scale, (before, after) in enumerate(pairwise(widths), start=1):
            stem = _conv(before, after, nn.LeakyReLU(SLOPE), stride=1 if scale == 1 else 2)
            for part, module in enumerate((stem, ResidualBlock(after), ResidualBlock(after)), start=1):
                self.add_module(f"{prefix}_{scale}{part}", module)

    def _encode(self, prefix: str, x: Tensor) -> list[Tensor]:
        """Features at full, half and quarter size."""
        features = []
        for scale in (1, 2, 3):
            for part in (1, 2, 3):
                x = self.get_submodule(f"{prefix}_{scale}{part}")(x)
            features.append(x)
        return features

    def network_forward(self, image: Tensor) -> Tensor:
        """Tone-mapped (B, 3, H, W), any sides: the network pads by its edge to a multiple of four."""
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % 4, 0, -height % 4), mode="replicate")
        fine, middle, coarse = self._filtered_features(image)
        x = self.upconv_23(self.upconv_22(self.upconv_21(coarse) + middle))
        x = self.upconv_13(self.upconv_12(self.upconv_11(x) + fine))
        return (self.final_conv(x) + image)[..., :height, :width]

    def _filtered_features(self, image: Tensor) -> list[Tensor]:
        code = spread_code(self.config["psf_code"], image)
        heads = (self.dynamic_kernel1, self.dynamic_kernel2, self.dynamic_kernel)
        features, conditions = self._encode("conv", image), self._encode("kconv", torch.cat([code, image], dim=1))
        return [
            dynamic_filter(feature, head[:-1](condition), *head[-1].children(), size=self.filter_size)
            for feature, condition, head in zip(features, conditions, heads, strict=True)
        ]


class ResidualBlock(nn.Module):
    """x + conv(LReLU(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.leaky_relu(self.conv1(x), SLOPE))


def dynamic_filter(feature: Tensor, hidden: Tensor, predict: nn.Module, activation: nn.Module, *, size: int) -> Tensor:
    """Correlate every pixel of every channel with a filter of its own, activation(predict(hidden)).

    out[c, y, x] = Σ_ij K[c·k² + i·k + j, y, x] · F[c, y + i - (k-1)/2, x + j - (k-1)/2], F continued by its edge.

    All filters of an image take gigabytes: one tap (i, j) of all is computed at a time, and again for the gradient.

    Args:
        feature: F, (B, C, H, W).
        hidden: (B, D, H, W), what the filters are predicted from.
        predict: a 1×1 convolution of D to C·k² channels, the k² of one channel side by side.
        activation: applied to the filters value by value.
        size: k, odd.
    """
    height, width = feature.shape[-2:]
    padded = F.pad(feature, [size // 2] * 4, mode="replicate")
    weight, bias = (parameter.unflatten(0, (-1, size**2)) for parameter in predict.parameters())

    def tap(index: int) -> Tensor:
        row, column = divmod(index, size)
        kernel = activation(F.conv2d(hidden, weight[:, index], bias[:, index]))
        return kernel * padded[..., row : row + height, column : column + width]

    total = torch.zeros_like(feature)
    for index in range(size**2):
        total += checkpoint(tap, index, use_reentrant=False) if torch.is_grad_enabled() else tap(index)
    return total


def spread_code(code: Sequence[float], image: Tensor) -> Tensor:
    """A constant plane per number, (B, len(code), H, W)."""
    return image.new_tensor(code).view(1, -1, 1, 1).expand(image.shape[0], -1, *image.shape[-2:])


def _conv(before: int, after: int, activation: nn.Module, *, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, size, stride, padding=size // 2), activation)


def _up(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, 4 * after, 3, padding=1), nn.PixelShuffle(2), nn.LeakyReLU(SLOPE))


def _filter_head(width: int, size: int) -> nn.Sequential:
    """From the condition to filters; the last activation acts on the filters themselves."""
    return nn.Sequential(
        _conv(width, width, nn.PReLU(init=SLOPE)),
        ResidualBlock(width),
        ResidualBlock(width),
        _conv(width, width * size**2, nn.PReLU(init=SLOPE), size=1),
    )
