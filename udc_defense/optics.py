"""Panel layout to point spread function: Fraunhofer diffraction of a display's openings in front of a phone's lens.

The lens sees the panel's aperture function A(x); at focus the intensity is |F{A}(u / λf)|² (Goodman, Introduction to
Fourier Optics, eq. 5-14), summed over wavelengths and averaged over each sensor pixel. One pixel of the PSF is one
pixel of the capture. Lengths are micrometres.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_LENGTH = 4670.0
LENS_DIAMETER = FOCAL_LENGTH / 2
PIXEL = 2.0
APERTURE_STEP = 2.5
SUBSAMPLES = 3  # per pixel side; the Airy disc's full width at half maximum is 1.1 µm
PSF_RADIUS = 128  # pixels
# Three lines per colour, weighted as a bell: the spread smears the diffraction orders radially, as a real filter does.
SPECTRUM = (
    ((0.59, 0.25), (0.615, 0.5), (0.64, 0.25)),
    ((0.50, 0.25), (0.53, 0.5), (0.56, 0.25)),
    ((0.44, 0.25), (0.465, 0.5), (0.49, 0.25)),
)

FULL_WELL = 15_506.0  # electrons
READ_NOISE = 4.87  # electrons, standard deviation
LIGHT = 4005.0  # electrons of radiance 1 at a usual exposure

Layout = Callable[[np.ndarray, np.ndarray], np.ndarray]


Channels = tuple[float, float, float]  # red, green, blue


@dataclass(frozen=True)
class Lens:
    """The camera behind the panel; lengths in µm.

    Attributes:
        focal_length, diameter: of the lens, in focus at infinity.
        pixel: side of a pixel of the capture.
        spectrum: per channel, lines of (wavelength, weight).
    """

    focal_length: float = FOCAL_LENGTH
    diameter: float = LENS_DIAMETER
    pixel: float = PIXEL
    spectrum: tuple[tuple[tuple[float, float], ...], ...] = SPECTRUM


@dataclass(frozen=True, eq=False)
class Panel:
    """A display in front of the lens: one with a layout, whose PSF is computed on first use, or one with a known PSF.

    Attributes:
        name: what users type, or how a panel from a file calls itself.
        title: what users read.
        layout: coordinates (x, y) in µm -> transmitted amplitude in [0, 1]; None where `measured` is given.
        transmission: share of the light that reaches the sensor, per channel.
        light: electrons that radiance 1 would give without the panel; sets the noise.
        measured: the PSF (3, K, K), K odd, float32, each channel of unit sum; None where `layout` is given.
        full_well: electrons at which the sensor clips, per channel.
        read_noise: its standard deviation in electrons.
        source: where the panel comes from, in words.
        licence: under which others may use it.
    """

    name: str
    title: str
    layout: Layout | None
    transmission: Channels
    light: float
    measured: Tensor | None = None
    full_well: Channels = (FULL_WELL, FULL_WELL, FULL_WELL)
    read_noise: float = READ_NOISE
    source: str = ""
    licence: str = ""

    @property
    def psf(self) -> Tensor:
        """(3, K, K), K odd, float32, each channel of unit sum; the same tensor each time, not to be written to."""
        return layout_psf(self.layout) if self.measured is None else self.measured

    @property
    def electrons(self) -> Channels:
        """Electrons that radiance 1 gives behind the panel, per channel."""
        red, green, blue = (share * self.light for share in self.transmission)
        return red, green, blue

    @property
    def saturation(self) -> Channels:
        """Radiance at which a capture clips, per channel."""
        red, green, blue = (well / rate for well, rate in zip(self.full_well, self.electrons, strict=True))
        return red, green, blue


def fraunhofer(
    aperture: Tensor, *, step: float, wavelength: float, focal_length: float, pitch: float, size: int
) -> Tensor:
    """Far-field intensity |Σ A(x) exp(-2πi x·u/λf)|² step⁴ on a centred grid, by two matrix products.

    Args:
        aperture: transmitted amplitude (N, N).
        step: distance of its samples.
        wavelength, focal_length: of the light and of the lens.
        pitch: distance of the output samples in the focal plane.
        size: output side in samples.

    Returns:
        (size, size) float64.
    """
    device = aperture.device
    x = (torch.arange(aperture.shape[-1], dtype=torch.float64, device=device) - (aperture.shape[-1] - 1) / 2) * step
    u = (torch.arange(size, dtype=torch.float64, device=device) - (size - 1) / 2) * pitch
    phase = (-2 * math.pi / (wavelength * focal_length)) * u[:, None] * x[None, :]
    kernel = torch.polar(torch.ones_like(phase), phase).to(torch.complex64)
    field = kernel @ aperture.to(torch.complex64) @ kernel.T
    return (field.abs().double() ** 2) * step**4


def lens_aperture(layout: Layout, diameter: float = LENS_DIAMETER) -> Tensor:
    """The panel's amplitude inside the lens's circular pupil, float32 (N, N)."""
    count = math.ceil(diameter / APERTURE_STEP) + 2
    axis = (np.arange(count) - (count - 1) / 2) * APERTURE_STEP
    x, y = np.meshgrid(axis, axis)
    pupil = np.hypot(x, y) <= diameter / 2
    return torch.from_numpy((layout(x, y) * pupil).astype(np.float32))


def compute_psf(layout: Layout, *, radius: int = PSF_RADIUS, lens: Lens | None = None) -> Tensor:
    """PSF (3, 2·radius+1, 2·radius+1), float32, each channel of unit sum; behind a phone's lens by default."""
    lens = lens or Lens()
    aperture = lens_aperture(layout, lens.diameter)
    size = 2 * radius + 1
    channels = []
    for lines in lens.spectrum:
        intensity = torch.zeros(size * SUBSAMPLES, size * SUBSAMPLES, dtype=torch.float64)
        for wavelength, weight in lines:
            line = fraunhofer(
                aperture,
                step=APERTURE_STEP,
                wavelength=wavelength,
                focal_length=lens.focal_length,
                pitch=lens.pixel / SUBSAMPLES,
                size=size * SUBSAMPLES,
            )
            intensity += weight / wavelength**2 * line
        pixels = F.avg_pool2d(intensity[None, None], SUBSAMPLES)[0, 0]
        channels.append(pixels / pixels.sum())
    return torch.stack(channels).float()


@lru_cache(maxsize=8)
def layout_psf(layout: Layout) -> Tensor:
    """The PSF of a layout, computed once per process (about two seconds)."""
    return compute_psf(layout)


def vary_psf(psf: Tensor, *, rotation: float = 0.0, scale: float = 1.0, strength: float = 1.0) -> Tensor:
    """The same panel seen from another place: side lobes turned, stretched and weighted, the core kept.

    Args:
        psf: (3, K, K), unit sum.
        rotation: degrees.
        scale: of the lobes' radii.
        strength: of the lobes' energy.

    Returns:
        (3, K, K), unit sum.
    """
    side = psf.shape[-1]
    axis = torch.arange(side, dtype=psf.dtype) - side // 2
    core = (torch.hypot(*torch.meshgrid(axis, axis, indexing="ij")) <= 2.5).to(psf)
    cos, sin = math.cos(math.radians(rotation)) / scale, math.sin(math.radians(rotation)) / scale
    affine = psf.new_tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]])
    grid = F.affine_grid(affine, [1, 3, side, side], align_corners=True)
    lobes = psf * (1 - core)
    moved = F.grid_sample(lobes[None], grid, align_corners=True)[0] * (1 - core)
    energy = lobes.sum((-2, -1), keepdim=True) / moved.sum((-2, -1), keepdim=True).clamp_min(1e-12)
    varied = psf * core + moved * energy * strength
    return varied / varied.sum((-2, -1), keepdim=True)


def random_psf(psf: Tensor, generator: torch.Generator) -> Tensor:
    """A draw of the positions on a panel: any rotation within ±15°, scale ±5 %, strength ±20 %."""
    rotation, scale, strength = (torch.rand(3, generator=generator) * 2 - 1).tolist()
    return vary_psf(psf, rotation=15 * rotation, scale=1 + 0.05 * scale, strength=1 + 0.2 * strength)


def _soft(distance: np.ndarray) -> np.ndarray:
    """Edge at distance 0 (positive inside), antialiased over one aperture sample."""
    return np.clip(distance / APERTURE_STEP + 0.5, 0.0, 1.0)


def _stripes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """T-OLED: vertical openings of 35 µm in a pitch of 168 µm (open ratio 0.21)."""
    offset = np.abs((x + 84.0) % 168.0 - 84.0)
    return _soft(17.6 - offset)


def _pentile(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P-OLED: diamonds of red and blue, small ones of green between them, and wires; open ratio 0.27."""
    pitch = 126.0

    def diamond(cx: float, cy: float, half: float) -> np.ndarray:
        dx = np.abs((x - cx * pitch + pitch / 2) % pitch - pitch / 2)
        dy = np.abs((y - cy * pitch + pitch / 2) % pitch - pitch / 2)
        return _soft((half - dx - dy) / math.sqrt(2))

    opaque = np.maximum(diamond(0, 0, 48.0), diamond(0.5, 0.5, 48.0))
    for centre in ((0.5, 0.0), (0.0, 0.5)):
        opaque = np.maximum(opaque, diamond(*centre, 28.0))
    wires = _soft(5.0 - np.abs((y + pitch / 4) % (pitch / 2) - pitch / 4))
    return 1.0 - np.maximum(opaque, wires)


def _hexagonal_grid(spacing: float, turned: float) -> np.ndarray:
    """Points (n, 2) of a hexagonal grid, turned by radians, that cover the lens."""
    count = int(LENS_DIAMETER / spacing) + 4
    i, j = np.meshgrid(np.arange(-count, count + 1), np.arange(-count, count + 1))
    points = np.stack([(i + j / 2) * spacing, j * spacing * math.sqrt(3) / 2], axis=-1).reshape(-1, 2)
    rotation = np.array([[math.cos(turned), math.sin(turned)], [-math.sin(turned), math.cos(turned)]])
    points = points @ rotation
    return points[np.hypot(*points.T) < LENS_DIAMETER / 2 + spacing]


@dataclass(frozen=True)
class DiscLayout:
    """Opaque discs on hexagonal grids, with vacancies and scatter; drawn from a fixed seed, the same on every machine.

    Attributes:
        grids: (spacing, radius, turn) of each grid, in µm and radians.
        occupancy: share of grid points that hold a disc.
        position_scatter: standard deviation of a disc's place, µm.
        radius_scatter: relative standard deviation of a disc's radius.
    """

    grids: tuple[tuple[float, float, float], ...]
    occupancy: float
    position_scatter: float
    radius_scatter: float

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(0)
        amplitude = np.ones_like(x)
        for spacing, radius, turned in self.grids:
            points = _hexagonal_grid(spacing, turned)
            points = points[random.random(len(points)) < self.occupancy]
            points = points + random.normal(size=points.shape) * self.position_scatter
            radii = radius * np.clip(1 + random.normal(size=len(points)) * self.radius_scatter, 0.2, 2.0)
            for (cx, cy), disc in zip(points, radii, strict=True):
                _punch(amplitude, x, y, cx, cy, disc)
        return amplitude


# Fitted by benchmarks/fit_axon20.py to published figures of the phone: two grids turned by 30° give the rosette of
# twelve, their vacancies the halo between the lobes, the discs' size its extent. Open ratio 0.62.
AXON20 = DiscLayout(
    grids=((46.0, 16.2, 0.0), (55.7, 14.4, math.pi / 6)),
    occupancy=0.57,
    position_scatter=4.0,
    radius_scatter=0.286,
)


def _punch(amplitude: np.ndarray, x: np.ndarray, y: np.ndarray, cx: float, cy: float, radius: float) -> None:
    """Make one disc opaque, touching only the window around it."""
    reach = radius + 2 * APERTURE_STEP
    top, bottom = np.searchsorted(y[:, 0], [cy - reach, cy + reach])
    left, right = np.searchsorted(x[0], [cx - reach, cx + reach])
    window = (slice(top, bottom), slice(left, right))
    amplitude[window] *= _soft(np.hypot(x[window] - cx, y[window] - cy) - radius)


PANELS = {
    panel.name: panel
    for panel in (
        Panel("axon20", "ZTE Axon 20-like: rosette of flare", AXON20, (0.60, 0.62, 0.58), LIGHT),
        Panel("toled", "T-OLED: stripes, blur across them", _stripes, (0.20, 0.20, 0.19), 10_024.0),
        Panel("poled", "P-OLED: pentile, dim and hazy", _pentile, (0.031, 0.029, 0.019), 10_024.0),
    )
}
