"""Networks in bfloat16 where that is enough: faster, where the hardware has it (benchmarks/bfloat16_attacks.py)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class InBfloat16(nn.Module):
    """A model whose layers compute in bfloat16, as autocast has it; weights, inputs and output are float32.

    Args:
        model: (B, 3, H, W) -> images.
        gradients_only: whatever is computed without a gradient stays float32. So an attack searches in bfloat16 and
            what it finds is judged as ever.
    """

    def __init__(self, model: nn.Module, *, gradients_only: bool = False) -> None:
        super().__init__()
        self.model, self.gradients_only = model, gradients_only

    def forward(self, image: Tensor) -> Tensor:
        enabled = torch.is_grad_enabled() or not self.gradients_only
        with torch.autocast(image.device.type, torch.bfloat16, enabled=enabled):
            return self.model(image).float()
