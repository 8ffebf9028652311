"""The defense: purifier and restorer as one differentiable module."""

from __future__ import annotations

from torch import Tensor, nn

from udc_defense.noise import Generators
from udc_defense.tensors import check_image


class Defense(nn.Module):
    """restorer(purifier(capture)); without a purifier, the restorer alone.

    Args:
        restorer: capture -> restored image.
        purifier: capture -> purified capture, called with `generator`.
    """

    def __init__(self, restorer: nn.Module, purifier: nn.Module | None = None) -> None:
        super().__init__()
        self.restorer, self.purifier = restorer, purifier

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        """Captures (B, 3, H, W) in [0, 1] to restored images; `generator` draws the purifier's noise.

        Raises:
            SettingError: what is given is no such image.
        """
        check_image(image, "the capture")
        if self.purifier is not None:
            image = self.purifier(image, generator=generator)
        return self.restorer(image)
