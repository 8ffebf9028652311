"""What an attack made on a surrogate does to its target, beside a white-box attack and random noise of that size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from udc_defense.attacks.pgd import pgd
from udc_defense.attacks.random_noise import random_noise
from udc_defense.images import quantize, quantize_towards
from udc_defense.metrics import psnr
from udc_defense.noise import seeded

Row = dict[str, float]


def transfer_row(
    target: Callable[[Tensor], Tensor],
    surrogate: nn.Module,
    captured: Tensor,
    clean: Tensor,
    *,
    eps: float,
    steps: int,
    seed: int,
) -> Row:
    """PSNR in dB of what the target makes of one capture, on the grid of an 8-bit file, and of its attacked copies.

    Args:
        target: asked once for each number; its gradient is used where it is a module, for `white_box`.
        surrogate: what PGD differentiates for `transferred`.
        captured: (1, 3, H, W).
        clean: ground truth, same shape.
        eps: L∞ radius, in the values of the capture.
        steps: of PGD.
        seed: of its random start and of the noise.

    Returns:
        clean, noise (random signs), transferred and, of a module, white_box.
    """
    captured = quantize(captured)
    images = {
        "clean": captured,
        "noise": random_noise(surrogate, captured, clean, eps=eps, generator=seeded(seed)).image,
    }
    models = {"transferred": surrogate} | ({"white_box": target} if isinstance(target, nn.Module) else {})
    for name, model in models.items():
        images[name] = pgd(model, captured, clean, eps=eps, steps=steps, generator=seeded(seed)).image
    with torch.no_grad():
        return {name: float(psnr(target(quantize_towards(x, captured)), clean)) for name, x in images.items()}


def transfer_success(rows: Sequence[Row]) -> dict[str, float]:
    """Mean PSNR of each kind, and the share of the white-box attack's drop that the transferred one reaches."""
    means = {name: fmean(row[name] for row in rows) for name in rows[0]}
    if "white_box" in means:
        means["share"] = (means["clean"] - means["transferred"]) / (means["clean"] - means["white_box"])
    return means
