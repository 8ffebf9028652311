"""Scene to capture: the tone map, its bounded inverse, and the noise of an under-display camera.

The forward model is y = φ(clip(Poisson(τ·g·(x ∗ k)) + read noise)) with the full well as clip; the camera's gain gives
the display's light loss back before the tone map, so no network wins by learning a gain
(image formation: arXiv 2104.09556 and 2003.04857; sensor constants: CMU UPC, ICCP 2021).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from udc_defense.noise import Generators

if TYPE_CHECKING:
    from collections.abc import Sequence

    from udc_defense.optics import Panel

MAX_RADIANCE = 500.0
MEDIAN_LUMINANCE = 0.2
FULL_WELL = 15_506.0  # electrons
READ_NOISE = 4.87  # electrons, standard deviation
KNEE = 0.25
LUMINANCE = (0.2126, 0.7152, 0.0722)  # Rec. 709


def tone_map(radiance: Tensor) -> Tensor:
    """Linear radiance (any shape, 0…500) to the tone-mapped domain [0, 1): x / (x + 0.25)."""
    return radiance / (radiance + KNEE)


def inverse_tone_map(image: Tensor) -> Tensor:
    """Tone-mapped values (any shape, [0, 1]) to linear radiance; finite at 1.0, because t is clamped at φ(500)."""
    t = image.clamp(0.0, MAX_RADIANCE / (MAX_RADIANCE + KNEE))
    return KNEE * t / (1.0 - t)


def expose(scene: Tensor) -> Tensor:
    """Scale each scene (B, 3, H, W) to a median luminance of 0.2, then clip it to 0…500.

    A scene that is black at its median keeps its scale: there is no exposure that would show it.
    """
    luminance = torch.einsum("bchw,c->bhw", scene, scene.new_tensor(LUMINANCE))
    median = luminance.flatten(1).median(dim=1).values
    gain = torch.where(median > 0, MEDIAN_LUMINANCE / median.clamp_min(1e-12), torch.ones_like(median))
    return (scene * gain.view(-1, 1, 1, 1)).clamp(0.0, MAX_RADIANCE)


def convolve(scene: Tensor, psf: Tensor) -> Tensor:
    """Convolve (B, 3, H, W) with a PSF (3, K, K), K odd, or one PSF per sample (B, 3, K, K).

    The scene is continued beyond its edges by reflection, which keeps the total light for a symmetric PSF.
    """
    height, width = scene.shape[-2:]
    margin = psf.shape[-1] // 2
    padded = scene[..., _reflected(height, margin, scene.device), :][..., _reflected(width, margin, scene.device)]
    size = padded.shape[-2:]
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(psf, s=size)
    full = torch.fft.irfft2(spectrum, s=size)
    return full[..., 2 * margin : 2 * margin + height, 2 * margin : 2 * margin + width]


def _reflected(size: int, margin: int, device: torch.device) -> Tensor:
    """Indices -margin … size+margin-1 folded back into 0…size-1 (half-sample symmetric, any margin)."""
    index = torch.arange(-margin, size + margin, device=device) % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)


def capture(scene: Tensor, panel: Panel, *, psf: Tensor | None = None, generator: Generators = None) -> Tensor:
    """What the under-display camera gives for a scene.

    Args:
        scene: linear radiance (B, 3, H, W), 0…500, already exposed.
        panel: the display in front of the lens.
        psf: (3, K, K) or (B, 3, K, K), each channel of unit sum; the panel's own by default.
        generator: CPU generator, or one per sample, for shot and read noise.

    Returns:
        The capture (B, 3, H, W) in the tone-mapped domain, in [0, 1).
    """
    from udc_defense.optics import panel_psf

    psf = panel_psf(panel.name) if psf is None else psf
    gain = scene.new_tensor(panel.transmission).view(1, 3, 1, 1) * panel.light
    electrons = (convolve(scene, psf.to(scene)) * gain).clamp_min(0.0)
    noisy = _sensor_noise(electrons, generator).clamp(0.0, FULL_WELL)
    return tone_map(noisy / gain)


def _sensor_noise(electrons: Tensor, generator: Generators) -> Tensor:
    """Shot noise (Poisson, capped at the full well) plus Gaussian read noise, drawn on the CPU sample by sample."""
    rates = electrons.clamp_max(2 * FULL_WELL).cpu()
    generators: Sequence[torch.Generator | None]
    generators = generator if isinstance(generator, list) else [generator] * len(rates)
    samples = [
        torch.poisson(rate, generator=g) + READ_NOISE * torch.randn(rate.shape, generator=g)
        for rate, g in zip(rates, generators, strict=True)
    ]
    return torch.stack(samples).to(electrons)
