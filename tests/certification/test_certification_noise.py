"""Smoothing noise: how far probabilities move, against scipy's distributions, sampling and every other event."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from udc_defense.certification.noise import FAMILIES, NORMS, Budget, Gaussian, Laplace, Noise, Uniform, noise_of
from udc_defense.errors import SettingError
from udc_defense.noise import seeded

SIGMA = 0.2
NOISES = [noise_of(family, SIGMA) for family in FAMILIES]
# Distributions of one value, from an independent library.
SCIPY = {
    "gaussian": stats.norm(scale=SIGMA),
    "laplace": stats.laplace(scale=SIGMA / math.sqrt(2)),
    "uniform": stats.uniform(-SIGMA * math.sqrt(3), 2 * SIGMA * math.sqrt(3)),
}


@pytest.mark.parametrize("noise", NOISES, ids=FAMILIES)
class TestFamilies:
    def test_draws_have_the_distribution_and_depend_on_their_generator_alone(self, noise: Noise) -> None:
        like = torch.zeros(2, 3, 40, 40)
        both = noise.draw(like, [seeded(1), seeded(2)])
        assert stats.kstest(both.flatten().double().numpy(), SCIPY[noise.family].cdf).pvalue > 0.01
        assert SCIPY[noise.family].std() == pytest.approx(noise.sigma)
        assert torch.equal(both[1:], noise.draw(like[:1], [seeded(2)]))

    @pytest.mark.parametrize("p", [0.5, 0.2, 0.9])
    @pytest.mark.parametrize("radius", [0.01, 0.1, 0.3])
    def test_a_half_space_attains_the_lowest_probability(self, noise: Noise, p: float, radius: float) -> None:
        law = SCIPY[noise.family]
        expected = law.cdf(law.ppf(p) - radius)
        assert noise.lowest(p, Budget(radius, noise.norm), 100) == pytest.approx(expected, abs=1e-12)
        assert noise.highest(1 - p, Budget(radius, noise.norm), 100) == pytest.approx(1 - expected, abs=1e-12)

    def test_no_event_does_worse(self, noise: Noise) -> None:
        """Random unions of intervals, their probabilities before and after a shift, by scipy."""
        law, random = SCIPY[noise.family], np.random.default_rng(0)
        for _ in range(500):
            ends = np.sort(random.uniform(-0.6, 0.6, 2 * random.integers(1, 4))).reshape(-1, 2)
            radius = random.uniform(0, 0.4)
            before, after = ((law.cdf(e[:, 1]) - law.cdf(e[:, 0])).sum() for e in (ends, ends - radius))
            assert after >= noise.lowest(before, Budget(radius, noise.norm), 1) - 1e-12
            assert after <= noise.highest(before, Budget(radius, noise.norm), 1) + 1e-12

    def test_the_radius_is_where_the_lowest_probability_is_a_half(self, noise: Noise) -> None:
        for p in (0.6, 0.9, 0.99):
            assert noise.lowest(p, Budget(noise.radius(p), noise.norm), 1) == pytest.approx(0.5)
        assert noise.radius(0.4) == noise.radius(0.5) == 0

    @pytest.mark.parametrize("norm", NORMS)
    def test_in_many_dimensions_sampling_never_falls_below(self, noise: Noise, norm: str) -> None:
        """Half-spaces and cubes in 6 dimensions, shifted along an axis and along the diagonal."""
        values, count = 6, 200_000
        drawn = noise.draw(torch.zeros(1, count, 1, values), [seeded(3)])[0, :, 0].double()
        for direction in (torch.eye(values)[0], torch.ones(values)):
            delta = 0.1 * direction.double()
            radius = {"l1": delta.abs().sum(), "l2": delta.norm(), "linf": delta.abs().max()}[norm]
            for event in (lambda x, u=delta: x @ u < 0.01, lambda x: (x.abs() < 0.3).all(dim=1)):
                p, moved = float(event(drawn).double().mean()), float(event(drawn + delta).double().mean())
                assert moved >= noise.lowest(p, Budget(float(radius), norm), values) - 4 / math.sqrt(count)


def test_laplace_noise_moves_the_median_by_an_exponential() -> None:
    noise = Laplace(SIGMA)
    assert noise.lowest(0.5, Budget(0.1, "l1"), 9) == pytest.approx(0.5 * math.exp(-0.1 / noise.scale))


def test_uniform_noise_in_linf_is_the_common_part_of_two_cubes() -> None:
    """The event that is the cube itself loses exactly what the shift takes from it."""
    noise, values, shift = Uniform(SIGMA), 5, 0.05
    common = (1 - shift / (2 * noise.reach)) ** values
    assert noise.lowest(1.0, Budget(shift, "linf"), values) == pytest.approx(common)
    assert noise.lowest(1.0, Budget(shift * values, "l1"), values) < common


def test_balls_of_other_norms_are_contained() -> None:
    """Random perturbations; and the corner of a cube attains the ℓ2 radius, for which 4/255 at 128² is 3.48."""
    size = 3 * 128 * 128
    assert Budget(4 / 255, "linf").within("l2", size) == pytest.approx(4 / 255 * size**0.5)
    assert Budget(0.25).linf_covered(size) == pytest.approx(0.25 / size**0.5)
    order = {"l1": 1, "l2": 2, "linf": math.inf}
    delta = torch.randn(1000, 7, generator=seeded(0))
    for given in NORMS:
        for wanted in NORMS:
            contained = torch.tensor([Budget(float(d.norm(order[given])), given).within(wanted, 7) for d in delta])
            assert bool((delta.norm(order[wanted], dim=1) <= contained * (1 + 1e-5)).all())


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_sigma_is_checked(bad: float) -> None:
    with pytest.raises(SettingError, match="sigma"):
        Gaussian(bad)


def test_names_and_budgets_are_checked() -> None:
    with pytest.raises(SettingError, match="'salt' is not one of gaussian, laplace, uniform"):
        noise_of("salt", 1)
    with pytest.raises(SettingError, match="radius -1"):
        Budget(-1)
    with pytest.raises(SettingError, match="norm 'l3'"):
        Budget(1, "l3")  # type: ignore[arg-type]
