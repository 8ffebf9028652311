"""Mean squared error to the diffused input (GDMP, arXiv 2205.14969)."""

from __future__ import annotations

from torch import Tensor

from udc_defense.diffusion import Diffusion
from udc_defense.guides.base import Guide, register, steered


@register("mse")
class Mse(Guide):
    """Pull x_t towards the input diffused to the same t.

    GDMP draws the noise of the diffused input anew at every step. Here D is the mean over that noise: the mean of
    (x_t - √ᾱ_t y)² over the values, plus 1 - ᾱ_t, for the input y. Its gradient, 2 (x_t - √ᾱ_t y) / N, is what theirs
    is on average, without their noise.

    A strength s is a Gaussian likelihood of x_t around √ᾱ_t y with the variance 1 / (2 s), in the network's range. The
    gradient holds the noise of x_t, too: where 2 s (1 - ᾱ_t) nears 1, at s = 40 for t = 30 of DDPM's linear schedule,
    guidance alone removes all of it, and above it overshoots.
    """

    def forward(
        self, diffusion: Diffusion, x: Tensor, t: int, epsilon: Tensor, reference: Tensor, *, strength: float
    ) -> Tensor:
        """ε̂' = ε̂ + 2 s √(1 - ᾱ_t) (x_t - √ᾱ_t y); linear."""
        gradient = 2 * (x - diffusion.level(t) ** 0.5 * reference)
        return steered(diffusion, t, epsilon, gradient, strength=strength)
