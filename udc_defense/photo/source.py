"""Where a photo comes from: a file, a pair, a crop of a list, a scene that needs no data, or an image at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from udc_defense.images import read_image
from udc_defense.samples import light, scene_of
from udc_defense.scenes import CROP_SIZE, Crop, Pair, scene_from_photo


class Known(TypedDict, total=False):
    """What `stages.run` takes of a photo, each (1, 3, H, W): its light; or its capture, and the truth if known."""

    scene: Tensor
    captured: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Photo:
    """A photo that is read when it is wanted.

    Attributes:
        name: enters the seeds; tells it from the others of a run.
        read: takes the side of the centre that is wanted, or None for all of it.
        split: of the list that it is from.
        adaptive: it meets the attacks that take long.
    """

    name: str
    read: Callable[[int | None], Known] = field(compare=False, repr=False)
    split: str = ""
    adaptive: bool = False

    def load(self, size: int | None = None) -> Known:
        """Read it.

        Args:
            size: side of the centre that is wanted; all of it if None.

        Raises:
            ImageError, SceneError: a file cannot be used.
        """
        return self.read(size)


def from_file(path: Path, *, captured: bool = False) -> Photo:
    """The photo in a file: a capture, or what a camera without a display saw."""
    return Photo(path.name, partial(_read_file, path, captured))


def from_pair(pair: Pair) -> Photo:
    """A capture that was taken, and its ground truth."""
    return Photo(pair.name, partial(_read_pair, pair), split="pairs")


def from_crop(crop: Crop, folder: Path | str) -> Photo:
    """A row of a crop list, whose scenes lie in a folder."""
    return Photo(crop.name, partial(_read_crop, crop, str(folder)), crop.split, crop.adaptive)


def from_title(title: str) -> Photo:
    """A scene that needs no data, by its title; drawn at the size that is wanted."""
    return Photo(title, partial(_draw, title), split="bundled")


def from_image(name: str, image: Tensor, *, captured: bool = False) -> Photo:
    """An image at hand, (1, 3, H, W); where it is no capture, our own night street has its own lamps."""
    return Photo(name, partial(_take, image, captured))


def centre(image: Tensor, size: int | None) -> Tensor:
    """The centre size × size of an image (1, 3, H, W), or as much of it as there is; all of it without a size."""
    if size is None:
        return image
    top, left = (max(0, (side - size) // 2) for side in image.shape[-2:])
    return image[..., top : top + size, left : left + size]


def _read_file(path: Path, captured: bool, size: int | None) -> Known:
    image = centre(read_image(path), size)
    return {"captured": image} if captured else {"scene": scene_from_photo(image)}


def _read_pair(pair: Pair, size: int | None) -> Known:
    captured, truth = pair.load()
    return {"captured": centre(captured, size), "truth": centre(truth, size)}


def _read_crop(crop: Crop, folder: str, size: int | None) -> Known:
    return {"scene": centre(_scene(crop, folder), size)}


@lru_cache(maxsize=2)
def _scene(crop: Crop, folder: str) -> Tensor:
    return crop.scene(folder)


def _draw(title: str, size: int | None) -> Known:
    return {"scene": scene_of(title, size or CROP_SIZE)}


def _take(image: Tensor, captured: bool, size: int | None) -> Known:
    return {"captured": centre(image, size)} if captured else {"scene": centre(light(image), size)}
