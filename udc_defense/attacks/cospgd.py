"""CosPGD (arXiv 2302.02213): PGD that weights each pixel by how right it still is, in L∞ and in L2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from udc_defense.attacks.ball import Norm
from udc_defense.attacks.base import AttackResult, register
from udc_defense.attacks.objectives import Objective, mse
from udc_defense.attacks.pgd import pgd
from udc_defense.errors import SettingError
from udc_defense.noise import Generators

# Root mean square error of a pixel, of values in 0…1, at which its weight `error` has fallen to 1/e.
SCALE = 0.1


@register("cospgd")
def cospgd(
    model: nn.Module,
    image: Tensor,
    reference: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 20,
    norm: Norm = "linf",
    draws: int = 1,
    generator: Generators = None,
    weight: Literal["softmax", "error"] = "softmax",
) -> Iterator[AttackResult]:
    """Maximise the mean squared error by gradients that weight the pixels; step size ε/4, random start.

    Losses and the best iterate are by the plain mean squared error.

    Args:
        model: captures -> images, differentiable.
        image: captures (B, 3, H, W) in [0, 1].
        reference: what damage is measured against, same shape.
        eps: radius, or one per sample: of each value (`linf`), or root mean square over the image (`l2`).
        steps: gradient steps.
        norm: `linf` (sign steps) or `l2` (steps along the gradient).
        draws: of the model's own noise, averaged per gradient.
        generator: of the random starts, one or one per sample.
        weight: of a pixel. `softmax` is the paper's, the cosine between the softmax over RGB of output and reference;
            for values in 0…1 it lies in 0.67…1 and hardly varies, so that little distinguishes it from PGD. `error`
            falls from 1 towards 0 with the pixel's squared error: effort goes to pixels that are still right.

    Raises:
        SettingError: an argument is out of range, or the model cannot be attacked so.
    """
    objective = weighted(weight)
    yield from pgd.iterate(
        model,
        image,
        reference,
        eps=eps,
        steps=steps,
        objective=objective,
        norm=norm,
        draws=draws,
        generator=generator,
    )


def weighted(weight: str) -> Objective:
    """An objective with the value of the mean squared error and the gradient of its weighted form.

    Raises:
        SettingError: no weight has that name.
    """
    if weight not in WEIGHTS:
        raise SettingError(f"weight {weight!r} is not one of {', '.join(WEIGHTS)}.")

    def objective(output: Tensor, reference: Tensor) -> Tensor:
        # Reduced over channels first: weights of (B, H, W) would line B up with C in a map of (B, C, H, W).
        weights = WEIGHTS[weight](output, reference).detach()
        slope = (weights * _squared_error(output, reference)).flatten(1).mean(dim=1)
        # Parentheses: the difference is exactly 0, so that the value is exactly the plain error.
        return mse(output, reference).detach() + (slope - slope.detach())

    return objective


def softmax_weight(output: Tensor, reference: Tensor) -> Tensor:
    """Cosine between the softmax over channels of both, (B, H, W)."""
    return F.cosine_similarity(output.softmax(dim=1), reference.softmax(dim=1), dim=1)


def error_weight(output: Tensor, reference: Tensor) -> Tensor:
    """exp(-e/s²) of the squared error e, (B, H, W); relative to the sample's most right pixel, whose weight is 1.

    The common factor changes no direction of ascent. Without it all weights, and so the gradient, would be zero in
    float32 where every pixel is far off.
    """
    error = _squared_error(output, reference)
    return ((error.amin(dim=(1, 2), keepdim=True) - error) / SCALE**2).exp()


WEIGHTS = {"softmax": softmax_weight, "error": error_weight}


def _squared_error(output: Tensor, reference: Tensor) -> Tensor:
    """Mean over channels, (B, H, W)."""
    return (output - reference).square().mean(dim=1)
