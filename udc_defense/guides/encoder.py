"""The auxiliary network of the guide `feature`: captures to a latent of which an attack moves little."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from udc_defense.restorers.gated_unet import GatedBlock
from udc_defense.tiles import pad_to_multiple


class GuideEncoder(ModelMixin, ConfigMixin):
    """Gated blocks over scales 1/2, 1/4, …; `widths` and `blocks` per scale.

    Smooth, since an exact attack differentiates it twice; local and without statistics of a batch, so that samples stay
    independent. A guide needs its gradient at every step: it starts at half the resolution to be cheap.
    """

    @register_to_config
    def __init__(self, widths: Sequence[int] = (16, 64), blocks: Sequence[int] = (1, 2)) -> None:
        super().__init__()
        self.multiple = 2 ** len(widths)
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, padding=1)]
        for scale, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            if scale > 0:
                layers.append(nn.Conv2d(widths[scale - 1], width, 2, stride=2))
            layers += [GatedBlock(width) for _ in range(count)]
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Captures (B, 3, H, W) in [0, 1], any H × W ≥ 1, to their latent (B, C, ⌈H / 4⌉, ⌈W / 4⌉) at two scales."""
        return self.layers(pad_to_multiple(image, self.multiple))
