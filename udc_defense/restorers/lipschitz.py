"""A restorer that no attack can push far: its gain in ℓ2 has a bound by construction, and the bound is a number.

The capture goes through steps of gradient flow on a pyramid of orthonormal Haar transforms (`lipschitz_layers`). For
every change δ of a capture x at most L‖δ‖₂ comes out, at any size; so where |δ| ≤ ε at each value, the RMSE to
whatever image grows by at most L ε.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from udc_defense.errors import CheckpointError
from udc_defense.restorers import register
from udc_defense.restorers.base import Restorer
from udc_defense.restorers.lipschitz_layers import LipschitzNetwork
from udc_defense.tiles import apply_cut


@register("lipschitz")
class LipschitzRestorer(Restorer):
    """‖f(x) - f(y)‖₂ ≤ `lipschitz_bound` · ‖x - y‖₂ for all captures x, y of one size. Needs no PSF. Unbounded output.

    All that is done is part of the bound: captures are padded by zeros to a multiple of the coarsest grid, and cut
    again; large ones go through in tiles, of which only values are kept that the whole image would have.

    Args:
        gain: factor of the capture before layers of a gain of at most 1.
        widths, hidden, sent, steps: of the scales, see `lipschitz_layers.Scale`.
        certified: the bound that the weights keep; weights that do not are refused when they are loaded. None for
            weights of which nothing is promised.
    """

    tile_size = 2048

    @register_to_config
    def __init__(
        self,
        gain: float = 1.5,
        widths: Sequence[int] = (24, 64, 96, 128),
        hidden: Sequence[int] = (24, 64, 64, 64),
        sent: Sequence[int] = (16, 16, 24),
        steps: Sequence[int] = (2, 2, 3, 3),
        certified: float | None = None,
    ) -> None:
        super().__init__()
        self.network = LipschitzNetwork(gain, widths, hidden, sent, steps)
        self.multiple = self.network.multiple
        self._bound: tuple[tuple[int, ...], float] | None = None

    @property
    def lipschitz_bound(self) -> float:  # type: ignore[override]
        """Computed from the weights in float64, once for each state of them; seconds."""
        state = tuple(parameter._version for parameter in self.parameters())
        if self._bound is None or self._bound[0] != state:
            self._bound = state, self.network.lipschitz()
        return self._bound[1]

    def check(self) -> None:
        """Compute the bound of the weights.

        Raises:
            CheckpointError: it is larger than the certified one.
        """
        promised = self.config["certified"]
        if promised is not None and not self.lipschitz_bound <= promised:
            raise CheckpointError(f"its weights have a gain of up to {self.lipschitz_bound:.6g}, not {promised:.6g}.")

    def constrain(self) -> None:
        """A step of training leaves convolutions of any norm; scale them back."""
        self.network.project()

    def save_pretrained(self, *arguments: Any, **options: Any) -> None:
        """As diffusers does; the configuration promises the bound that the weights have."""
        self.register_to_config(certified=self.lipschitz_bound)
        super().save_pretrained(*arguments, **options)

    def forward(self, image: Tensor) -> Tensor:
        """Capture (B, 3, H, W) to restored image, both tone-mapped. Nothing is clamped; metrics and files clamp."""
        halo = self.network.reach
        kept = max(self.tile_size - 2 * halo, halo) // self.multiple * self.multiple
        return apply_cut(self._whole, image, size=kept, halo=halo)

    def _whole(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple))
        return self.network_forward(padded)[..., :height, :width]

    def network_forward(self, image: Tensor) -> Tensor:
        """Tone-mapped values (B, 3, H, W), sides a multiple of `multiple`."""
        return self.network(image)
