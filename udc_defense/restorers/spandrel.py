"""A restoration network of any architecture that the library spandrel knows, behind the face of a restorer.

spandrel (MIT) tells the architecture and its settings from the names and shapes of official weights, and builds it. It
serves as a loader only: calling its descriptors clamps the image and lets no gradient through.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from udc_defense.errors import CheckpointError
from udc_defense.noise import seeded
from udc_defense.restorers import register
from udc_defense.restorers.base import Restorer
from udc_defense.tiles import pad


@register("spandrel")
class SpandrelRestorer(Restorer):
    """Takes tone-mapped captures as they are, whatever images the network was published for.

    Images are restored one by one, as spandrel's contract has it.

    Args:
        architecture: spandrel's name of it.
        shapes: of all official weights; what spandrel builds the network from.

    Raises:
        CheckpointError: spandrel is missing or does not know the architecture, or the network is no restorer of RGB.
    """

    @register_to_config
    def __init__(self, architecture: str, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        official = _official(architecture, shapes)
        self.network = official.model
        self.sizes = official.size_requirements
        self.stride = self.sizes.multiple_of
        # What spandrel calls the network with, such as a map of the noise's level, is public only in its clamping call.
        self._call = official._call_fn

    def __getstate__(self) -> dict[str, Any]:
        """Without what calls the network, which is a closure of spandrel's and does not pickle."""
        return {name: value for name, value in self.__dict__.items() if name != "_call"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._call = _official(self.config["architecture"], self.config["shapes"])._call_fn

    @property
    def windows(self) -> tuple[int, ...]:
        return (self.stride, self.sizes.minimum)

    def network_forward(self, image: Tensor) -> Tensor:
        """Values of about [0, 1], (B, 3, H, W), any sides: padded as the architecture asks."""
        height, width = image.shape[-2:]
        right, bottom = self._padding(width, height)
        padded = pad(image, bottom=bottom, right=right)
        # A trace would keep the number of images; what becomes of several is compared by `export`.
        parts = (padded,) if torch.jit.is_tracing() else padded.split(1)
        return torch.cat([self._call(self.network, part) for part in parts])[..., :height, :width]

    def _padding(self, width: int, height: int) -> tuple[int, int]:
        """What spandrel's `SizeRequirements.get_padding` gives, without branches, which a trace would freeze."""
        sizes = self.sizes
        right, bottom = (
            larger + -larger % sizes.multiple_of
            for larger in (_larger(side, sizes.minimum) for side in (width, height))
        )
        if sizes.square:
            right = bottom = _larger(right, bottom)
        return right - width, bottom - height


def _larger(a: int, b: int) -> int:
    return (a + b + abs(a - b)) // 2


def recognised(weights: Mapping[str, Tensor]) -> SpandrelRestorer:
    """The network of official weights.

    Raises:
        CheckpointError: spandrel is missing, does not know them, or they are not of a restorer of RGB images.
    """
    spandrel = _spandrel()
    state = spandrel.canonicalize_state_dict(dict(weights))
    try:
        official = spandrel.MAIN_REGISTRY.load(dict(state))  # which renames some
    except spandrel.UnsupportedModelError:
        raise CheckpointError("it knows none of their names.") from None
    except Exception as error:  # what a stranger's shapes make it raise
        raise CheckpointError("they look like a network that it knows, and do not fit.") from error
    _check(official)
    name = official.architecture.id
    try:
        restorer = SpandrelRestorer(name, {key: list(value.shape) for key, value in state.items()})
        restorer.network.load_state_dict(official.model.state_dict())
        faithful = _alike(restorer.eval(), official)
    except Exception as error:
        raise CheckpointError(f"their {name} cannot be run here.") from error
    if not faithful:  # an architecture that reads settings from values, too
        raise CheckpointError(f"their names and shapes do not describe their {name}.")
    return restorer


def _official(architecture: str, shapes: Mapping[str, Sequence[int]]) -> Any:
    """What spandrel makes of weights of such shapes."""
    known = _spandrel().MAIN_REGISTRY
    if architecture not in known:
        raise CheckpointError(f"architecture {architecture!r} is none that the installed spandrel knows.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers may build on the device meta, which takes no zeros
        official = known[architecture].architecture.load({name: torch.zeros(*s) for name, s in shapes.items()})
    _check(official)
    return official


@torch.no_grad()
def _alike(restorer: SpandrelRestorer, official: Any) -> bool:
    """Whether both restore a picture alike, as far as spandrel's clamped image tells."""
    picture = torch.rand(1, 3, 40, 48, generator=seeded(0))
    return torch.allclose(restorer(picture).clamp(0, 1), official(picture), atol=1e-5)


def _check(official: Any) -> None:
    name = official.architecture.id
    if not isinstance(official, _spandrel().ImageModelDescriptor):
        raise CheckpointError(f"{name} wants more than an image.")
    before, after, scale = official.input_channels, official.output_channels, official.scale
    if (before, after, scale) != (3, 3, 1):
        raise CheckpointError(f"{name} with {before} channels in, {after} out and scale {scale} is no restorer of RGB.")


def _spandrel() -> Any:
    """The library; what may be missing is also torchvision, which it needs."""
    try:
        import spandrel
    except ImportError as error:
        raise CheckpointError(f'{error.name} is not installed; pip install "udc-defense[zoo]" brings it.') from error
    return spandrel
