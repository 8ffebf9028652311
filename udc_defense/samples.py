"""Samples without data: photos that scikit-image's wheel bundles, and night streets with lamps that are drawn here.

A file cannot hold the lamps' light. The night street is therefore known by its pixels: where they come back as the
photo to run, the light they were made from is used.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from udc_defense.errors import ImageError
from udc_defense.images import quantize, read_image, write_png
from udc_defense.imaging import MAX_RADIANCE
from udc_defense.scenes import CROP_SIZE, centre_crop, clean_image, scene_from_photo

NIGHT = "Night street"
STREETS = {NIGHT: 7, "Night street 2": 8, "Night street 3": 9, "Night street 4": 10}  # and the seeds of their houses


@dataclass(frozen=True)
class Sample:
    """A file of scikit-image: what it is called, and whom it is owed to."""

    title: str
    file: str
    credit: str


PHOTOS = (
    Sample("Cat", "chelsea.png", "Stéfan van der Walt, CC0"),
    Sample("Coffee", "coffee.png", "Rachel Michetti, CC0"),
    Sample("Rocket", "rocket.jpg", "SpaceX, public domain"),
    Sample("Astronaut", "astronaut.png", "NASA, public domain"),
)
CREDITS = (
    "Samples bundled with scikit-image: "
    + "; ".join(f"{sample.title.lower()}, {sample.credit}" for sample in PHOTOS)
    + ". The night street, with lamps 500 times brighter than white, is drawn by this package."
)


def write_samples(folder: Path) -> dict[str, Path]:
    """Each sample as a PNG of 256×256 in `folder`, by title; photos that are not installed are left out."""
    images = {NIGHT: clean_image(night_street())} | _photos()
    order = [sample.title for sample in PHOTOS[:1]] + [NIGHT] + [sample.title for sample in PHOTOS[1:]]
    files = {title: folder / f"{title.lower().replace(' ', '_')}.png" for title in order if title in images}
    for title, file in files.items():
        write_png(images[title], file)
    return files


@lru_cache(maxsize=1)
def _photos() -> dict[str, Tensor]:
    """The photos that are installed, (1, 3, 256, 256), by title."""
    images = {}
    for sample in PHOTOS:
        try:
            data = importlib.resources.files("skimage").joinpath("data", sample.file).read_bytes()
            images[sample.title] = centre_crop(read_image(data))
        except (ImportError, OSError, ImageError):
            continue
    return images


def scene_titles() -> list[str]:
    """Of all scenes that can be had here: one street, the photos that are installed, more streets."""
    first, *others = STREETS
    return [first, *_photos(), *others]


def scene_of(title: str, size: int) -> Tensor:
    """The light (1, 3, size, size) behind a title: a street is drawn at that size, a photo is resized as a whole."""
    if title in STREETS:
        return night_street(size, STREETS[title])
    return scene_from_photo(F.interpolate(_photos()[title], size=(size, size), mode="area"))


def light(photo: Tensor) -> Tensor:
    """The scene behind a photo (1, 3, H, W): our own lamps for our own night street."""
    night = night_street()
    if photo.shape == night.shape and torch.equal(quantize(photo), quantize(clean_image(night))):
        return night
    return scene_from_photo(photo)


@lru_cache(maxsize=4)
def night_street(size: int = CROP_SIZE, seed: int = STREETS[NIGHT]) -> Tensor:
    """Radiance (1, 3, size, size): houses with lit windows, a wet street, lamps up to 500; `seed` draws the houses."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    picture = _sky(y)
    _draw_houses(picture, random)
    _draw_street(picture, x, y)
    for place, height, radius, colour in LAMPS:
        _draw_lamp(picture, x, y, (place, height), radius, np.array(colour))
    grain = random.normal(1.0, 0.03, (size, size, 1))
    scene = np.clip(picture * grain, 0.0, MAX_RADIANCE).astype(np.float32)
    return torch.from_numpy(scene).permute(2, 0, 1)[None].contiguous()


HORIZON = 0.66
WARM, COLD, RED = (1.0, 0.72, 0.38), (0.85, 0.95, 1.0), (1.0, 0.12, 0.08)
# Place, height and radius in picture widths; the colour's largest part is 1 and stands for radiance 500.
LAMPS = (
    (0.13, 0.33, 0.0052, WARM),
    (0.34, 0.46, 0.0032, WARM),
    (0.455, 0.53, 0.0022, WARM),
    (0.87, 0.36, 0.0050, WARM),
    (0.68, 0.475, 0.0030, WARM),
    (0.60, 0.705, 0.0030, COLD),
    (0.66, 0.705, 0.0030, COLD),
    (0.36, 0.74, 0.0024, RED),
    (0.415, 0.74, 0.0024, RED),
)


def _sky(y: np.ndarray) -> np.ndarray:
    """Deep blue above, the town's warm haze at the horizon."""
    height = np.clip(y / HORIZON, 0, 1)[..., None]
    return np.array([0.016, 0.026, 0.062]) * (1 - height) + np.array([0.15, 0.105, 0.085]) * height**2


def _draw_houses(picture: np.ndarray, random: np.random.Generator) -> None:
    """A skyline from the left edge to the right, each house with a grid of windows, some of them lit."""
    size = len(picture)
    base, left = int(HORIZON * size), 0
    while left < size:
        width = int(random.uniform(0.09, 0.17) * size)
        middle = abs((left + width / 2) / size - 0.52)  # lower houses in the middle: the street leads there
        top = int((0.46 - 0.62 * middle + random.uniform(-0.05, 0.05)) * size)
        right = min(left + width, size)
        picture[top:base, left:right] = np.array([0.034, 0.034, 0.042]) * random.uniform(0.7, 1.5)
        _light_windows(picture, random, (top, base), (left, right))
        left += width


def _light_windows(
    picture: np.ndarray, random: np.random.Generator, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    for top in range(rows[0] + 6, rows[1] - 12, 11):
        for left in range(columns[0] + 4, columns[1] - 6, 9):
            if random.random() < 0.45:
                colour = np.array(WARM if random.random() < 0.8 else COLD)
                picture[top : top + 6, left : left + 5] = colour * random.uniform(0.15, 1.2)


def _draw_street(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Asphalt that mirrors each lamp as a fading streak, and a dashed line that runs to the vanishing point."""
    depth = np.clip((y - HORIZON) / (1 - HORIZON), 0, 1)
    street = y >= HORIZON
    asphalt = np.array([0.075, 0.072, 0.08]) * (0.55 + 0.9 * depth[..., None])
    for place, _, radius, colour in LAMPS:
        streak = np.exp(-(((x - place) / (4 * radius + 0.012 * depth)) ** 2)) * np.exp(-2.2 * depth)
        asphalt += 75 * radius * streak[..., None] * np.array(colour)
    line = (np.abs(x - (0.52 - 0.09 * depth)) < 0.004 + 0.012 * depth) & (np.sin(24 * np.sqrt(depth)) > 0)
    asphalt[line] += 0.5
    picture[street] = asphalt[street]


def _draw_lamp(
    picture: np.ndarray, x: np.ndarray, y: np.ndarray, centre: tuple[float, float], radius: float, colour: np.ndarray
) -> None:
    """A disc with an edge one pixel wide; a post below, where the lamp hangs over the horizon."""
    size = len(picture)
    cx, cy = centre
    if cy < HORIZON - 0.1:
        post = (np.abs(x - cx) < radius) & (y > cy) & (y < HORIZON + 10 * radius)
        picture[post] = 0.02
    disc = np.clip((radius - np.hypot(x - cx, y - cy)) * size + 0.5, 0, 1)[..., None]
    picture += disc * (colour * MAX_RADIANCE - picture)
