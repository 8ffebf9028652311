"""Endless simulated captures from a folder of panoramas and photos; sample i depends on (seed, i) alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from udc_defense.errors import SceneError, SettingError
from udc_defense.formats.light import SUFFIXES as LIGHT_SUFFIXES
from udc_defense.images import SUFFIXES as PHOTO_SUFFIXES
from udc_defense.images import read_image
from udc_defense.imaging import MAX_RADIANCE, capture, expose
from udc_defense.optics import random_psf
from udc_defense.panel_file import get_panel
from udc_defense.scenes import CROP_SIZE, Pair, clean_image, perspective, read_crops, read_panorama, scene_from_photo
from udc_defense.training.left_out import LeftOut

EXPOSURE_STOPS = 1.0  # scenes are shown between half and twice their exposure


def list_scenes(folder: Path | str, crops: Path | str | None = None) -> list[Path]:
    """The panoramas and photos below a folder, without any scene that the crop list evaluates on.

    Raises:
        SceneError: nothing is left.
    """
    folder = Path(folder)
    kept_out = set() if crops is None else {Path(crop.path).parts for crop in read_crops(crops)}
    every = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES | LIGHT_SUFFIXES)
    # Hidden files are those of systems: beside x.png, macOS leaves a ._x.png that is no picture.
    files = [path for path in every if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    # By the end of the path: neither the list nor the folder need lie where the list's paths start from.
    scenes = [path for path in files if not any(path.resolve().parts[-len(tail) :] == tail for tail in kept_out)]
    if not scenes:
        raise SceneError(f"{folder}: holds no panorama (.hdr, .exr) or photo to train on.")
    return scenes


class SimulatedCaptures(Dataset[tuple[Tensor, Tensor]]):
    """Item i: `crops` random crops of one simulated capture and of its clean image, each (crops, 3, size, size).

    Args:
        scenes: panoramas (.hdr, .exr) and photos.
        panels: names or files to draw from; one given twice is drawn twice as often.
        length: number of items.
        size: side of a crop.
        crops: crops per capture.
        seed: of everything random.
        left_out: where scenes go that cannot be read.
    """

    def __init__(
        self,
        scenes: Sequence[Path],
        panels: Sequence[str],
        *,
        length: int,
        size: int,
        crops: int,
        seed: int,
        left_out: LeftOut | None = None,
    ) -> None:
        self.left_out = left_out or LeftOut()
        self.scenes, self.panels = list(scenes), [get_panel(name) for name in panels]
        self.length, self.size, self.crops, self.seed = length, size, crops, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        scene = self._flip(self._view(generator), generator)
        panel = self.panels[_choice(len(self.panels), generator)]
        psf = random_psf(panel.psf, generator)
        captured, clean = capture(scene, panel, psf=psf, generator=generator), clean_image(scene)
        offsets = torch.randint(0, scene.shape[-1] - self.size + 1, (self.crops, 2), generator=generator).tolist()
        return self._cut(captured, offsets), self._cut(clean, offsets)

    def _cut(self, image: Tensor, offsets: list[list[int]]) -> Tensor:
        return torch.cat([image[..., top : top + self.size, left : left + self.size] for top, left in offsets])

    def _view(self, generator: torch.Generator) -> Tensor:
        path, read = self.left_out.draw(self.scenes, generator, str, _read)
        if path.suffix.lower() not in LIGHT_SUFFIXES:
            return scene_from_photo(_random_crop(read, generator))
        yaw, pitch, fov, stops = torch.rand(4, generator=generator).tolist()
        view = perspective(read, yaw=360 * yaw, pitch=40 * pitch - 20, fov=60 + 40 * fov)
        return (expose(view) * 2 ** (EXPOSURE_STOPS * (2 * stops - 1))).clamp_max(MAX_RADIANCE)

    @staticmethod
    def _flip(scene: Tensor, generator: torch.Generator) -> Tensor:
        horizontal, transposed = torch.rand(2, generator=generator).tolist()
        scene = scene.flip(-1) if horizontal < 0.5 else scene
        return scene.transpose(-1, -2) if transposed < 0.25 else scene


class PairedCrops(Dataset[tuple[Tensor, Tensor]]):
    """Random crops of captured pairs on disk, with the same items as `SimulatedCaptures`."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        length: int,
        size: int,
        crops: int,
        seed: int,
        left_out: LeftOut | None = None,
    ) -> None:
        self.left_out = left_out or LeftOut()
        self.pairs, self.length, self.size, self.crops, self.seed = list(pairs), length, size, crops, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        _, (captured, clean) = self.left_out.draw(self.pairs, generator, lambda pair: str(pair.capture), self._load)
        height, width = captured.shape[-2:]
        cut: tuple[list[Tensor], list[Tensor]] = ([], [])
        for _ in range(self.crops):
            top = _choice(height - self.size + 1, generator)
            left = _choice(width - self.size + 1, generator)
            for images, out in zip((captured, clean), cut, strict=True):
                out.append(images[..., top : top + self.size, left : left + self.size])
        return torch.cat(cut[0]), torch.cat(cut[1])

    def _load(self, pair: Pair) -> tuple[Tensor, Tensor]:
        captured, clean = pair.load()
        height, width = captured.shape[-2:]
        if min(height, width) < self.size:
            raise SceneError(f"{pair.name}: {width}x{height} pixels, smaller than the {self.size}x{self.size} crops.")
        return captured, clean


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Horizontal flips and light colour jitter of a data set's crops, alike in capture and clean image.

    Args:
        dataset: of items as those of `SimulatedCaptures`.
        jitter: each channel is multiplied by up to 1 ± this.
        seed: of flips and gains; those of item i depend on (seed, i) alone.
        different: so many items, which come again and again; all that the data set has if not given.
    """

    def __init__(
        self, dataset: Dataset[tuple[Tensor, Tensor]], *, jitter: float, seed: int, different: int | None = None
    ) -> None:
        if different is not None and different < 1:
            raise SettingError(f"{different} captures: training needs at least 1.")
        self.dataset, self.jitter, self.seed, self.different = dataset, jitter, seed, different

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        index = index % self.different if self.different else index
        captured, clean = self.dataset[index]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index + 1)
        flipped = torch.rand(len(captured), 1, 1, 1, generator=generator) < 0.5
        gains = 1 + self.jitter * (2 * torch.rand(len(captured), 3, 1, 1, generator=generator) - 1)
        changed = (torch.where(flipped, image.flip(-1), image) * gains for image in (captured, clean))
        captured, clean = (image.clamp(0, 1) for image in changed)
        return captured, clean


def join(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Collate items of several crops into one batch."""
    return torch.cat([item[0] for item in items]), torch.cat([item[1] for item in items])


def _choice(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(0, count, (1,), generator=generator))


def _random_crop(photo: Tensor, generator: torch.Generator) -> Tensor:
    """A random 256² crop at a random scale between the file's and the smallest that still fits."""
    smallest = CROP_SIZE / min(photo.shape[-2:])
    drawn = torch.rand(1, generator=generator).item()
    scale = smallest if smallest >= 1 else smallest + (1 - smallest) * drawn
    if scale != 1:
        size = [max(CROP_SIZE, round(side * scale)) for side in photo.shape[-2:]]
        photo = F.interpolate(photo, size=size, mode="bilinear", antialias=True).clamp(0, 1)
    top = _choice(photo.shape[-2] - CROP_SIZE + 1, generator)
    left = _choice(photo.shape[-1] - CROP_SIZE + 1, generator)
    return photo[..., top : top + CROP_SIZE, left : left + CROP_SIZE]


def _read(path: Path) -> Tensor:
    return _panorama(path) if path.suffix.lower() in LIGHT_SUFFIXES else _photo(path)


@lru_cache(maxsize=256)
def _panorama(path: Path) -> Tensor:
    return read_panorama(path)


@lru_cache(maxsize=64)
def _photo(path: Path) -> Tensor:
    return read_image(path)
