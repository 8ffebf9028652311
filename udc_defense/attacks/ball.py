"""Where a perturbation may be: a ball around the image, cut by [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from udc_defense.attacks.base import per_sample
from udc_defense.errors import SettingError
from udc_defense.noise import uniform

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Ball:
    """All images within a distance of the image and within [0, 1].

    Attributes:
        image: the centre, (B, 3, H, W).
        radius: (B, 1, 1, 1); of each value (`linf`), or root mean square over the image (`l2`).
        norm: `linf` or `l2`.
    """

    image: Tensor
    radius: Tensor
    norm: Norm = "linf"

    @classmethod
    def around(cls, image: Tensor, eps: float | Tensor, norm: Norm = "linf") -> Ball:
        """The ball of a radius, or of one per sample.

        Raises:
            SettingError: the radius is negative or not finite, or the norm unknown.
        """
        if norm not in get_args(Norm):
            raise SettingError(f"norm {norm!r} is neither linf nor l2.")
        return cls(image, per_sample(eps, image, "eps"), norm)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the ball, then of the box: clamping never leaves a ball whose centre is in the box."""
        return (self.image + self.shorten(x - self.image)).clamp(0, 1)

    def shorten(self, delta: Tensor) -> Tensor:
        """The nearest perturbation of the ball, whatever the box."""
        if self.norm == "linf":
            return delta.clamp(-self.radius, self.radius)
        return delta * (self.radius / rms(delta)).clamp_max(1.0)

    def start(self, generators: list[torch.Generator]) -> Tensor:
        """A random point: where the reference is the model's own output, the gradient at the image itself is zero."""
        return self.project(self.image + uniform(self.image, generators) * self.radius)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of size 1 in this norm that climbs most: the sign in L∞, the scaled gradient in L2."""
        return gradient.sign() if self.norm == "linf" else gradient / rms(gradient)


def rms(values: Tensor) -> Tensor:
    """Root mean square per sample, (B, 1, 1, 1); never zero, so that it can divide."""
    return values.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp_min(1e-20) / values[0].numel() ** 0.5
