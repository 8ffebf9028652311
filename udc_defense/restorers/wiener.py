"""The textbook restorer: one Wiener filter with the panel's PSF, in linear light. No training, no weights."""

from __future__ import annotations

from diffusers.configuration_utils import register_to_config
from torch import Tensor

from udc_defense.restorers import register
from udc_defense.restorers.physics import OpticsRestorer, signed_light, signed_tone_map, wiener
from udc_defense.tensors import check_image


@register("wiener")
class WienerRestorer(OpticsRestorer):
    """φ(F⁻¹[F(φ⁻¹(y)) · H̄ (1 + λ) / (|H|² + λ)]), φ the tone map; the identity until `for_panel`.

    Gonzalez and Woods, Digital Image Processing, eq. 5.8-6, with a factor that keeps the mean. Clipped light counts as
    what it was clipped to, so the flare of lamps stays.

    Args:
        strength: λ, the power of noise over that of the scene. 0.003 is best on clean captures of `axon20`, 0.03 and
            more under attack.
    """

    @register_to_config
    def __init__(self, strength: float = 0.003) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, image: Tensor) -> Tensor:
        """Capture (B, 3, H, W) to restored image, both tone-mapped; the filter sees the whole image at any size."""
        check_image(image, "the capture")
        weight = self.saturation.new_full((3, 1, 1), self.strength).float()
        (light,) = wiener(signed_light(image.float()), self.psf.float(), [weight])
        return signed_tone_map(light).to(image.dtype)
