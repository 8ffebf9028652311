"""A smooth perturbation that stays similar to the capture (after the low-frequency attack of arXiv 2411.16598)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from udc_defense.attacks.base import AttackResult, per_sample, register
from udc_defense.attacks.objectives import Objective, mse
from udc_defense.attacks.search import Search
from udc_defense.dct import dct_matrix
from udc_defense.errors import SettingError
from udc_defense.metrics import ssim
from udc_defense.noise import Generators, split, uniform

HALVINGS = 8


@register("low_frequency")
def low_frequency(
    model: nn.Module,
    image: Tensor,
    reference: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 20,
    objective: Objective = mse,
    draws: int = 1,
    generator: Generators = None,
    band: float = 0.125,
    min_ssim: float = 0.9,
) -> Iterator[AttackResult]:
    """Maximise the objective over δ of low frequencies, bounded in L∞ and by the similarity to the capture.

    A purifier removes high frequencies first; what is left of an attack on it is smooth. Steps go along the low-passed
    gradient, ε/4 at its greatest value. A δ that is too large is scaled, not cut: cutting would bring high frequencies
    back. Only [0, 1] cuts it.

    Args:
        model: captures -> images, differentiable.
        image: captures (B, 3, H, W) in [0, 1].
        reference: what damage is measured against, same shape.
        eps: radius of each value, or one per sample.
        steps: gradient steps.
        objective: loss per sample, maximised.
        draws: of the model's own noise, averaged per gradient.
        generator: of the random start, one or one per sample.
        band: share of the DCT frequencies of each axis that δ may have, the lowest, in (0, 1].
        min_ssim: the least SSIM between the attacked capture and the capture, in 0…1; 0 leaves ε alone.

    Raises:
        SettingError: an argument is out of range, or the model cannot be attacked so.
    """
    search = Search(model, image, reference, objective, draws, steps)
    low_pass, bound = _LowPass(image, band), _Bound(image, per_sample(eps, image, "eps"), min_ssim)
    noise = uniform(image, split(generator, len(image), 1)[0])
    delta = bound.scale(bound.radius * _to_unit(low_pass(noise)))
    for step in range(1, steps + 1):
        _, gradient = search.gradient(bound.attacked(delta))
        delta = bound.scale(delta + bound.radius / 4 * _to_unit(low_pass(gradient)))
        if step == steps:
            search.loss(bound.attacked(delta))
        yield search.result(step)


class _LowPass:
    """The projection onto the lowest frequencies; at least the mean is kept."""

    def __init__(self, image: Tensor, band: float) -> None:
        if not 0 < band <= 1:
            raise SettingError(f"band {band:g} is not in 0…1, 0 excluded.")
        rows, columns = (dct_matrix(size, image)[: math.ceil(band * size)] for size in image.shape[-2:])
        self.rows, self.columns = rows.T @ rows, columns.T @ columns

    def __call__(self, values: Tensor) -> Tensor:
        return self.rows @ values @ self.columns


class _Bound:
    """How large δ may be, per sample."""

    def __init__(self, image: Tensor, radius: Tensor, min_ssim: float) -> None:
        if not 0 <= min_ssim <= 1:
            raise SettingError(f"min_ssim {min_ssim:g} is not in 0…1.")
        self.image, self.radius, self.min_ssim = image, radius, min_ssim

    def attacked(self, delta: Tensor) -> Tensor:
        return (self.image + delta).clamp(0, 1)

    def scale(self, delta: Tensor) -> Tensor:
        """The largest multiple of δ, at most itself, within both bounds; of the similarity's by bisection."""
        delta = delta * (self.radius / _greatest(delta)).clamp_max(1)
        similar = self._is_similar(delta)
        if bool(similar.all()):
            return delta
        low, high = similar.to(delta), torch.ones_like(self.radius)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            similar = self._is_similar(middle * delta)
            low, high = torch.where(similar, middle, low), torch.where(similar, high, middle)
        return low * delta

    def _is_similar(self, delta: Tensor) -> Tensor:
        return (ssim(self.attacked(delta), self.image) >= self.min_ssim).view(-1, 1, 1, 1)


def _greatest(values: Tensor) -> Tensor:
    """Greatest magnitude per sample, (B, 1, 1, 1); never zero, so that it can divide."""
    return values.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-20)


def _to_unit(values: Tensor) -> Tensor:
    return values / _greatest(values)
