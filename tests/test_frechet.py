"""Distances between sets of features against closed forms, SciPy, and the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_models import noise

from udc_defense.errors import SettingError
from udc_defense.frechet import frechet_distance, gaussian_distance, kernel_distance, shrunk_covariance


def covariance(seed: int, dimensions: int = 6, rank: int | None = None) -> Tensor:
    factor = noise(dimensions, rank or dimensions, seed=seed)
    return factor @ factor.T


def ledoit_wolf(features: np.ndarray) -> np.ndarray:
    """The paper's formula with one matrix per sample and norms ‖A‖² = tr AAᵀ / d."""
    count, dimensions = features.shape
    centred = features - features.mean(axis=0)
    sample = np.cov(centred.T, bias=True)
    level = np.trace(sample) / dimensions
    delta = np.linalg.norm(sample - level * np.eye(dimensions)) ** 2 / dimensions
    beta = sum(np.linalg.norm(np.outer(x, x) - sample) ** 2 / dimensions for x in centred) / count**2
    share = min(beta, delta) / delta
    return share * level * np.eye(dimensions) + (1 - share) * sample


class TestGaussian:
    def test_diagonal_covariances_in_closed_form(self) -> None:
        """They commute: Σ (m₁ - m₂)² + (s₁ - s₂)²."""
        mean, other = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.0, 2.5, 1.0])
        deviation, other_deviation = torch.tensor([1.0, 0.5, 2.0]), torch.tensor([3.0, 0.25, 2.0])
        expected = (mean - other).square().sum() + (deviation - other_deviation).square().sum()
        found = gaussian_distance(mean, deviation.square().diag(), other, other_deviation.square().diag())
        assert found == pytest.approx(float(expected), rel=1e-9)

    def test_general_covariances_against_scipy(self) -> None:
        linalg = pytest.importorskip("scipy.linalg")
        first, second = covariance(1), covariance(2)
        mean, other = noise(6, seed=3), noise(6, seed=4)
        root = linalg.sqrtm((first @ second).numpy()).real
        expected = (mean - other).square().sum() + torch.trace(first + second) - 2 * np.trace(root)
        assert gaussian_distance(mean, first, other, second) == pytest.approx(float(expected), rel=1e-9)
        assert gaussian_distance(other, second, mean, first) == pytest.approx(float(expected), rel=1e-9)

    def test_singular_covariances(self) -> None:
        """vvᵀ and wwᵀ: |v|² + |w|² - 2 |v·w|."""
        v, w, mean = noise(6, seed=1), noise(6, seed=2), torch.zeros(6)
        expected = v @ v + w @ w - 2 * (v @ w).abs()
        assert gaussian_distance(mean, torch.outer(v, v), mean, torch.outer(w, w)) == pytest.approx(float(expected))

    def test_samples_approach_the_closed_form(self) -> None:
        first, second = covariance(1, 3), covariance(2, 3)
        samples = [noise(40_000, 3, seed=5 + i) @ torch.linalg.cholesky(c).T for i, c in enumerate((first, second))]
        expected = gaussian_distance(torch.zeros(3), first, torch.full((3,), 2.0), second)
        assert frechet_distance(samples[0], samples[1] + 2) == pytest.approx(expected, rel=0.02)

    @pytest.mark.parametrize("count", [5, 50])
    def test_equal_sets(self, count: int) -> None:
        features = noise(count, 12)
        scale = float(features.square().sum() / count)
        assert 0 <= frechet_distance(features, features.clone()) < 1e-6 * scale

    def test_a_shift_of_few_samples_in_many_dimensions(self) -> None:
        """Equal covariances: the squared shift alone is left, rank-deficient or not."""
        features = noise(8, 100)
        assert frechet_distance(features, features + 0.5) == pytest.approx(100 * 0.25, rel=1e-6)

    def test_single_precision_is_computed_in_double(self) -> None:
        features, other = noise(20, 5).float(), noise(20, 5, seed=1).float()
        assert frechet_distance(features, other) == frechet_distance(features.double(), other.double())


class TestShrinkage:
    @pytest.mark.parametrize(("count", "dimensions"), [(7, 20), (200, 5), (2, 3)])
    def test_against_the_formula_written_out(self, count: int, dimensions: int) -> None:
        features = noise(count, dimensions) @ noise(dimensions, dimensions, seed=1) + 3
        np.testing.assert_allclose(shrunk_covariance(features), ledoit_wolf(features.numpy()), rtol=1e-9, atol=1e-12)

    def test_positive_definite_with_fewer_samples_than_dimensions(self) -> None:
        features = noise(5, 40) * torch.arange(1, 41)
        centred = features - features.mean(dim=0)
        assert torch.linalg.matrix_rank(centred.T @ centred) == 4
        assert torch.linalg.eigvalsh(shrunk_covariance(features)).min() > 1e-3

    def test_many_samples_are_hardly_shrunk(self) -> None:
        features = noise(50_000, 3) * torch.tensor([1.0, 2.0, 3.0])
        torch.testing.assert_close(shrunk_covariance(features), features.T.cov(), rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("dimensions", [1, 4])
    def test_equal_samples(self, dimensions: int) -> None:
        assert shrunk_covariance(torch.ones(3, dimensions)).abs().max() == 0


class TestKernel:
    def test_against_a_double_loop(self) -> None:
        first, second = noise(5, 7), noise(4, 7, seed=1) + 0.3

        def k(x: Tensor, y: Tensor) -> float:
            return (float(x @ y) / 7 + 1) ** 3

        inner = [
            sum(k(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j) / (len(a) * (len(a) - 1))
            for a in (first, second)
        ]
        cross = sum(k(x, y) for x in first for y in second) / 20
        assert kernel_distance(first, second) == pytest.approx(sum(inner) - 2 * cross, rel=1e-9)

    def test_unbiased(self) -> None:
        """Over pairs of small samples of one distribution the mean is 0; a biased estimator's is far from it."""
        distances = [kernel_distance(noise(6, 4, seed=2 * i), noise(6, 4, seed=2 * i + 1)) for i in range(600)]
        error = np.std(distances) / len(distances) ** 0.5
        assert abs(np.mean(distances)) < 3 * error and min(distances) < 0 < max(distances)
        assert kernel_distance(noise(6, 4), noise(6, 4, seed=1) + 2) > 20 * error


class TestBadInput:
    @pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
    @pytest.mark.parametrize(
        ("first", "second", "words"),
        [
            (torch.zeros(1, 3), torch.zeros(4, 3), r"\(1, 3\).*at least 2 samples"),
            (torch.zeros(4, 3), torch.zeros(4), r"\(4,\)"),
            (torch.zeros(4, 3), torch.zeros(4, 2), "3 and 2 dimensions"),
            (torch.zeros(4, 3), torch.full((4, 3), float("nan")), "not finite"),
        ],
    )
    def test_one_sentence(self, distance: object, first: Tensor, second: Tensor, words: str) -> None:
        with pytest.raises(SettingError, match=words) as caught:
            distance(first, second)  # type: ignore[operator]
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
