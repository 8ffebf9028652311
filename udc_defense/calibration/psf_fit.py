"""The non-negative PSF of greatest likelihood, given what the camera recorded of known light.

For one colour channel: minimise Σ_p w_p (y_p - (h ∗ x)_p)² over h ≥ 0, where w is 1/variance and 0 where a pixel says
nothing. With h = g² the search over g is free of bounds, and a step moves each pixel of the PSF in proportion to its
size, as in the EM algorithm of Richardson and Lucy: L-BFGS (Nocedal, Math. Comp. 35, 1980) needs some dozens of steps
where projected gradients need thousands. All products go by FFT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from udc_defense.imaging import reflected

HISTORY = 20  # steps whose curvature L-BFGS remembers


@dataclass(frozen=True)
class Grid:
    """A periodic grid that holds a frame and a PSF's reach around it.

    Attributes:
        height, width: of the frame.
        reach: of the PSF, K = 2·reach + 1.
    """

    height: int
    width: int
    reach: int

    @property
    def size(self) -> tuple[int, int]:
        return _fast(self.height + 2 * self.reach), _fast(self.width + 2 * self.reach)

    def spectrum(self, scene: Tensor, shift: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        """Of a scene (height, width), mirrored beyond its edges and moved by (rows, columns), also parts of pixels."""
        rows = reflected(-self.reach, self.height + self.reach, self.height)
        columns = reflected(-self.reach, self.width + self.reach, self.width)
        return torch.fft.rfft2(scene[rows][:, columns], s=self.size) * _moved(self.size, shift)

    def psf_spectrum(self, psf: Tensor) -> Tensor:
        """Of a PSF (K, K) with its middle at the origin."""
        height, width = self.size
        wide = torch.nn.functional.pad(psf, (0, width - psf.shape[1], 0, height - psf.shape[0]))
        return torch.fft.rfft2(wide.roll((-self.reach, -self.reach), (0, 1)))

    def frame(self, spectrum: Tensor) -> Tensor:
        """(height, width) of an image on the grid."""
        image = torch.fft.irfft2(spectrum, s=self.size)
        return image[self.reach : self.reach + self.height, self.reach : self.reach + self.width]

    def frame_spectrum(self, image: Tensor) -> Tensor:
        """The adjoint of `frame`, but for the FFT's factor: an image (height, width) with nothing around it."""
        below, beside = (side - self.reach for side in self.size)
        wide = torch.nn.functional.pad(image, (self.reach, beside - self.width, self.reach, below - self.height))
        return torch.fft.rfft2(wide)

    def support(self, spectrum: Tensor) -> Tensor:
        """(K, K) about the origin of an image on the grid."""
        image = torch.fft.irfft2(spectrum, s=self.size).roll((self.reach, self.reach), (0, 1))
        side = 2 * self.reach + 1
        return image[:side, :side]


def _fast(side: int) -> int:
    """The next number without prime factors above 5: FFTs of it are quick."""
    while True:
        rest = side
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return side
        side += 1


def _moved(size: tuple[int, int], shift: tuple[float, float]) -> Tensor:
    """The phase ramp (H, W//2 + 1) that moves an image by (rows, columns)."""
    rows, columns = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None]
    return torch.polar(torch.ones(1, 1), -2 * torch.pi * (rows * shift[0] + columns * shift[1]))


@dataclass
class Exposure:
    """One channel of one pair: the spectrum of its scene, what was recorded of it, and how far each pixel is trusted.

    Attributes:
        grid: of the frame and the PSF's reach.
        scene: spectrum on the grid.
        recorded: linear light (H, W).
        weights: 1/variance (H, W), 0 where nothing is known.
    """

    grid: Grid
    scene: Tensor
    recorded: Tensor
    weights: Tensor

    def predicted(self, psf: Tensor) -> Tensor:
        return self.grid.frame(self.grid.psf_spectrum(psf) * self.scene)

    def correlated(self, image: Tensor) -> Tensor:
        """The adjoint of `predicted`: an image (H, W) to (K, K)."""
        return self.grid.support(self.grid.frame_spectrum(image) * self.scene.conj())


def fit_psf(exposures: Sequence[Exposure], start: Tensor, *, steps: int) -> Tensor:
    """The non-negative PSF (K, K), of any sum, that makes what was recorded likeliest.

    Args:
        exposures: of one channel.
        start: where the search begins (K, K), > 0: a pixel at 0 stays there.
        steps: of L-BFGS; some dozens.
    """
    root = start.sqrt().requires_grad_()
    search = torch.optim.LBFGS(
        [root], max_iter=steps, history_size=HISTORY, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )
    trusted = max(1, sum(int((e.weights > 0).sum()) for e in exposures))

    @torch.no_grad()
    def closure() -> float:
        loss, slope = _loss_and_slope(exposures, root**2)
        root.grad = 2 * root * slope / trusted
        return loss / trusted

    search.step(closure)
    return root.detach() ** 2


def _loss_and_slope(exposures: Sequence[Exposure], psf: Tensor) -> tuple[float, Tensor]:
    """Σ w·(y - h ∗ x)² and its gradient (K, K); what exposures of one grid share is transformed once."""
    through = {grid: grid.psf_spectrum(psf) for grid in {e.grid for e in exposures}}
    back = {grid: torch.zeros_like(spectrum) for grid, spectrum in through.items()}
    loss = 0.0
    for e in exposures:
        residual = e.grid.frame(through[e.grid] * e.scene) - e.recorded
        weighted = e.weights * residual
        loss += float((weighted * residual).sum(dtype=torch.float64))
        back[e.grid] += e.grid.frame_spectrum(weighted) * e.scene.conj()
    return loss, 2 * torch.stack([grid.support(spectrum) for grid, spectrum in back.items()]).sum(dim=0)
