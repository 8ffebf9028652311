"""The iterative classic: Richardson and Lucy's maximum likelihood for counted light, without what is clipped.

W. H. Richardson (1972) and L. B. Lucy (1974); clipped pixels are left out as missing data.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from udc_defense.imaging import inverse_tone_map, tone_map
from udc_defense.restorers import register
from udc_defense.restorers.physics import OpticsRestorer, blurred, clipped_share
from udc_defense.tensors import check_image

DARKEST = 1e-4  # radiance: light is positive, and ratios of it stay finite


@register("richardson_lucy")
class RichardsonLucyRestorer(OpticsRestorer):
    """x ← x · Kᵀ(m · y / Kx) / Kᵀm in linear light, from the capture on; m is 0 where the capture is clipped.

    Knows that light is positive and that a clipped pixel says nothing but "at least": its estimate never falls below
    the saturation. The identity until `for_panel`.

    Args:
        iterations: 1 to 20; more iterations sharpen, and raise the noise.
    """

    @register_to_config
    def __init__(self, iterations: int = 10) -> None:
        super().__init__()
        self.iterations = iterations

    def forward(self, image: Tensor) -> Tensor:
        """Capture (B, 3, H, W) to restored image, both tone-mapped; the whole image at any size."""
        check_image(image, "the capture")
        psf, saturation = self.psf.float(), self.saturation.float()
        captured = inverse_tone_map(image.float()).clamp_min(DARKEST)
        known = 1 - clipped_share(image.float(), saturation)
        seen = blurred(known, psf, transposed=True).clamp_min(DARKEST)
        light = captured
        for _ in range(self.iterations):
            ratio = captured / blurred(light, psf).clamp_min(DARKEST)
            update = blurred(known * ratio, psf, transposed=True) / seen
            light = (light * update).clamp_min(DARKEST)
            light = torch.where(known < 1, torch.maximum(light, captured), light)
        return tone_map(light).to(image.dtype)
