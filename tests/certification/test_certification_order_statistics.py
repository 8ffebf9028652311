"""Ranks and probabilities from samples, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from udc_defense.certification.order_statistics import (
    at_most,
    lower_probability,
    lower_rank,
    samples_needed,
    upper_rank,
)


@pytest.mark.parametrize("n", [1, 7, 1000, 100_000])
@pytest.mark.parametrize("p", [0.0, 1e-9, 0.1587, 0.5, 0.99, 1.0])
def test_the_binomial_distribution_is_scipys(n: int, p: float) -> None:
    assert np.allclose(at_most(n, p).numpy(), stats.binom.cdf(np.arange(n + 1), n, p), rtol=1e-8, atol=1e-300)


@pytest.mark.parametrize("n", [20, 300, 5000])
@pytest.mark.parametrize("q", [0.001, 0.1587, 0.5, 0.8])
@pytest.mark.parametrize("alpha", [0.05, 1e-8])
def test_the_rank_is_the_last_that_keeps_the_confidence(n: int, q: float, alpha: float) -> None:
    rank = lower_rank(n, q, alpha)
    assert rank == 0 or stats.binom.cdf(rank - 1, n, q) <= alpha
    assert stats.binom.cdf(rank, n, q) > alpha  # one more would not
    assert upper_rank(n, 1 - q, alpha) == n + 1 - rank


def test_quantiles_are_covered_as_often_as_promised() -> None:
    """Of uniform values, whose quantile of q is q, and of coins, which are all ties."""
    n, q, alpha, runs = 100, 0.2, 0.05, 20_000
    rank = lower_rank(n, q, alpha)
    values = np.sort(np.random.default_rng(0).random((runs, n)), axis=1)
    missed = (values[:, rank - 1] > q).mean()
    assert missed == pytest.approx(stats.binom.cdf(rank - 1, n, q), abs=0.005) and missed <= alpha
    coins = np.sort(values > 0.3, axis=1)  # tails with 0.3: the quantile of 0.2 is tails
    assert (coins[:, rank - 1] > 0).mean() <= alpha


@pytest.mark.parametrize("q", [0.3, 0.02])
def test_the_samples_needed_are_the_fewest(q: float) -> None:
    n = int(samples_needed(q, 1e-6))
    assert lower_rank(n, q, 1e-6) == 1 and lower_rank(n - 1, q, 1e-6) == 0
    assert samples_needed(0.0, 0.5) == math.inf


@pytest.mark.parametrize(("hits", "n"), [(1, 10), (99, 100), (100, 100), (700, 1000)])
def test_clopper_pearson_is_scipys(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n, alternative="greater").proportion_ci(0.999, "exact").low
    assert lower_probability(hits, n, 0.001) == pytest.approx(expected, rel=1e-9)
    assert lower_probability(0, n, 0.001) == 0
