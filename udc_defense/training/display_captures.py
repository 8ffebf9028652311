"""Batches of captures behind many displays, simulated where the network is trained.

What a batch holds depends on its seed alone (and on the device, which draws the noise). Half of the batches have the
scene's real surroundings, from which light flares in; in the others the scene goes on by reflection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from udc_defense.errors import SettingError
from udc_defense.images import read_image
from udc_defense.imaging import LUMINANCE, MAX_RADIANCE, MEDIAN_LUMINANCE, tone_map
from udc_defense.optics import FULL_WELL, PANELS, READ_NOISE, vary_psf
from udc_defense.restorers.physics import Optics, mirrored, relative_noise, transfer_function, unknown_optics
from udc_defense.scenes import perspective, read_panorama, scene_from_photo
from udc_defense.training.data import EXPOSURE_STOPS
from udc_defense.training.displays import DRAWN, RADIUS, draw_psf

SIZES = (192, 256, 256, 320)
BUILT_IN = ("axon20", "axon20", "toled", "poled")  # what is drawn where a built-in panel is
SHARE_BUILT_IN, SHARE_BLIND, SHARE_BUILT_IN_BLIND = 0.45, 0.15, 0.8
VARIED = 8  # positions on each built-in panel

T = TypeVar("T")


class Captures(NamedTuple):
    """Captures and clean images (B, 3, H, W), tone-mapped; what the restorer may know; the light before it clipped."""

    captured: Tensor
    clean: Tensor
    optics: Optics
    unclipped: Tensor


def make_bank(path: Path, *, per_family: int, seed: int = 0, device: str = "cpu") -> None:
    """Draw `per_family` displays of each family that is drawn in training, and save their PSFs as float16."""
    psfs = {
        f"{family}-{index}": draw_psf(family, seed * 1_000_003 + index, device=device).half().cpu()
        for family in DRAWN
        for index in range(per_family)
    }
    save_file(psfs, path)


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Seeds instead of images: `DisplayCaptures` simulates the batch on the device that trains."""

    def __init__(self, *, length: int, seed: int) -> None:
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        seed = torch.tensor([self.seed * 1_000_003 + index])
        return seed, seed


class DisplayCaptures:
    """Simulates batches from panoramas and photos, behind built-in panels and a bank of drawn displays.

    Args:
        scenes: panoramas (.hdr) and photos.
        bank: what `make_bank` saved.
        device: where scenes and PSFs are kept and batches are made.
        sizes: sides of the crops; one is drawn for each batch.
    """

    def __init__(
        self, scenes: Sequence[Path], bank: Path, *, device: str | torch.device = "cpu", sizes: Sequence[int] = SIZES
    ) -> None:
        if not scenes:
            raise SettingError("there is no scene to train on.")
        self.device, self.sizes = torch.device(device), tuple(sizes)
        self.scenes = [_scene(path, self.device) for path in scenes]
        drawn = [psf.to(self.device, torch.float32) for _, psf in sorted(load_file(bank).items())]
        self.drawn = [psf / psf.sum((-2, -1), keepdim=True) for psf in drawn]
        self.built_in = {name: _positions(panel.psf, self.device) for name, panel in PANELS.items()}

    def __call__(self, seed: int, count: int) -> Captures:
        """The batch of a seed: `count` captures of one size."""
        random = _Random(seed, self.device)
        size = random.choice(self.sizes)
        surrounded = random.flip(0.5)
        side = size + 2 * RADIUS if surrounded else size
        scenes = torch.cat([self._view(side, size, random) for _ in range(count)])
        scenes = _with_lamps(scenes, random)
        grid = (size + 2 * RADIUS, size + 2 * RADIUS)
        field = scenes if surrounded else mirrored(scenes, RADIUS, grid)
        drawn = [self._display(random) for _ in range(count)]
        psf, gain, known = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        inner = (..., slice(RADIUS, RADIUS + size), slice(RADIUS, RADIUS + size))
        spectrum = torch.fft.rfft2(field) * transfer_function(psf, grid)
        light = torch.fft.irfft2(spectrum, s=grid)[inner].clamp_min(0)
        saturation = random.saturations(FULL_WELL / gain)
        captured = random.quantised(tone_map(torch.minimum(random.noisy(light, gain), saturation).clamp_min(0)))
        optics = _seen(psf, saturation, relative_noise(gain), known, random)
        return Captures(captured, tone_map(field[inner]), optics, light)

    def _view(self, side: int, size: int, random: _Random) -> Tensor:
        """A view (1, 3, side, side) whose inner part of `size` is exposed."""
        scene = random.choice(self.scenes)
        if isinstance(scene, _Panorama):
            margin = (side - size) // 2
            view = perspective(
                scene.light,
                yaw=random.number(0, 360),
                pitch=random.number(-20, 20),
                fov=random.number(60, 100),
                size=size,
                margin=margin,
            )
            inner = view[..., margin : margin + size, margin : margin + size]
            view = (view * _exposure(inner) * 2 ** random.number(-EXPOSURE_STOPS, EXPOSURE_STOPS)).clamp_max(
                MAX_RADIANCE
            )
        else:
            view = _photo_view(scene, side, random)
        view = view.flip(-1) if random.flip(0.5) else view
        return view.transpose(-1, -2) if random.flip(0.25) else view

    def _display(self, random: _Random) -> tuple[Tensor, Tensor, Tensor]:
        """A PSF, its gain (3, 1, 1) in electrons, and whether the restorer knows them."""
        blind = random.flip(SHARE_BLIND)
        if random.flip(SHARE_BUILT_IN_BLIND if blind else SHARE_BUILT_IN):
            name = random.choice(BUILT_IN)
            panel, positions = PANELS[name], self.built_in[name]
            psf = positions[0] if random.flip(0.3) else random.choice(positions)
            gain = torch.tensor(panel.electrons).view(3, 1, 1)
        else:
            psf = random.turned(random.choice(self.drawn))
            gain = math.exp(random.number(math.log(200), math.log(8000))) * torch.ones(3, 1, 1)
        return psf, gain.to(self.device), torch.tensor(not blind, device=self.device)


class _Panorama(NamedTuple):
    light: Tensor


def _scene(path: Path, device: torch.device) -> _Panorama | Tensor:
    if path.suffix.lower() == ".hdr":
        return _Panorama(read_panorama(path).to(device))
    return scene_from_photo(read_image(path)).half().to(device)


def _positions(psf: Tensor, device: torch.device) -> list[Tensor]:
    """A panel's PSF, and as it looks from other places on it: ±15°, ±5 % in scale, ±20 % in strength."""
    generator = torch.Generator().manual_seed(0)
    draws = (2 * torch.rand(VARIED, 3, generator=generator) - 1).tolist()
    moved = [vary_psf(psf, rotation=15 * a, scale=1 + 0.05 * b, strength=1 + 0.2 * c) for a, b, c in draws]
    return [each.to(device) for each in (psf, *moved)]


def _exposure(view: Tensor) -> Tensor:
    """The factor that brings a view (1, 3, H, W) to the median luminance of an exposed scene."""
    luminance = torch.einsum("bchw,c->bhw", view, view.new_tensor(LUMINANCE))
    return MEDIAN_LUMINANCE / luminance.median().clamp_min(1e-6)


def _photo_view(scene: Tensor, side: int, random: _Random) -> Tensor:
    """A random crop of the light of a photo (1, 3, H, W), at a scale between its own and the smallest that fits."""
    smallest = side / min(scene.shape[-2:])
    scale = smallest if smallest >= 1 else random.number(smallest, 1)
    cut = min(round(side / scale), *scene.shape[-2:])
    top, left = (random.integer(length - cut + 1) for length in scene.shape[-2:])
    part = scene[..., top : top + cut, left : left + cut].float()
    return F.interpolate(part, size=(side, side), mode="bilinear", antialias=True).clamp_min(0)


def _with_lamps(scenes: Tensor, random: _Random) -> Tensor:
    """A quarter of the scenes (B, 3, H, W) get up to eight small bright lights."""
    side = scenes.shape[-1]
    axis = torch.arange(side, device=scenes.device, dtype=scenes.dtype)
    for index in range(len(scenes)):
        if not random.flip(0.25):
            continue
        for _ in range(1 + random.integer(8)):
            y, x, radius = random.number(0, side), random.number(0, side), random.number(0.6, 4)
            colour = scenes.new_tensor([random.number(0.3, 1) for _ in range(3)]).view(3, 1, 1)
            disc = (radius + 0.5 - torch.hypot(axis[:, None] - y, axis[None, :] - x)).clamp(0, 1)
            light = math.exp(random.number(math.log(5), math.log(MAX_RADIANCE)))
            scenes[index] = torch.maximum(scenes[index], disc * colour * light)
    return scenes


def _seen(psf: Tensor, saturation: Tensor, noise: Tensor, known: Tensor, random: _Random) -> Optics:
    """What the restorer is told: nothing where blind; else a PSF that is a little off, as a calibrated one is."""
    nothing = Optics(*(part.to(psf) for part in unknown_optics()))
    psf = random.mistaken(psf)
    delta = torch.zeros_like(psf)
    delta[..., RADIUS, RADIUS] = 1
    where = known.view(-1, 1, 1, 1)
    return Optics(
        torch.where(where, psf, delta),
        torch.where(where, saturation, nothing.saturation),
        torch.where(where, noise, nothing.noise),
    )


class _Random:
    """All draws of one batch: numbers from a CPU generator, images from one of the device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.images = torch.Generator(device).manual_seed(seed)
        self.device = device

    def number(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def integer(self, count: int) -> int:
        return int(torch.randint(0, count, (), generator=self.generator))

    def flip(self, share: float) -> bool:
        return self.number(0, 1) < share

    def choice(self, options: Sequence[T]) -> T:
        return options[self.integer(len(options))]

    def turned(self, psf: Tensor) -> Tensor:
        """The PSF in one of eight positions."""
        psf = psf.rot90(self.integer(4), dims=(-2, -1))
        return psf.flip(-1) if self.flip(0.5) else psf

    def column(self, low: float, high: float, count: int) -> Tensor:
        """(count, 1, 1, 1) numbers."""
        drawn = torch.rand(count, 1, 1, 1, generator=self.generator)
        return (low + (high - low) * drawn).to(self.device)

    def saturations(self, own: Tensor) -> Tensor:
        """Each display's own saturation (B, 3, 1, 1), or, for four of ten, any from 3 to 500."""
        count = len(own)
        other = self.column(math.log(3), math.log(MAX_RADIANCE), count).exp().expand_as(own)
        return torch.where(self.column(0, 1, count) < 0.4, other, own.clamp_max(MAX_RADIANCE))

    def noisy(self, light: Tensor, gain: Tensor) -> Tensor:
        """Shot and read noise; for four of ten captures between none and twice as much as the display's."""
        electrons = torch.poisson(light * gain, generator=self.images)
        electrons += READ_NOISE * torch.randn(light.shape, generator=self.images, device=self.device)
        other = torch.where(self.column(0, 1, len(light)) < 0.4, self.column(0, 2, len(light)), 1.0)
        return light + other * (electrons / gain - light)

    def quantised(self, captured: Tensor) -> Tensor:
        """A third of the captures have 8 bits."""
        eight = self.column(0, 1, len(captured)) < 1 / 3
        return torch.where(eight, (captured * 255).round() / 255, captured)

    def mistaken(self, psf: Tensor) -> Tensor:
        """For three of ten displays the veil is up to 10 % too strong or weak, and grainy by as much."""
        count = len(psf)
        wrong = (self.column(0, 1, count) < 0.3).to(psf)
        strength = 1 + 0.1 * wrong * self.column(-1, 1, count)
        grain = 1 + 0.1 * wrong * torch.randn(psf.shape, generator=self.images, device=self.device)
        axis = torch.arange(-RADIUS, RADIUS + 1, device=self.device)
        core = torch.hypot(axis[:, None].float(), axis[None, :].float()) <= 2.5
        seen = torch.where(core, psf, psf * strength * grain.clamp_min(0))
        return seen / seen.sum((-2, -1), keepdim=True)
