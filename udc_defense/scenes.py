"""What light goes in: panoramas (.hdr, .exr) as perspective crops, ordinary photos, and folders of captured pairs.

A crop list is a CSV file with the columns split, path, kind, yaw_deg, pitch_deg, fov_deg, box, adaptive; `kind` is
`perspective` (a 256² view into a panorama) or `box` (the centre 256² of a photo, halved first where large enough).
"""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from udc_defense.errors import ImageError, SceneError
from udc_defense.formats import arrays
from udc_defense.formats.content import read_content
from udc_defense.formats.light import SUFFIXES as LIGHT_SUFFIXES
from udc_defense.formats.light import read_light
from udc_defense.images import MAX_BYTES, MAX_PIXELS, read_image
from udc_defense.images import SUFFIXES as PHOTO_SUFFIXES
from udc_defense.imaging import MAX_RADIANCE, expose, inverse_tone_map, reflected, tone_map
from udc_defense.tensors import check_image

CROP_SIZE = 256
MAX_PANORAMA_PIXELS = 64_000_000
MAX_STORED = 1e6  # in place of infinite light, which half floats make of suns
PAIRED_SUFFIXES = PHOTO_SUFFIXES | LIGHT_SUFFIXES | {".npy"}
PHOTO_WHITE = 0.98  # the brightest tone of a photo that is a surface and not a lamp; radiance 12
LAMP_TONE = 254 / 255
LAMP_AREA = 1 / 1000  # clipped areas up to this share of the photo can be lamps; larger ones are sky or paper
LAMP_SURROUND = 0.5  # mean tone around a lamp, at most; a glint on a white shirt is no lamp

Domain = Literal["tonemapped", "srgb", "linear"]


def read_panorama(path: Path | str) -> Tensor:
    """An equirectangular picture of linear light, Radiance .hdr or OpenEXR, as RGB (1, 3, H, W), not exposed.

    Raises:
        SceneError: the file is missing, is no such picture or is larger than 64 MP.
    """
    light = _read_light(path, MAX_PANORAMA_PIXELS)
    light = np.nan_to_num(light, nan=0.0, posinf=MAX_STORED, neginf=0.0)
    return torch.from_numpy(np.ascontiguousarray(light)).clamp_min(0).permute(2, 0, 1)[None]


def _read_light(path: Path | str, max_pixels: int) -> np.ndarray:
    try:
        data = read_content(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise SceneError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    with _scene_error(path):
        return read_light(data, max_pixels)


@contextlib.contextmanager
def _scene_error(path: Path | str) -> Iterator[None]:
    """The sentence of a decoder, with the name of the file."""
    try:
        yield
    except ImageError as error:
        raise SceneError(f"{path}: {error}") from error


def perspective(
    panorama: Tensor, *, yaw: float, pitch: float, fov: float, size: int = CROP_SIZE, margin: int = 0
) -> Tensor:
    """A pinhole view (1, 3, size + 2·margin, size + 2·margin) into an equirectangular panorama (1, 3, H, W).

    Args:
        panorama: linear radiance.
        yaw: degrees to the right of the panorama's centre.
        pitch: degrees above the horizon.
        fov: horizontal and vertical field of view of the frame in degrees, 0 < fov < 180.
        size: side of the frame in pixels.
        margin: pixels of surroundings on each side, on the same grid: the frame is that of no margin.
    """
    if not 0 < fov < 180:
        raise SceneError(f"field of view {fov} is not between 0 and 180 degrees.")
    half = math.tan(math.radians(fov) / 2)
    axis = ((torch.arange(-margin, size + margin, device=panorama.device) + 0.5) / size * 2 - 1) * half
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    ray = F.normalize(torch.stack([x, y, torch.ones_like(x)]), dim=0)
    tilt, turn = math.radians(pitch), math.radians(yaw)
    up = ray[1] * math.cos(tilt) + ray[2] * math.sin(tilt)
    ahead = ray[2] * math.cos(tilt) - ray[1] * math.sin(tilt)
    longitude = torch.atan2(ray[0], ahead) + turn
    latitude = torch.asin(up.clamp(-1, 1))
    # One wrapped column on each side makes the seam at ±180° invisible to the bilinear filter.
    width = panorama.shape[-1]
    wrapped = torch.cat([panorama[..., -1:], panorama, panorama[..., :1]], dim=-1)
    column = torch.remainder(longitude / (2 * math.pi) + 0.5, 1.0) * width + 1
    grid = torch.stack([column / (width + 2) * 2 - 1, -latitude / (math.pi / 2)], dim=-1)[None]
    return F.grid_sample(wrapped, grid, mode="bilinear", padding_mode="border", align_corners=False)


def scene_from_photo(photo: Tensor) -> Tensor:
    """The light that would give this photo (B, 3, H, W) as its clean image.

    The inverse tone map, up to tone 0.98: white paper is a surface of radiance 12, not a lamp of 500. Only small areas
    that are clipped in all channels, in dark surroundings, get the radiance of a light source.
    """
    check_image(photo, "the photo")
    scene = inverse_tone_map(photo.clamp(0, PHOTO_WHITE))
    return torch.where(_lamps(photo), torch.full_like(scene, MAX_RADIANCE), scene)


def _lamps(photo: Tensor) -> Tensor:
    """(B, 1, H, W) mask of connected, fully clipped areas that are small and lie in the dark."""
    import cv2

    clipped = (photo.amin(dim=1) >= LAMP_TONE).cpu().numpy().astype(np.uint8)
    limit = max(1.0, LAMP_AREA * photo.shape[-1] * photo.shape[-2])
    masks = []
    for mask in clipped:
        _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        small = statistics[:, cv2.CC_STAT_AREA] <= limit
        small[0] = False  # the background
        masks.append(small[labels])
    lamps = [mask & (_mean_around(tones) < LAMP_SURROUND) for mask, tones in zip(masks, photo.mean(dim=1), strict=True)]
    return torch.from_numpy(np.stack(lamps))[:, None].to(photo.device)


def _mean_around(tones: Tensor) -> np.ndarray:
    """Mean of tones (H, W) in a square of an eighth of the shorter side about each pixel, cut at the edges."""
    import cv2

    side = 2 * max(1, min(tones.shape) // 16) + 1
    total, count = (
        cv2.boxFilter(image, cv2.CV_64F, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
        for image in (tones.cpu().numpy().astype(np.float64), np.ones(tones.shape))
    )
    return total / count


def clean_image(scene: Tensor) -> Tensor:
    """The ground truth of a restoration: the exposed scene through the tone map."""
    return tone_map(scene)


@dataclass(frozen=True)
class Crop:
    """One row of a crop list."""

    split: str
    path: str
    kind: str
    yaw: float
    pitch: float
    fov: float
    adaptive: bool

    @property
    def name(self) -> str:
        view = f"@{self.yaw:g},{self.pitch:g},{self.fov:g}" if self.kind == "perspective" else ""
        return self.path + view

    def scene(self, folder: Path | str, *, margin: int = 0) -> Tensor:
        """Its light (1, 3, 256 + 2·margin, 256 + 2·margin), exposed, with surroundings of `margin` pixels on each side.

        The surroundings of a view are the panorama's; those of a photo are the photo's as far as that goes, and its
        mirror image beyond. The frame is the same with any margin.
        """
        path = Path(folder) / self.path
        if self.kind == "perspective":
            view = perspective(read_panorama(path), yaw=self.yaw, pitch=self.pitch, fov=self.fov, margin=margin)
            return expose(view, margin=margin)
        photo = read_image(path)
        frame = scene_from_photo(centre_crop(photo))
        return _surrounded(frame, photo, margin) if margin else frame


def _surrounded(frame: Tensor, photo: Tensor, margin: int) -> Tensor:
    """The light of a photo's centre crop inside that of what lies around it."""
    scene = scene_from_photo(centre_crop(photo, margin=margin))
    scene[..., margin:-margin, margin:-margin] = frame  # a lamp is a lamp, however large the surroundings are
    return scene


def centre_crop(photo: Tensor, size: int = CROP_SIZE, *, margin: int = 0) -> Tensor:
    """The centre size × size of a photo, halved first (2×2 mean) where both sides stay at least `size`.

    With a margin so many pixels more on each side; what the photo lacks of them is its mirror image.

    Raises:
        SceneError: the photo is smaller than the crop.
    """
    height, width = photo.shape[-2:]
    if min(height, width) >= 2 * size:
        photo = F.avg_pool2d(photo, 2)
        height, width = photo.shape[-2:]
    if min(height, width) < size:
        raise SceneError(f"a photo of {width}x{height} pixels is smaller than the {size}x{size} crop.")
    tops = ((side - size) // 2 for side in (height, width))
    rows, columns = (
        reflected(top - margin, top + size + margin, side) for top, side in zip(tops, (height, width), strict=True)
    )
    return photo[..., rows, :][..., columns]


def read_crops(path: Path | str, split: str | None = None) -> list[Crop]:
    """The rows of a crop list, all or those of one split.

    Raises:
        SceneError: the file is missing, lacks a column, or has a row that cannot be parsed.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SceneError(f"{path}: cannot be read as a crop list ({error}).") from error
    crops = [_parse_crop(row, f"{path}, line {number}") for number, row in enumerate(rows, start=2)]
    chosen = [crop for crop in crops if split in (None, crop.split)]
    if not chosen:
        raise SceneError(f"{path}: has no row" + (f" of the split {split!r}." if split else "."))
    return chosen


def _parse_crop(row: dict[str, str], place: str) -> Crop:
    try:
        kind = row["kind"]
        if kind not in ("perspective", "box"):
            raise SceneError(f"{place}: kind {kind!r} is neither 'perspective' nor 'box'.")
        yaw, pitch, fov = (float(row[key] or 0) for key in ("yaw_deg", "pitch_deg", "fov_deg"))
        if not all(map(math.isfinite, (yaw, pitch, fov))):
            raise ValueError(f"angles {yaw}, {pitch}, {fov}")
        return Crop(row["split"], row["path"], kind, yaw, pitch, fov, adaptive=row.get("adaptive") == "1")
    except (KeyError, TypeError, ValueError) as error:
        raise SceneError(f"{place}: cannot be parsed ({error}).") from error


@dataclass(frozen=True)
class Pair:
    """A capture and its ground truth on disk, in one of three domains."""

    name: str
    capture: Path
    clean: Path
    domain: Domain

    @property
    def files(self) -> tuple[Path, Path]:
        return self.capture, self.clean

    def load(self) -> tuple[Tensor, Tensor]:
        """Capture and clean image, each (1, 3, H, W) in the tone-mapped domain."""
        capture, clean = (to_tone_mapped(_read_values(path, self.domain), self.domain) for path in self.files)
        if capture.shape != clean.shape:
            raise SceneError(f"{self.name}: capture {_size(capture)} and clean image {_size(clean)} differ in size.")
        return capture, clean


def read_pairs(captures: Path | str, clean: Path | str, domain: Domain = "tonemapped") -> list[Pair]:
    """Pairs of files of equal stem in two folders: photos, or .npy of shape (H, W, 3).

    Integers count by their full scale. In the domain `linear` all are floats: .npy, OpenEXR, Radiance .hdr, TIFF.

    Args:
        captures: the folder of captures.
        clean: the folder of ground truths.
        domain: `tonemapped` (x/(x+0.25), as SYNTH's), `srgb` (display-referred, as T-OLED and P-OLED), or `linear`.

    Raises:
        SceneError: a folder cannot be read, has two files of one stem, or a capture lacks its ground truth.
    """
    if domain not in ("tonemapped", "srgb", "linear"):
        raise SceneError(f"domain {domain!r} is not tonemapped, srgb or linear.")
    left, right = _stems(captures), _stems(clean)
    missing = sorted(set(left) ^ set(right))
    if missing or not left:
        raise SceneError(f"{captures} and {clean}: " + (f"{missing[0]!r} is in one only." if missing else "no image."))
    return [Pair(stem, left[stem], right[stem], domain) for stem in sorted(left)]


def _stems(folder: Path | str) -> dict[str, Path]:
    try:
        files = [path for path in Path(folder).iterdir() if path.is_file() and not path.name.startswith(".")]
    except OSError as error:
        raise SceneError(f"{folder}: cannot be read as a folder ({error.strerror}).") from error
    stems: dict[str, Path] = {}
    for path in sorted(files):
        if path.suffix.lower() in PAIRED_SUFFIXES and stems.setdefault(path.stem, path) != path:
            both = f"{stems[path.stem].name} and {path.name}"
            raise SceneError(f"{folder}: {both} are two files of one name; which one is meant is not guessed at.")
    return stems


def to_tone_mapped(image: Tensor, domain: Domain) -> Tensor:
    """Bring values of a domain to the tone-mapped one.

    Display-referred sRGB counts as tone-mapped by definition: a photo is its own clean image, and a perturbation's size
    is meant in the values of the file.
    """
    return tone_map(image.clamp(0, MAX_RADIANCE)) if domain == "linear" else image


def _read_values(path: Path, domain: Domain) -> Tensor:
    """A file of a pair as (1, 3, H, W), in the values of its domain."""
    if path.suffix.lower() == ".npy":
        with _scene_error(path):
            array = arrays.read_array(path, MAX_PIXELS)
            values = arrays.light(array) if domain == "linear" else arrays.unit_range(array)
    elif domain == "linear":
        values = _read_light(path, MAX_PIXELS)
        if np.isnan(values).any():
            raise SceneError(f"{path}: holds values that are no numbers.")
    else:
        return read_image(path)
    return torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)[None]


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]}"
