"""What every restorer shares: any size in, the same size out, in the tone-mapped domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from diffusers import ConfigMixin, ModelMixin
from torch import Tensor

from udc_defense.tensors import check_fits, check_image
from udc_defense.tiles import apply_tiled, pad_to_multiple

if TYPE_CHECKING:
    from udc_defense.optics import Panel


class Restorer(ModelMixin, ConfigMixin):
    """Base of restorers. Subclasses register their configuration and define `network_forward`.

    Attributes:
        multiple: the network's sides must be multiples of this; the base pads.
        stride: of its coarsest grid, to which tiles are aligned; 0 stands for `multiple`.
        tile_size: larger images are restored in tiles of this side.
        tile_overlap: pixels that neighbouring tiles share.
        not_exportable: why no ONNX file can hold the network, as the end of a sentence; empty where one can. A method
            that needs a step which ONNX lacks says so here, and `export` repeats it.
        sha256: of the weights that were loaded; empty where none were.
        lipschitz_bound: a proven bound of the gain in ℓ2 of `forward`, at every size; None where nothing is proven.
    """

    sha256 = ""
    multiple = 1
    stride = 0
    tile_size = 640
    tile_overlap = 128
    not_exportable = ""
    lipschitz_bound: float | None = None

    @property
    def windows(self) -> tuple[int, ...]:
        """Sides of an image, in pixels, below which it computes something else than above; `export` compares both."""
        return (self.stride or self.multiple,)

    def forward(self, image: Tensor) -> Tensor:
        """Capture (B, 3, H, W) to restored image, both tone-mapped. Nothing is clamped; metrics and files clamp."""
        check_image(image, "the capture")
        check_fits(self, image, "the capture")
        stride = self.stride or self.multiple
        return apply_tiled(self._whole, image, size=self.tile_size, overlap=self.tile_overlap, stride=stride)

    def for_panel(self, panel: Panel | None) -> Self:
        """The restorer bound to the display that it looks through; this one, where it needs no optics."""
        return self

    def constrain(self) -> None:
        """Called before training and after each of its steps, without gradients: bring weights back where they must be.

        Most may be anywhere.
        """

    def check(self) -> None:
        """Called once weights are loaded.

        Raises:
            CheckpointError: they break what the configuration promises of them.
        """

    def _whole(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, self.multiple)
        return self.from_network(self.network_forward(self.to_network(padded)))[..., :height, :width]

    def network_forward(self, image: Tensor) -> Tensor:
        """The network in its own domain, sides a multiple of `multiple`."""
        raise NotImplementedError

    def to_network(self, image: Tensor) -> Tensor:
        """Tone-mapped values to the network's domain; the identity unless a network says otherwise."""
        return image

    def from_network(self, image: Tensor) -> Tensor:
        """The network's domain to tone-mapped values."""
        return image
