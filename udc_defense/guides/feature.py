"""Distance in the latent of an auxiliary network (AGDM, arXiv 2403.16067, adapted to regression)."""

from __future__ import annotations

from torch import Tensor, nn

from udc_defense.guides.base import Guide, register


@register("feature")
class Feature(Guide):
    """Pull x̂₀ towards the input in features of which an attack moves little.

    AGDM guides a classifier's defense with an adversarially trained encoder, and has published no code. This is an
    adaptation to regression: the encoder's task is restoration (`training.guide`), and D is the mean squared difference
    of latents, whatever network gives them. It needs memory for that network's activations on the whole image, some 30
    images of the input's size for `GuideEncoder`.

    Args:
        encoder: captures (B, 3, H, W) in [0, 1] -> latent (B, …), differentiable twice for exact attacks; in evaluation
            mode, so that samples stay independent. It takes the sizes that the purifier is to take.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def reference(self, image: Tensor) -> Tensor:
        """The input's latent, (B, …)."""
        return self._latent(image)

    def distance(self, clean: Tensor, reference: Tensor) -> Tensor:
        """The mean squared difference of the latents, (B,)."""
        return (self._latent(clean) - reference).square().flatten(1).mean(dim=1)

    def _latent(self, image: Tensor) -> Tensor:
        weights = next(self.encoder.parameters(), image)
        return self.encoder(((image + 1) / 2).to(weights.dtype)).to(image)
