"""What a guide is, and the gradient step that those with a distance share.

Such a guide takes exp(-s N D) for how likely x_t is given the input, D being a mean over the N values of a sample, and
adds its score to the network's: ε̂' = ε̂ + s N √(1 - ᾱ_t) ∇_{x_t} D (classifier guidance, arXiv 2105.05233, eq. 14). With
N a strength means the same on images of every size. The step is an explicit one: far too strong, it overshoots.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from udc_defense.diffusion import Diffusion
from udc_defense.errors import SettingError
from udc_defense.registry import Registry
from udc_defense.tensors import check_gradients_possible


class Guide(nn.Module):
    """Prediction to guided prediction; one that knows no distance overrides `forward`, others `distance`.

    A sample's guidance depends on that sample alone. Nothing is drawn at random.

    Attributes:
        name: in the registry.
        strongest: the highest strength; the lowest is 0, no guidance.
    """

    name: ClassVar[str]
    strongest: ClassVar[float] = math.inf

    def reference(self, image: Tensor) -> Tensor:
        """What the guide needs of the input, computed once per image.

        Args:
            image: the input (B, 3, H, W) in the network's range, [-1, 1].
        """
        return image

    def distance(self, clean: Tensor, reference: Tensor) -> Tensor:
        """D of x̂₀ (B, 3, H, W) in [-1, 1] to the reference, (B,); a mean, whatever the size of the image."""
        raise NotImplementedError

    def forward(
        self, diffusion: Diffusion, x: Tensor, t: int, epsilon: Tensor, reference: Tensor, *, strength: float
    ) -> Tensor:
        """ε̂' of ε̂, both (B, 3, H, W) in the dtype of x; differentiable, by x and by the input.

        ∂x̂₀/∂x_t is taken for 1/√ᾱ_t: the network's Jacobian is left out, which would cost a pass backwards.

        Args:
            diffusion: the schedule.
            x: x_t, (B, 3, H, W).
            t: timestep.
            epsilon: ε̂ of x_t, (B, 3, H, W).
            reference: of the input, what `reference` gave.
            strength: s, above 0.
        """
        gradient = gradient_of(self.distance, diffusion.clean(x, t, epsilon), reference)
        return steered(diffusion, t, epsilon, gradient / diffusion.level(t) ** 0.5, strength=strength)


def steered(diffusion: Diffusion, t: int, epsilon: Tensor, gradient: Tensor, *, strength: float) -> Tensor:
    """ε̂' from N ∇_{x_t} D (B, 3, H, W)."""
    return epsilon + strength * (1 - diffusion.level(t)) ** 0.5 * gradient


def gradient_of(distance: Callable[[Tensor, Tensor], Tensor], clean: Tensor, reference: Tensor) -> Tensor:
    """N times the gradient of D by x̂₀, (B, 3, H, W).

    Where gradients are recorded it is differentiable in turn, for an exact attack; elsewhere it needs them for itself.
    """
    check_gradients_possible()
    exact = torch.is_grad_enabled() and (clean.requires_grad or reference.requires_grad)
    with torch.enable_grad():
        point = clean if exact and clean.requires_grad else clean.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(distance(point, reference).sum(), point, create_graph=exact)
    return gradient * clean[0].numel()


GUIDES: Registry[type[Guide]] = Registry("udc_defense.guides", "guide", helpers=("base", "encoder"))


def register(name: str) -> Callable[[type[Guide]], type[Guide]]:
    """Decorator: put a guide into the registry; made by name, it is made without arguments."""

    def keep(method: type[Guide]) -> type[Guide]:
        method.name = name
        return GUIDES.register(name)(method)

    return keep


def check_guidance(guide: Guide | None, strength: float) -> None:
    """Refuse a strength that the guide cannot have; without a guide, one that none can.

    Raises:
        SettingError: the guide is none, or the strength is out of range.
    """
    if not isinstance(guide, Guide | None):
        raise SettingError(f"guide {type(guide).__name__} is no Guide.")
    if not 0 <= strength < math.inf:  # false for NaN, too
        raise SettingError(f"guidance {strength} is negative or not finite.")
    if guide is not None and strength > guide.strongest:
        raise SettingError(f"guidance {strength} is not in 0…{guide.strongest:g}, the range of {guide.name!r}.")
