"""Scene to capture: the tone map, its bounded inverse, and the noise of an under-display camera.

The forward model is y = φ(clip(Poisson(τ·g·(x ∗ k)) + read noise)) with the full well as clip; the camera's gain gives
the display's light loss back before the tone map, so no network wins by learning a gain
(image formation: arXiv 2104.09556 and 2003.04857; sensor constants: CMU UPC, ICCP 2021).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from udc_defense.errors import SettingError
from udc_defense.noise import Generators, check_generator
from udc_defense.tensors import check_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from udc_defense.optics import Panel

MAX_RADIANCE = 500.0
MEDIAN_LUMINANCE = 0.2
KNEE = 0.25
LUMINANCE = (0.2126, 0.7152, 0.0722)  # Rec. 709


def tone_map(radiance: Tensor) -> Tensor:
    """Linear radiance (any shape, 0…500) to the tone-mapped domain [0, 1): x / (x + 0.25)."""
    return radiance / (radiance + KNEE)


def inverse_tone_map(image: Tensor) -> Tensor:
    """Tone-mapped values (any shape, [0, 1]) to linear radiance; finite at 1.0, because t is clamped at φ(500)."""
    t = image.clamp(0.0, MAX_RADIANCE / (MAX_RADIANCE + KNEE))
    return KNEE * t / (1.0 - t)


def expose(scene: Tensor, *, margin: int = 0) -> Tensor:
    """Scale each scene (B, 3, H, W) to a median luminance of 0.2, then clip it to 0…500.

    The median is of the frame alone, without the `margin` pixels of surroundings on each side. A scene that is black
    at its median keeps its scale: there is no exposure that would show it.
    """
    luminance = torch.einsum("bchw,c->bhw", without_margin(scene, margin), scene.new_tensor(LUMINANCE))
    median = luminance.flatten(1).median(dim=1).values
    gain = torch.where(median > 0, MEDIAN_LUMINANCE / median.clamp_min(1e-12), torch.ones_like(median))
    return (scene * gain.view(-1, 1, 1, 1)).clamp(0.0, MAX_RADIANCE)


def without_margin(scene: Tensor, margin: int) -> Tensor:
    """The frame of a scene (…, H + 2·margin, W + 2·margin) whose surroundings are `margin` pixels wide on each side.

    Raises:
        SettingError: the margin is negative, or nothing lies within it.
    """
    height, width = scene.shape[-2:]
    if not 0 <= 2 * margin < min(height, width):
        raise SettingError(f"a margin of {margin} pixels on each side does not fit a scene of {width}x{height} pixels.")
    return scene[..., margin : height - margin, margin : width - margin]


def convolve(scene: Tensor, psf: Tensor, *, margin: int = 0) -> Tensor:
    """Convolve (B, 3, H, W) with a PSF (3, K, K), K odd, or one PSF per sample (B, 3, K, K); K may exceed H and W.

    The light of the outer `margin` pixels spreads into the frame, and they are cut off. Beyond them the scene is
    continued by reflection, which keeps the total light for a symmetric PSF.
    """
    reach = psf.shape[-1] // 2
    height, width = without_margin(scene, margin).shape[-2:]
    beyond = reach - margin  # pixels to add on each side, or to cut off where negative
    rows, columns = (reflected(-beyond, side + beyond, side, scene.device) for side in scene.shape[-2:])
    padded = scene[..., rows, :][..., columns]
    size = padded.shape[-2:]
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(psf, s=size)
    full = torch.fft.irfft2(spectrum, s=size)
    return full[..., 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]


def reflected(start: int, stop: int, size: int, device: torch.device | None = None) -> Tensor:
    """Indices start … stop-1, those outside of 0…size-1 folded back into it (half-sample symmetric, however far)."""
    index = torch.arange(start, stop, device=device) % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)


def capture(
    scene: Tensor, panel: Panel, *, psf: Tensor | None = None, margin: int = 0, generator: Generators = None
) -> Tensor:
    """What the under-display camera gives for a scene.

    Args:
        scene: linear radiance (B, 3, H + 2·margin, W + 2·margin), 0…500, already exposed.
        panel: the display in front of the lens.
        psf: (3, K, K) or (B, 3, K, K), each channel of unit sum; the panel's own by default.
        margin: pixels of surroundings on each side, whose light flares into the frame. Beyond them, or where there are
            none, the scene is mirrored.
        generator: CPU generator, or one per sample, for shot and read noise.

    Returns:
        The capture of the frame (B, 3, H, W) in the tone-mapped domain, in [0, 1).
    """
    check_shape(scene, "the scene")
    check_generator(generator)
    psf = panel.psf if psf is None else psf
    gain = scene.new_tensor(panel.transmission).view(1, 3, 1, 1) * panel.light
    full_well = scene.new_tensor(panel.full_well).view(1, 3, 1, 1)
    electrons = (convolve(scene, psf.to(scene), margin=margin) * gain).clamp_min(0.0)
    noisy = _sensor_noise(electrons.minimum(2 * full_well), panel.read_noise, generator)
    return tone_map(noisy.clamp_min(0.0).minimum(full_well) / gain)


def _sensor_noise(electrons: Tensor, read_noise: float, generator: Generators) -> Tensor:
    """Shot noise (Poisson) plus Gaussian read noise, drawn on the CPU sample by sample."""
    rates = electrons.cpu()
    generators: Sequence[torch.Generator | None]
    generators = generator if isinstance(generator, list) else [generator] * len(rates)
    samples = [
        torch.poisson(rate, generator=g) + read_noise * torch.randn(rate.shape, generator=g)
        for rate, g in zip(rates, generators, strict=True)
    ]
    return torch.stack(samples).to(electrons)
