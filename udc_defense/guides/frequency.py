"""Low frequencies of the input kept (FreqPure, arXiv 2505.01267)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from udc_defense.diffusion import Diffusion
from udc_defense.errors import SettingError
from udc_defense.guides.base import Guide, register


@register("frequency")
class Frequency(Guide):
    """Give x̂₀ the input's amplitudes at low frequencies, and phases within δ of the input's.

    No gradient: x̂₀ is replaced, and ε̂ with it. A strength is the share of the replacement, 1 all of it. Per channel, in
    the plane's discrete Fourier transform; what is real stays real. The published code differs: it takes the input
    denoised from a small t, clips phases without regard to their period, and returns the magnitude of the result.

    Args:
        cutoff: highest low frequency √(f_y² + f_x²) in cycles per pixel, 0 (the mean alone) to 1; from 0.71 on all are
            low. The published one is 10 of 32 for CIFAR-10.
        delta: greatest difference of phases in radians, 0 (the input's phases) to π (any).

    Raises:
        SettingError: a parameter is out of range.
    """

    strongest = 1.0

    def __init__(self, *, cutoff: float = 0.2, delta: float = 0.3) -> None:
        super().__init__()
        if not 0 <= cutoff <= 1:
            raise SettingError(f"cutoff {cutoff} is not in 0…1 cycles per pixel.")
        if not 0 <= delta <= math.pi:
            raise SettingError(f"delta {delta} is not in 0…π.")
        self.cutoff, self.delta = cutoff, delta

    def reference(self, image: Tensor) -> Tensor:
        """The input's spectrum, (B, 3, H, W // 2 + 1), complex."""
        return _spectrum(image)

    def forward(
        self, diffusion: Diffusion, x: Tensor, t: int, epsilon: Tensor, reference: Tensor, *, strength: float
    ) -> Tensor:
        """ε̂' of x_t and x̂₀ + s (projected x̂₀ - x̂₀)."""
        clean = diffusion.clean(x, t, epsilon)
        # Not by `noise_of`, which would lose to rounding what did not change.
        return epsilon - strength * (self.projected(clean, reference) - clean) / diffusion.sigma(t)

    def projected(self, clean: Tensor, reference: Tensor) -> Tensor:
        """x̂₀ (B, 3, H, W) with the low frequencies that the spectrum of the input allows."""
        height, width = clean.shape[-2:]
        spectrum = _spectrum(clean)
        low, limit = self._bands(height, width, spectrum.real)
        # The difference of phases in (-π, π]: the angle of a quotient, but without dividing.
        turn = (spectrum * reference.conj()).angle()
        turn = turn.clamp(-limit, limit)
        spectrum = torch.where(low, reference * torch.complex(turn.cos(), turn.sin()), spectrum)
        return torch.fft.irfft2(spectrum, s=(height, width)).to(clean)

    def _bands(self, height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Where frequencies are low, and how far phases may differ, both (H, W // 2 + 1).

        A coefficient that is its own mirror image is real, so its phase can only differ by π: not, unless δ is π.
        """
        rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
        columns = torch.fft.rfftfreq(width, dtype=torch.float64)
        real = (2 * rows % 1 == 0) & (2 * columns % 1 == 0)
        limit = torch.full_like(rows + columns, self.delta).masked_fill(real & (self.delta < math.pi), 0)
        return (rows.hypot(columns) <= self.cutoff).to(like.device), limit.to(like)


def _spectrum(image: Tensor) -> Tensor:
    """Half of the discrete Fourier transform, at least in single precision, which half precision's FFT is not."""
    return torch.fft.rfft2(image.to(torch.promote_types(image.dtype, torch.float32)))
