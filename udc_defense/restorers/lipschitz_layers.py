"""Layers of bounded gain in ℓ2, whatever the weights, and the bound as a number. Needs torch alone.

A step x ↦ x - 2 Vᵀ relu(V x + b) with a convolution V moves two inputs no further apart where ‖V‖ ≤ 1: between any two
inputs it acts as I - 2 Vᵀ D V with a diagonal D, 0 ≤ D ≤ 1, whose eigenvalues lie in [1 - 2‖V‖², 1] (gradient flow of a
convex potential, arXiv 2110.12690).

‖V‖ is bounded by Gram iteration (arXiv 2305.16173, 2402.00240): with G = V Vᵀ, ‖V‖² = ‖Gᵏ‖^(1/k). Gᵏ is a convolution
too, and a matrix is at most max_i Σ_j |a_ij| r_j / r_i for any r > 0 (Gershgorin's discs after a diagonal change of
base). This is said of an infinite image. On a finite one that is padded by zeros, V stands between a restriction and
an extension by zeros, both of norm 1, so that the bound holds at every size and includes the padding.

All else is isometric: the Haar transform of 2×2 pixels and its inverse are orthogonal, channels of zeros add no
length, dropping channels adds none, and channels that go another way are orthogonal to those that stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

HAAR = ((1, 1, 1, 1), (1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1, 1))  # / 2; pixels by rows
GRAM_POWER = 4  # k: at random weights the bound of ‖V‖² is 1.3 to 1.7 times the truth, after training nearer
PERRON_ITERATIONS = 30
ROUNDING = 1e-9  # relative, of bounds in float64; that of the sums below is under 1e-10
SAFETY = 1e-6  # weights are folded so much below a norm of 1; their rounding to float32 is a tenth of it
MARGIN = 1e-5  # the same of a projection in float32
MOST_GAIN = 0.97  # at first; where the sine is flat, nothing would be learned


class GradientStep(nn.Module):
    """x - 2 Vᵀ relu(V x + b), (B, C, H, W) to the same shape; V a 3×3 convolution to `hidden` channels.

    With `constrained`, V is scaled on use to a norm of at most 1 and can be trained; without, it is a plain weight.
    """

    def __init__(self, channels: int, hidden: int, *, constrained: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(hidden, channels, 3, 3) * (0.15 / math.sqrt(9 * channels)))
        self.bias = nn.Parameter(torch.zeros(hidden))
        if constrained:
            parametrize.register_parametrization(self, "weight", AtMostOne())

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight  # scaled once for both uses
        hidden = F.relu(F.conv2d(x, weight, self.bias, padding=1))
        return x - 2 * F.conv_transpose2d(hidden, weight, padding=1)

    def rounding(self, unit: float, length: float, cells: float) -> tuple[float, float]:
        """The error that a float evaluation adds, and a bound of the output's length; lengths are per √N.

        Args:
            unit: roundoff.
            length: of the input.
            cells: positions of the convolution, over N.
        """
        with torch.no_grad():
            weight, bias = self.weight.cpu().double(), float(self.bias.cpu().double().norm()) * math.sqrt(cells)
            shift = float(self.bias.cpu().double().clamp_min(0).norm()) * math.sqrt(cells)
            norm = float(squared_norm(weight)) ** 0.5
            # Where no weight is negative, the spectrum is largest at frequency 0.
            absolute = float(torch.linalg.matrix_norm(weight.abs().sum(dim=(2, 3)), 2)) * (1 + 1e-9)
        hidden = norm * length + shift
        first = (weight[0].numel() + 1) * unit * (absolute * length + bias)
        second = weight[:, 0].numel() * unit * absolute * (hidden + first)
        moved = 2 * norm * (hidden + first)
        return 2 * (norm * first + second) + unit * (length + moved), length + 2 * norm * shift


class AtMostOne(nn.Module):
    """Scale a convolution to a norm of at most 1; one below it stays as it is."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return weight * squared_norm(weight).clamp_min(1.0).rsqrt()

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What the weight is made from at first: itself."""
        return weight


def squared_norm(weight: Tensor) -> Tensor:
    """An upper bound of ‖V‖², V a convolution (O, I, K, K) padded by zeros, at every image size; differentiable.

    Any positive r makes a bound, the best one is the Perron vector of Σ over shifts of |Gᵏ|.
    """
    matrix = gram_power(weight).abs().sum(dim=(2, 3))
    with torch.no_grad():
        ratio = torch.ones_like(matrix[0])
        for _ in range(PERRON_ITERATIONS):
            ratio = matrix @ ratio
            ratio = (ratio / ratio.max()).clamp_min(1e-6)
        bound = (matrix @ ratio / ratio).max()
    # The value of the bound, with the gradient of the eigenvalue that it is near to.
    eigenvalue = ratio @ matrix @ ratio / (ratio @ ratio)
    return (eigenvalue * (bound / eigenvalue).detach()) ** (1 / GRAM_POWER)


def gram_power(weight: Tensor) -> Tensor:
    """The kernels of (V Vᵀ)ᵏ, shifted, (O, O, n, n) from (O, I, K, K); by FFT on a grid that they just fill."""
    side = 2 * GRAM_POWER * (weight.shape[-1] - 1) + 1
    gram = F.conv2d(weight, weight, padding=weight.shape[-1] - 1)
    spectrum = torch.fft.rfft2(gram, s=(side, side)).permute(2, 3, 0, 1)
    return torch.fft.irfft2(torch.linalg.matrix_power(spectrum, GRAM_POWER).permute(2, 3, 0, 1), s=(side, side))


def haar(x: Tensor) -> Tensor:
    """Orthonormal transform of 2×2 pixels, (B, C, H, W) to (B, 4C, H/2, W/2): all means first, then the differences."""
    batch, channels, height, width = x.shape
    pixels = F.pixel_unshuffle(x, 2).view(batch, channels, 4, height // 2, width // 2)
    bands = torch.einsum("kp,bcphw->bkchw", _haar_matrix(x), pixels)
    return bands.reshape(batch, 4 * channels, height // 2, width // 2)


def inverse_haar(x: Tensor) -> Tensor:
    """The way back from `haar`, its transpose."""
    batch, channels, height, width = x.shape
    bands = x.view(batch, 4, channels // 4, height, width)
    pixels = torch.einsum("kp,bkchw->bcphw", _haar_matrix(x), bands)
    return F.pixel_shuffle(pixels.reshape(batch, channels, height, width), 2)


def _haar_matrix(like: Tensor) -> Tensor:
    return torch.tensor(HAAR, dtype=like.dtype, device=like.device) / 2


class Scale(nn.Module):
    """Steps at one scale around those of all coarser ones, which get the first `sent` channels only.

    Args:
        widths: channels per scale, finest first; inputs are filled up with zeros.
        sent: channels per scale that go on to the next.
        hidden: channels of the convolutions inside the steps, per scale.
        steps: per scale, before and after the coarser ones each.
        constrained: see `GradientStep`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        hidden: Sequence[int],
        sent: Sequence[int],
        steps: Sequence[int],
        *,
        constrained: bool,
    ) -> None:
        super().__init__()
        if len(widths) > 1 and not (sent[0] <= widths[0] and 4 * sent[0] <= widths[1]):
            raise ValueError(f"{sent[0]} of {widths[0]} channels do not become {widths[1]} at half the size.")
        self.width, self.sent = widths[0], sent[0] if len(widths) > 1 else 0
        self.before, self.after = (
            nn.Sequential(*(GradientStep(widths[0], hidden[0], constrained=constrained) for _ in range(steps[0])))
            for _ in range(2)
        )
        coarser = widths[1:], hidden[1:], sent[1:], steps[1:]
        self.coarser = Scale(*coarser, constrained=constrained) if len(widths) > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, C at most the scale's width, sides multiples of those of the coarsest."""
        given = x.shape[1]
        x = self.before(F.pad(x, (0, 0, 0, 0, 0, self.width - given)))
        if self.coarser is not None:
            x = torch.cat([inverse_haar(self.coarser(haar(x[:, : self.sent]))), x[:, self.sent :]], dim=1)
        return self.after(x)[:, :given]


class LipschitzNetwork(nn.Module):
    """Capture to image, ‖f(x) - f(y)‖₂ ≤ L ‖x - y‖₂ at every size that is a multiple of 2^scales.

    Args:
        bound: L, the gain of the whole.
        widths, hidden, sent, steps: of its `Scale`s.
        constrained: True for training; `fold` then makes plain weights of what was trained.
    """

    def __init__(
        self,
        bound: float,
        widths: Sequence[int] = (24, 64, 96, 128),
        hidden: Sequence[int] = (24, 64, 64, 64),
        sent: Sequence[int] = (16, 16, 24),
        steps: Sequence[int] = (2, 2, 3, 3),
        *,
        constrained: bool = False,
    ) -> None:
        super().__init__()
        self.bound = bound
        self.scale = Scale(widths, hidden, sent, steps, constrained=constrained)
        # Begins as the identity: the gain of L that the input gets is taken back from the output, of each band apart.
        self.gain = nn.Parameter(torch.full((12,), min(1 / bound, MOST_GAIN)))
        if constrained:
            parametrize.register_parametrization(self, "gain", Sine())

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to the same shape."""
        return inverse_haar(self.scale(haar(self.bound * image)) * self.gain.view(-1, 1, 1))

    def fold(self) -> LipschitzNetwork:
        """The same network with plain float32 weights on the CPU, scaled in float64."""
        self.cpu().double()
        for module in list(self.modules()):
            for name in ("weight", "gain"):
                if parametrize.is_parametrized(module, name):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
                    getattr(module, name).data *= 1 - SAFETY
        return self.float()

    @torch.no_grad()
    def project(self) -> None:
        """Bring weights that a step of training has led out of bounds back, in place, in float32."""
        self.gain.clamp_(-1, 1)
        for step in self.modules():
            if isinstance(step, GradientStep) and (square := float(squared_norm(step.weight))) > 1:
                step.weight.mul_((1 - MARGIN) / square**0.5)

    def lipschitz(self) -> float:
        """A bound of the gain from the weights as they are, in exact arithmetic: L, if nobody touched them."""
        with torch.no_grad():
            steps = (module for module in self.modules() if isinstance(module, GradientStep))
            squares = [float(squared_norm(step.weight.cpu().double())) for step in steps]
            gain = float(self.gain.abs().max())
        return self.bound * gain * math.prod(max(1.0, 2 * square - 1) for square in squares) * (1 + ROUNDING)

    @property
    def multiple(self) -> int:
        """The sides of images are multiples of this."""
        return int(2 ** len(list(self._scales())))

    @property
    def reach(self) -> int:
        """Pixels further away than this have no influence, in either direction: a multiple of `multiple`."""
        cells = ((2 * 2**level, 2 * len(steps)) for level, (_, steps) in enumerate(self._scales()))
        pixels = sum(side * steps for side, steps in cells) + self.multiple
        return -(-pixels // self.multiple) * self.multiple

    def rounding(self, dtype: torch.dtype, peak: float = 1.0) -> float:
        """How far an evaluation can be from exact arithmetic, RMS over the image, whatever the order of its sums.

        The sum of n products has an error of at most n u Σ|products| (1.01 for all higher orders; Higham, Accuracy and
        Stability of Numerical Algorithms, section 3.1), u the unit roundoff. Transforms that save products, as
        Winograd's, and TF32 are others, and not covered.

        Args:
            dtype: of the evaluation.
            peak: bound of the absolute values of the image.
        """
        unit = 1.01 * torch.finfo(dtype).eps / 2
        length = self.bound * peak  # of a stage's values, and of their error, both RMS per value of the image
        error = 9 * unit * length
        for level, (_, steps) in enumerate(self._scales()):
            error += 2 * 9 * unit * length * (level > 0)  # to the coarser scale and back
            for step in steps:
                cells = 1 / (3 * 4 ** (level + 1))
                added, length = step.rounding(unit, length + error, cells)
                error += added
        return error + 9 * unit * (length + error)

    def _scales(self) -> Iterator[tuple[Scale, list[GradientStep]]]:
        """Each scale and its steps, finest first."""
        scale: Scale | None = self.scale
        while scale is not None:
            yield scale, [*scale.before, *scale.after]
            scale = scale.coarser


class Sine(nn.Module):
    """Any number to one in [-1, 1]."""

    def forward(self, angle: Tensor) -> Tensor:
        return angle.sin()

    def right_inverse(self, value: Tensor) -> Tensor:
        """The angle of a sine."""
        return value.asin()
