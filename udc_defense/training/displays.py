"""Displays that nobody built: PSFs drawn from families of layouts, for restorers that shall work behind any display.

A family is a drawing of the openings in front of the lens, diffracted as those of `optics`, or a PSF that looks like a
measured one. `HELD_OUT` is never drawn in training: restorers are measured behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from udc_defense.optics import APERTURE_STEP, FOCAL_LENGTH, LENS_DIAMETER, PIXEL, SPECTRUM, SUBSAMPLES, fraunhofer

RADIUS = 128  # pixels
TABLE = 64  # cells after which the scatter of a layout repeats
LIGHT_REACH = 2.5  # pixels: what lies within is the PSF's core

Draw = Callable[[float, float], float]


class Lattice:
    """Points on a grid, each moved and resized a little: distances from them to every point of the aperture.

    Args:
        draw: of the sizes and of the seed of the scatter.
        pitch: µm between points.
        hexagonal: rows are shifted by half a pitch.
        scatter: standard deviation of a point's place, in pitches; `spread`: of its size, relative.
        occupancy: share of the grid's points that are there.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        draw: Draw,
        *,
        pitch: float,
        hexagonal: bool = False,
        scatter: float = 0.0,
        spread: float = 0.0,
        occupancy: float = 1.0,
    ) -> None:
        self.pitch = pitch
        self.rows = pitch * (math.sqrt(3) / 2 if hexagonal else 1.0)
        self.shift = 0.5 if hexagonal else 0.0
        self.x, self.y = x + draw(0, pitch), y + draw(0, pitch)
        random = torch.Generator().manual_seed(int(draw(0, 2**31)))
        tables = torch.randn(3, TABLE, TABLE, generator=random)
        self.moves = (tables[:2] * scatter * pitch).to(x)
        self.sizes = (1 + spread * tables[2]).clamp(0.2, 2.0).to(x)
        self.there = (torch.rand(TABLE, TABLE, generator=random) < occupancy).to(x)

    def nearest(self, distance: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """The largest `distance(dx, dy, size)`, µm and positive inside a shape, over the points around each place."""
        row = torch.round(self.y / self.rows)
        best = torch.full_like(self.x, -1e6)
        for i in (-1, 0, 1):
            line = row + i
            offset = self.shift * torch.remainder(line, 2)
            column = torch.round(self.x / self.pitch - offset)
            for j in (-1, 0, 1):
                cell = (torch.remainder(line, TABLE).long(), torch.remainder(column + j, TABLE).long())
                dx = self.x - (column + j + offset) * self.pitch - self.moves[0][cell]
                dy = self.y - line * self.rows - self.moves[1][cell]
                found = distance(dx, dy, self.sizes[cell])
                best = torch.where(self.there[cell] > 0, torch.maximum(best, found), best)
        return best


def _soft(distance: Tensor) -> Tensor:
    """Edge at distance 0 (positive inside), antialiased over one aperture sample."""
    return (distance / APERTURE_STEP + 0.5).clamp(0, 1)


def _disc(radius: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda dx, dy, size: radius * size - torch.hypot(dx, dy)


def _diamond(half: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda dx, dy, size: (half * size - dx.abs() - dy.abs()) / math.sqrt(2)


def _rectangle(width: float, height: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda dx, dy, size: torch.minimum(width * size / 2 - dx.abs(), height * size / 2 - dy.abs())


def _triangle(radius: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """An equilateral triangle of that inner radius."""

    def inside(dx: Tensor, dy: Tensor, size: Tensor) -> Tensor:
        sides = [dx * math.sin(turn) - dy * math.cos(turn) for turn in (math.pi, math.pi / 3, -math.pi / 3)]
        return radius * size - torch.stack(sides).amax(dim=0)

    return inside


def _stripes(x: Tensor, y: Tensor, draw: Draw) -> Tensor:
    """Openings between opaque stripes."""
    pitch = draw(60, 300)
    offset = (torch.remainder(x + draw(0, pitch), pitch) - pitch / 2).abs()
    return _soft(pitch * draw(0.2, 0.8) / 2 - offset)


def _discs(x: Tensor, y: Tensor, draw: Draw) -> Tensor:
    """Opaque discs, scattered, on one or two grids that are turned against each other."""
    amplitude = torch.ones_like(x)
    for _ in range(1 + int(draw(0, 2))):
        pitch, turn = draw(30, 120), draw(0, math.pi)
        u, v = _turned(x, y, turn)
        lattice = Lattice(
            u,
            v,
            draw,
            pitch=pitch,
            hexagonal=draw(0, 1) < 0.5,
            scatter=draw(0, 0.15),
            spread=draw(0, 0.3),
            occupancy=draw(0.4, 1),
        )
        amplitude = amplitude * (1 - _soft(lattice.nearest(_disc(pitch * draw(0.2, 0.42)))))
    return amplitude


def _holes(x: Tensor, y: Tensor, draw: Draw) -> Tensor:
    """Round openings in an opaque display."""
    pitch = draw(40, 150)
    lattice = Lattice(x, y, draw, pitch=pitch, hexagonal=draw(0, 1) < 0.5, scatter=draw(0, 0.1), spread=draw(0, 0.2))
    return _soft(lattice.nearest(_disc(pitch * draw(0.3, 0.62))))


def _pentile(x: Tensor, y: Tensor, draw: Draw) -> Tensor:
    """Diamonds of two sizes on interleaved square grids, and wires."""
    pitch = draw(60, 200)
    large, small = draw(0.2, 0.4) * pitch, draw(0.1, 0.25) * pitch
    still: Draw = lambda low, high: low  # noqa: E731  all three grids start at the same place
    opaque = torch.zeros_like(x)
    for cx, cy, half in ((0.0, 0.0, large), (0.5, 0.5, large), (0.5, 0.0, small), (0.0, 0.5, small)):
        lattice = Lattice(x - cx * pitch, y - cy * pitch, still, pitch=pitch)
        opaque = torch.maximum(opaque, _soft(lattice.nearest(_diamond(half))))
    return 1 - torch.maximum(opaque, _wire(y, pitch / 2, draw(2, 12)))


def _rectangles(x: Tensor, y: Tensor, draw: Draw) -> Tensor:
    """Opaque rectangles on a square or a shifted grid, with wires in one direction."""
    pitch = draw(40, 180)
    lattice = Lattice(x, y, draw, pitch=pitch, hexagonal=draw(0, 1) < 0.5, scatter=draw(0, 0.05))
    opaque = _soft(lattice.nearest(_rectangle(pitch * draw(0.3, 0.8), pitch * draw(0.3, 0.8))))
    return (1 - opaque) * (1 - _wire(x, pitch, draw(2, 12)))


def _triangles(x: Tensor, y: Tensor, draw: Draw) -> Tensor:
    """Opaque triangles on a hexagonal grid; held out."""
    pitch = draw(40, 140)
    lattice = Lattice(x, y, draw, pitch=pitch, hexagonal=True, scatter=draw(0, 0.1), spread=draw(0, 0.2))
    return 1 - _soft(lattice.nearest(_triangle(pitch * draw(0.15, 0.28))))


def _mesh(x: Tensor, y: Tensor, draw: Draw) -> Tensor:
    """Crossed wires and nothing else; held out."""
    pitch = draw(30, 120)
    lines = (_wire(axis, pitch * draw(0.8, 1.25), pitch * draw(0.1, 0.35)) for axis in (x, y))
    return math.prod((1 - line for line in lines), start=torch.ones_like(x))


def _wire(axis: Tensor, pitch: float, width: float) -> Tensor:
    return _soft(width / 2 - (torch.remainder(axis, pitch) - pitch / 2).abs())


def _turned(x: Tensor, y: Tensor, turn: float) -> tuple[Tensor, Tensor]:
    cos, sin = math.cos(turn), math.sin(turn)
    return cos * x - sin * y, sin * x + cos * y


def _rosette(radius: Tensor, angle: Tensor, draw: Draw) -> Tensor:
    """Rings of lobes around a sharp core, as measured behind panels of discs."""
    log = torch.zeros_like(radius)
    for _ in range(2 + int(draw(0, 4))):
        arms, at, width = 3 * int(draw(1, 6)), math.exp(draw(math.log(4), math.log(50))), draw(0.1, 0.3)
        ring = torch.exp(-((torch.log((radius + 0.5) / at) / width) ** 2) / 2)
        log = log + ring * math.log(draw(2, 8)) * torch.cos(arms * (angle + draw(0, 6.3))).clamp_min(0)
    return (radius + draw(1, 8)) ** -draw(1.6, 3.2) * torch.exp(log)


def _halo(radius: Tensor, angle: Tensor, draw: Draw) -> Tensor:
    """A smooth veil, wider in one direction."""
    wide = 1 + draw(0, 0.5) * torch.cos(2 * (angle + draw(0, 6.3)))
    scale = math.exp(draw(math.log(5), math.log(40)))
    return torch.exp(-radius * wide / scale) + draw(0, 0.1) * torch.exp(-radius / (4 * scale))


def _streaks(radius: Tensor, angle: Tensor, draw: Draw) -> Tensor:
    """A star of straight streaks; held out."""
    arms = 2 * int(draw(2, 5))
    across = torch.sin(arms / 2 * (angle + draw(0, 6.3))).abs() * (radius + 1)
    return (radius + draw(2, 6)) ** -draw(1.2, 2.2) * (torch.exp(-((across / draw(1, 3)) ** 2)) + draw(0, 0.05))


LAYOUTS = {
    "stripes": _stripes,
    "discs": _discs,
    "holes": _holes,
    "pentile": _pentile,
    "rectangles": _rectangles,
    "triangles": _triangles,
    "mesh": _mesh,
}
MEASURED_LIKE = {"rosette": _rosette, "halo": _halo, "streaks": _streaks}
FAMILIES = (*LAYOUTS, *MEASURED_LIKE)
HELD_OUT = ("triangles", "mesh", "streaks")
DRAWN = tuple(name for name in FAMILIES if name not in HELD_OUT)


def draw_psf(family: str, seed: int, *, radius: int = RADIUS, device: str | torch.device = "cpu") -> Tensor:
    """The PSF (3, 2·radius+1, 2·radius+1), float32, each channel of unit sum, of one display of a family."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    make = _diffracted if family in LAYOUTS else _shaped
    return _defocused(make(family, draw, radius, torch.device(device)), 2 * draw(0, 1) if draw(0, 1) < 0.3 else 0.0)


def _diffracted(family: str, draw: Draw, radius: int, device: torch.device) -> Tensor:
    """Far field of a layout, turned and scaled, inside the lens's pupil."""
    count = math.ceil(LENS_DIAMETER / APERTURE_STEP) + 2
    axis = (torch.arange(count, device=device) - (count - 1) / 2) * APERTURE_STEP
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    pupil = torch.hypot(x, y) <= LENS_DIAMETER / 2
    aperture = LAYOUTS[family](*_turned(x, y, draw(0, math.pi)), draw) * pupil
    side, channels = 2 * radius + 1, []
    for lines in SPECTRUM:
        fields = [weight / wave**2 * _far_field(aperture, wave, side * SUBSAMPLES) for wave, weight in lines]
        channels.append(F.avg_pool2d(torch.stack(fields).sum(0)[None, None], SUBSAMPLES)[0, 0])
    return _normalised(torch.stack(channels).float())


def _far_field(aperture: Tensor, wavelength: float, size: int) -> Tensor:
    return fraunhofer(
        aperture,
        step=APERTURE_STEP,
        wavelength=wavelength,
        focal_length=FOCAL_LENGTH,
        pitch=PIXEL / SUBSAMPLES,
        size=size,
    )


def _shaped(family: str, draw: Draw, radius: int, device: torch.device) -> Tensor:
    """A core of one to two pixels with 30 to 95 % of the light, and a veil whose radii grow with the wavelength."""
    axis = torch.arange(-radius, radius + 1, device=device, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    distance, angle = torch.hypot(x, y), torch.atan2(y, x)
    speckle = draw(0, 1) * torch.randn(distance.shape, generator=torch.Generator().manual_seed(int(draw(0, 2**31)))).to(
        device
    )
    share, sharp, seed = draw(0.3, 0.95), draw(0.35, 0.9), int(draw(0, 2**31))
    core = torch.exp(-((distance / sharp) ** 2) / 2)
    channels = []
    for lines in SPECTRUM:
        again = torch.Generator().manual_seed(seed)  # each colour has the same veil, stretched

        def same(low: float, high: float, again: torch.Generator = again) -> float:
            return low + (high - low) * float(torch.rand((), generator=again))

        veil = MEASURED_LIKE[family](distance * (0.53 / lines[1][0]), angle, same) * torch.exp(speckle / 2)
        channels.append(share * core / core.sum() + (1 - share) * veil / veil.sum())
    return torch.stack(channels)


def _defocused(psf: Tensor, blur: float) -> Tensor:
    """The PSF behind a lens out of focus by a disc of that radius in pixels."""
    if blur < 0.5:
        return psf
    reach = math.ceil(blur)
    axis = torch.arange(-reach, reach + 1, device=psf.device, dtype=psf.dtype)
    disc = (blur + 0.5 - torch.hypot(axis[:, None], axis[None, :])).clamp(0, 1)
    return _normalised(F.conv2d(psf[:, None], disc[None, None] / disc.sum(), padding=reach)[:, 0])


def _normalised(psf: Tensor) -> Tensor:
    return psf / psf.sum((-2, -1), keepdim=True)
