"""Classification smoothing: exact for a half-space, abstaining where it must."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from udc_defense.certification.classification import certified_class
from udc_defense.certification.noise import FAMILIES, Budget, Gaussian, noise_of
from udc_defense.errors import SettingError


class HalfSpace(nn.Module):
    """Class 1 where the first value is above 0.5."""

    def forward(self, image: Tensor) -> Tensor:
        score = image.flatten(1)[:, 0] - 0.5
        return torch.stack([-score, score], dim=1)


def at(distance: float) -> Tensor:
    image = torch.full((1, 3, 2, 2), 0.5)
    image[0, 0, 0, 0] += distance
    return image


@pytest.mark.parametrize("family", FAMILIES)
def test_the_radius_of_a_half_space_is_its_distance(family: str) -> None:
    """Never above it, and below by what sampling costs: that of the Clopper-Pearson bound of the true probability."""
    noise, distance, samples = noise_of(family, 0.2), 0.2, 20_000
    found = certified_class(HalfSpace(), at(distance), noise, confidence=0.999, samples=samples, batch=5000, seed=3)
    assert found.label == 1 and found.radius <= distance
    true = noise.highest(0.5, Budget(distance, noise.norm), 12)
    low = stats.binomtest(round(true * samples), samples, alternative="greater").proportion_ci(1 - 1e-6).low
    assert found.radius >= noise.radius(low)


def test_an_undecided_class_abstains() -> None:
    found = certified_class(HalfSpace(), at(0.0), Gaussian(0.2), confidence=0.999, samples=500, batch=500)
    assert found.label is None and found.radius == 0


def test_the_samples_that_choose_do_not_certify() -> None:
    """One that always agrees: the probability is bounded by the certifying samples alone, α^(1/n)."""
    found = certified_class(HalfSpace(), at(9.0), Gaussian(0.2), confidence=0.99, selection=7, samples=100, batch=32)
    assert found.probability == pytest.approx(0.01 ** (1 / 100))


def test_the_radius_that_ducd_quotes_is_wrong_for_large_noise() -> None:
    """σ² (p_A - p_B) exceeds the true distance to a half-space where σ > √(π/2); smaller, it is only loose."""
    for sigma, wrong in ((0.5, False), (1.2, False), (1.3, True), (3.0, True)):
        distance = 0.01
        p = NormalDist().cdf(distance / sigma)
        assert Gaussian(sigma).radius(p) == pytest.approx(distance)
        assert (sigma**2 * (2 * p - 1) > distance) == wrong == (sigma > math.sqrt(math.pi / 2))


def test_numbers_are_checked() -> None:
    with pytest.raises(SettingError, match="0 to certify"):
        certified_class(HalfSpace(), at(0), Gaussian(1), confidence=0.9, samples=0)
