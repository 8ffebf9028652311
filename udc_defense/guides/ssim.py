"""Structural similarity to the input (GDMP, arXiv 2205.14969)."""

from __future__ import annotations

import torch
from torch import Tensor

from udc_defense.guides.base import Guide, register
from udc_defense.metrics import unclamped_ssim


@register("ssim")
class Ssim(Guide):
    """Raise the similarity of x̂₀ to the input: D = -SSIM.

    GDMP compares x_t with the diffused input, whose noise outweighs all structure at larger t; here neither has any. It
    needs memory for some 25 images of the input's size, the maps of SSIM and their gradient.
    """

    def distance(self, clean: Tensor, reference: Tensor) -> Tensor:
        """-SSIM, (B,), of the values in [0, 1], at least in single precision: its variances are small differences."""
        precision = torch.promote_types(clean.dtype, torch.float32)
        return -unclamped_ssim((clean.to(precision) + 1) / 2, (reference.to(precision) + 1) / 2)
