"""What a display's optics give to a restorer: filters in linear light, by FFT on the whole image.

A restorer that knows the display holds it as `Optics`: buffers set by `for_panel`, never weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor

from udc_defense.imaging import KNEE, MAX_RADIANCE, MEDIAN_LUMINANCE, tone_map
from udc_defense.optics import READ_NOISE
from udc_defense.restorers.base import Restorer

if TYPE_CHECKING:
    from udc_defense.optics import Panel

LARGE = 2_000_000  # pixels above which channels are filtered one after the other, to bound memory
CLIPPED_MARGIN, CLIPPED_RAMP = 0.005, 0.004  # below the tone at which the sensor saturates
BLIND_NOISE = 0.002
TONE_LIMIT = MAX_RADIANCE / (MAX_RADIANCE + KNEE)


class Optics(NamedTuple):
    """What a restorer knows of the display that it looks through; each part per image of a batch, or for all.

    Attributes:
        psf: (3, K, K) or (B, 3, K, K), K odd, each channel of unit sum.
        saturation: radiance at which the capture clips, (3, 1, 1) or (B, 3, 1, 1).
        noise: variance over squared signal of a surface of median radiance, (3, 1, 1) or (B, 3, 1, 1).
    """

    psf: Tensor
    saturation: Tensor
    noise: Tensor


def panel_optics(panel: Panel) -> Optics:
    """The optics of a panel: its PSF, and the noise and saturation that follow from its light and transmission."""
    gain = torch.tensor(panel.electrons).view(3, 1, 1)
    return Optics(
        panel.psf, torch.tensor(panel.saturation).view(3, 1, 1), relative_noise(gain, read_noise=panel.read_noise)
    )


def relative_noise(gain: Tensor, *, read_noise: float = READ_NOISE) -> Tensor:
    """Variance over squared signal at median radiance, of shot and read noise, for a gain in electrons."""
    return (MEDIAN_LUMINANCE / gain + (read_noise / gain) ** 2) / MEDIAN_LUMINANCE**2


def unknown_optics() -> Optics:
    """Those of no display: a PSF of one pixel, nothing saturated, little noise."""
    return Optics(torch.ones(3, 1, 1), torch.full((3, 1, 1), MAX_RADIANCE), torch.full((3, 1, 1), BLIND_NOISE))


class OpticsRestorer(Restorer):
    """Base of restorers that take the display's optics; blind until `for_panel` says through which one they look."""

    not_exportable = "its filters work on the spectrum of the whole image, which ONNX cannot take at any size"

    def __init__(self) -> None:
        super().__init__()
        self.bind(unknown_optics())

    def bind(self, optics: Optics) -> None:
        """Set the optics as buffers that are not saved with the weights."""
        for name, value in optics._asdict().items():
            self.register_buffer(name, value, persistent=False)

    def for_panel(self, panel: Panel | None) -> Self:
        """The same network, bound to a panel, or blind; the weights are shared, this one stays as it is."""
        bound = copy.copy(self)
        bound._buffers = dict(self._buffers)
        optics = unknown_optics() if panel is None else panel_optics(panel)
        bound.bind(Optics(*(part.to(self.psf.device) for part in optics)))
        return bound


def wiener(image: Tensor, psf: Tensor, strengths: Iterable[Tensor], *, circular: bool = False) -> list[Tensor]:
    """Deconvolve linear light by Wiener filters G = H̄ (1 + λ) / (|H|² + λ), which keep the mean.

    Args:
        image: (B, 3, H, W), continued beyond its edges by reflection.
        psf: (3, K, K) or (B, 3, K, K).
        strengths: the λ of each result, (3, 1, 1) or (B, 3, 1, 1).
        circular: the image, which must be at least as large as the PSF, goes on at its opposite edge instead.

    Returns:
        One (B, 3, H, W) for each strength; values may be negative.
    """
    strengths = list(strengths)

    def filters(transfer: Tensor, channels: slice) -> Iterable[Tensor]:
        power = transfer.real.square() + transfer.imag.square()
        for strength in strengths:
            weight = strength[..., channels, :, :]
            yield transfer.conj() * ((1 + weight) / (power + weight))

    return filtered(image, psf, filters, len(strengths), circular=circular)


def blurred(image: Tensor, psf: Tensor, *, transposed: bool = False) -> Tensor:
    """Convolve (B, 3, H, W), continued by reflection, with the PSF; `transposed` correlates instead."""
    return filtered(image, psf, lambda transfer, _: [transfer.conj() if transposed else transfer], 1)[0]


def filtered(
    image: Tensor,
    psf: Tensor,
    filters: Callable[[Tensor, slice], Iterable[Tensor]],
    count: int,
    *,
    circular: bool = False,
) -> list[Tensor]:
    """Multiply the spectrum of an image by `count` filters, made from the transfer function of some channels."""
    height, width = image.shape[-2:]
    margin = 0 if circular else psf.shape[-1] // 2
    rows, columns = (height, width) if circular else (_fast_size(side + 2 * margin) for side in (height, width))
    inner = (..., slice(margin, margin + height), slice(margin, margin + width))
    step = 3 if height * width <= LARGE else 1
    parts: list[list[Tensor]] = [[] for _ in range(count)]
    for first in range(0, 3, step):
        channels = slice(first, first + step)
        padded = mirrored(image[:, channels], margin, (rows, columns))
        spectrum, transfer = torch.fft.rfft2(padded), transfer_function(psf[..., channels, :, :], (rows, columns))
        for part, weights in zip(parts, filters(transfer, channels), strict=True):
            part.append(torch.fft.irfft2(spectrum * weights, s=(rows, columns))[inner])
    return [part[0] if step == 3 else torch.cat(part, dim=1) for part in parts]


def transfer_function(psf: Tensor, size: tuple[int, int]) -> Tensor:
    """The spectrum of a centred PSF (…, K, K) on a grid of that size, as `rfft2` gives it."""
    reach = psf.shape[-1] // 2
    grid = torch.nn.functional.pad(psf, (0, size[1] - psf.shape[-1], 0, size[0] - psf.shape[-2]))
    return torch.fft.rfft2(grid.roll((-reach, -reach), dims=(-2, -1)))


def mirrored(image: Tensor, margin: int, size: tuple[int, int]) -> Tensor:
    """Continue an image by half-sample reflection: `margin` pixels before its first, up to `size` in all."""
    rows, columns = (
        _reflection(side, margin, total, image.device) for side, total in zip(image.shape[-2:], size, strict=True)
    )
    return image[..., rows, :][..., columns]


def _reflection(side: int, margin: int, total: int, device: torch.device) -> Tensor:
    index = torch.arange(-margin, total - margin, device=device) % (2 * side)
    return torch.where(index < side, index, 2 * side - 1 - index)


def _fast_size(size: int) -> int:
    """The next size that has no prime factor above 5, for which FFTs are fast."""
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 1


def signed_tone_map(radiance: Tensor) -> Tensor:
    """X / (|x| + 0.25): the tone map, odd, because filters give negative light."""
    return radiance / (radiance.abs() + KNEE)


def signed_light(image: Tensor) -> Tensor:
    """Tone-mapped values, any, to linear light: the inverse tone map, odd, and straight on beyond its largest value.

    Unlike `inverse_tone_map` it clamps nothing, so an attacker sees the gradient at every value.
    """
    inside = image.clamp(-TONE_LIMIT, TONE_LIMIT)
    return KNEE * inside / (1 - inside.abs()) + (image - inside) * KNEE / (1 - TONE_LIMIT) ** 2


def clipped_share(image: Tensor, saturation: Tensor) -> Tensor:
    """How far each tone-mapped value (B, 3, H, W) is clipped: 0 below saturation, 1 at it, a short ramp between."""
    return ((image - tone_map(saturation) + CLIPPED_MARGIN) / CLIPPED_RAMP).clamp(0, 1)


def halved_psf(psf: Tensor) -> Tensor:
    """The PSF of captures whose 2×2 blocks of pixels are averaged; K odd stays odd."""
    weights = psf.new_tensor([0.5, 1.0, 0.5])
    kernel = (weights[:, None] * weights[None, :]).expand(1, 1, 3, 3)
    reach = psf.shape[-1] // 2
    margin = 1 + reach % 2  # keeps the centre on an even sample
    flat = torch.nn.functional.pad(psf.reshape(-1, 1, *psf.shape[-2:]), (margin,) * 4)
    small = torch.nn.functional.conv2d(flat, kernel, stride=2)
    return small.reshape(*psf.shape[:-2], *small.shape[-2:])
