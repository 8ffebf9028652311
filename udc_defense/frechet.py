"""Distances between two sets of feature vectors: Fréchet's of fitted Gaussians, and the kernel distance KID.

Samples are fewer than dimensions here (a batch of captures against hundreds of channels), so that the plain covariance
is singular and Fréchet's distance mostly noise; covariances are shrunk. Everything is float64 on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from udc_defense.errors import SettingError


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features, with shrunk covariances.

    Args:
        first: features (N, d).
        second: features (M, d).

    Returns:
        At least 0, in squared units of the features; 0 for equal sets.

    Raises:
        SettingError: a set has fewer than two samples or values that are not finite, or the dimensions differ.
    """
    first, second = _checked(first, second)
    return gaussian_distance(first.mean(dim=0), shrunk_covariance(first), second.mean(dim=0), shrunk_covariance(second))


def gaussian_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """‖m₁ - m₂‖² + tr(C₁ + C₂ - 2 (C₁^½ C₂ C₁^½)^½), of two Gaussians (Dowson & Landau 1982; arXiv 1706.08500, eq. 6).

    The symmetric form has the trace of (C₁ C₂)^½ but needs no root of a matrix that is not symmetric, which is where
    `scipy.linalg.sqrtm` turns complex on singular covariances.

    Args:
        mean: (d,).
        covariance: (d, d), symmetric and positive semi-definite.
        other_mean: likewise.
        other_covariance: likewise.
    """
    mean, covariance, other_mean, other_covariance = (
        value.double() for value in (mean, covariance, other_mean, other_covariance)
    )
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    common = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum()
    shift = (mean - other_mean).square().sum()
    # Rounding alone can take it below 0.
    return max(0.0, float(shift + covariance.trace() + other_covariance.trace() - 2 * common))


def shrunk_covariance(features: Tensor) -> Tensor:
    """Covariance (d, d) drawn towards μI by Ledoit & Wolf's share (J. Multivariate Analysis 88 (2004) 365, §3.2).

    With S = Σ xᵢxᵢᵀ / N of centred samples, μ = tr S / d, δ² = ‖S - μI‖² / d and β̄² = Σ ‖xᵢxᵢᵀ - S‖² / (d N²), it is
    (1 - ρ) S + ρ μ I with ρ = min(β̄², δ²) / δ²: the share of least expected squared error, for any distribution with
    four moments. Positive definite for N < d, too, unless all samples are equal.

    Args:
        features: (N, d).
    """
    features = features.double()
    count, dimensions = features.shape
    centred = features - features.mean(dim=0)
    covariance = centred.T @ centred / count
    level = covariance.trace() / dimensions
    target = level * torch.eye(dimensions, dtype=torch.float64, device=features.device)
    spread = (covariance - target).square().sum()
    # Σ ‖xᵢxᵢᵀ - S‖² = Σ ‖xᵢ‖⁴ - N ‖S‖²: no matrix per sample.
    error = (centred.square().sum(dim=1).square().mean() - covariance.square().sum()) / count
    share = float((error / spread).clamp(0, 1)) if spread > 0 else 1.0
    return (1 - share) * covariance + share * target


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """KID: unbiased squared maximum mean discrepancy with the kernel (x·y / d + 1)³ (arXiv 1801.01401, §4).

    Args:
        first: features (N, d).
        second: features (M, d).

    Returns:
        Its mean is 0 for equal distributions, so that it can be negative.

    Raises:
        SettingError: as `frechet_distance`.
    """
    first, second = _checked(first, second)
    return (
        _mean_off_diagonal(_kernel(first, first))
        + _mean_off_diagonal(_kernel(second, second))
        - 2 * float(_kernel(first, second).mean())
    )


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _mean_off_diagonal(matrix: Tensor) -> float:
    count = len(matrix)
    return float((matrix.sum() - matrix.trace()) / (count * (count - 1)))


def _checked(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    for features in (first, second):
        if features.dim() != 2 or len(features) < 2 or features.shape[1] < 1:
            raise SettingError(
                f"features of shape {tuple(features.shape)}: a distance needs at least 2 samples of (N, d)."
            )
        if not features.isfinite().all():
            raise SettingError(f"features of shape {tuple(features.shape)} hold values that are not finite.")
    if first.shape[1] != second.shape[1]:
        raise SettingError(f"features of {first.shape[1]} and {second.shape[1]} dimensions cannot be compared.")
    return first.double().cpu(), second.double().cpu()
