"""A restorer that knows the display: it estimates clipped lights, deconvolves in linear light, and mends the rest.

1. Where the capture is clipped, the light is unknown, and its flare cannot be subtracted. A small U-Net on the halved
   capture reads it from the flare that is left after a Wiener filter, tries it, and looks again (`passes` times).
2. The declipped capture goes through Wiener filters of two strengths, learned as multiples of the display's noise.
3. A U-Net sees the capture, both results and what was clipped, weighs them per pixel and adds a residual.

Steps 1 and 2 filter the whole image by FFT; the networks run in tiles. Without a display the PSF is one pixel, the
filters do nothing, and the network restores blindly. The blocks are those of the gated U-Net.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from udc_defense.imaging import inverse_tone_map
from udc_defense.restorers import register
from udc_defense.restorers.gated_unet import gated_stage, start_near_identity, through_scales
from udc_defense.restorers.physics import (
    OpticsRestorer,
    clipped_share,
    halved_psf,
    signed_tone_map,
    wiener,
)
from udc_defense.tensors import check_image
from udc_defense.tiles import apply_tiled, pad_to_multiple

STRENGTHS = (1.5, 15.0)  # of the Wiener filters, in multiples of the display's noise, before training
LEAST_NOISE = 1e-4
MAX_EXCESS = 5.0  # a light is at most e⁵ times brighter than saturation


@register("wiener_unet")
class WienerUNet(OpticsRestorer):
    """`widths` and blocks of the U-Net over scales 1/2, 1/4, …, and of the small one that estimates clipped lights."""

    stride = 32

    @register_to_config
    def __init__(
        self,
        widths: Sequence[int] = (32, 48, 72, 128),
        encoder: Sequence[int] = (1, 1, 2, 2),
        decoder: Sequence[int] = (1, 1, 1),
        light_widths: Sequence[int] = (16, 32, 64),
        light_encoder: Sequence[int] = (1, 1, 2),
        light_decoder: Sequence[int] = (1, 1),
        passes: int = 2,
    ) -> None:
        super().__init__()
        self.multiple = 2 * 2 ** max(len(widths) - 1, len(light_widths))
        self.passes = passes
        self.lights = UNet(12, 3, light_widths, light_encoder, light_decoder)
        self.unet = UNet(12, 5, widths, encoder, decoder)
        self.strengths = nn.Parameter(torch.tensor(STRENGTHS).log())
        self.light_strength = nn.Parameter(torch.tensor(STRENGTHS[1]).log())

    def forward(self, image: Tensor) -> Tensor:
        """Capture (B, 3, H, W) to restored image, both tone-mapped. Nothing is clamped; metrics and files clamp."""
        restored, _ = self.with_lights(image)
        return restored

    def with_lights(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The restored image, and the log of light over saturation that it supposes: (B, 3, H/2, W/2), padded."""
        check_image(image, "the capture")
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image.float(), self.multiple)
        with torch.autocast(image.device.type, enabled=False):
            light, clipped = inverse_tone_map(padded), clipped_share(padded, self.saturation.float())
        excess = self._excess(light, clipped)
        with torch.autocast(image.device.type, enabled=False):
            noise = self.noise.float() + LEAST_NOISE
            declipped = torch.lerp(light, self._radiance(F.interpolate(excess, scale_factor=2)), clipped)
            filters = wiener(
                declipped, self.psf.float(), [noise * strength for strength in self.strengths.float().exp()]
            )
            seen = torch.cat([padded, *map(signed_tone_map, filters), clipped], dim=1)
        del light, declipped, filters, clipped
        restored = apply_tiled(self._mend, seen, size=self.tile_size, overlap=self.tile_overlap, stride=self.stride)
        return restored[..., :height, :width].to(image.dtype), excess

    def _radiance(self, excess: Tensor) -> Tensor:
        return self.saturation.float() * excess.exp()

    def _excess(self, light: Tensor, clipped: Tensor) -> Tensor:
        """Log of light over saturation where clipped, on the grid of half the size; 0 elsewhere."""
        with torch.autocast(light.device.type, enabled=False):
            light, clipped = F.avg_pool2d(light, 2), F.avg_pool2d(clipped, 2)
            psf, strength = halved_psf(self.psf.float()), self.noise.float() + LEAST_NOISE
            strength = strength * self.light_strength.float().exp()
        excess, logit = torch.zeros_like(light), torch.full_like(light, -2.0)
        tiled = partial(apply_tiled, size=self.tile_size // 2, overlap=self.tile_overlap, stride=self.stride)
        for _ in range(self.passes):
            with torch.autocast(light.device.type, enabled=False):
                # Averaging 2×2 mixes light that is clipped with light that is not: the known part stays.
                declipped = light + clipped * (self._radiance(excess) - self.saturation.float())
                (filtered,) = wiener(declipped, psf, [strength])
                seen = torch.cat([signed_tone_map(light), signed_tone_map(filtered), clipped, excess], dim=1)
            logit = logit + tiled(self._look, seen).float()
            excess = F.softplus(logit).clamp_max(MAX_EXCESS) * (clipped > 0)
        return excess

    def _look(self, seen: Tensor) -> Tensor:
        return self.lights(seen.to(self.lights.stem.weight.dtype))

    def _mend(self, seen: Tensor) -> Tensor:
        """Weigh capture and filter results per pixel, and add a residual."""
        capture, weak, strong = seen[:, 0:3], seen[:, 3:6], seen[:, 6:9]
        out = self.unet(seen.to(self.unet.stem.weight.dtype)).float()
        first, second = out[:, 3:4] + 0.4, out[:, 4:5] + 0.4
        return first * weak + second * strong + (1 - first - second) * capture + out[:, :3]


class UNet(nn.Module):
    """A U-Net of gated blocks on 2×2 blocks of pixels: (B, inputs, H, W) -> (B, outputs, H, W)."""

    def __init__(
        self, inputs: int, outputs: int, widths: Sequence[int], encoder: Sequence[int], decoder: Sequence[int]
    ) -> None:
        super().__init__()
        scales = list(zip(widths, widths[1:], strict=False))
        self.stem = nn.Conv2d(4 * inputs, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(gated_stage(width, count) for width, count in zip(widths, encoder, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in scales)
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in scales)
        self.decoder = nn.ModuleList(
            gated_stage(width, count) for (width, _), count in zip(scales, decoder, strict=True)
        )
        self.head = nn.Conv2d(widths[0], 4 * outputs, 3, padding=1)
        start_near_identity(self)

    def forward(self, image: Tensor) -> Tensor:
        return through_scales(self, image)
