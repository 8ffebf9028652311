"""Median smoothing: exact for linear maps, not broken by attacks, and invalid with any of the wrong factors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from toy_models import Linear

from udc_defense import attacks
from udc_defense.certification.centre import smooth_centre
from udc_defense.certification.median import Intervals, order_statistics, smooth_median, worst_psnr
from udc_defense.certification.noise import FAMILIES, Budget, Gaussian, Noise, noise_of
from udc_defense.certification.order_statistics import lower_rank, samples_needed
from udc_defense.certification.sampling import LEVELS, drawn, to_image
from udc_defense.certification.single_draw import error_bound, errors_of
from udc_defense.metrics import psnr
from udc_defense.noise import normal, seeded

SIGMA, RADIUS = 0.05, 0.05
CONFIDENCE = 0.999
TRIALS = 200


def linear(seed: int, size: int) -> Tensor:
    """A matrix whose rows are positive and sum to 1, so that an image of ½ stays one."""
    matrix = torch.rand(size, size, generator=seeded(seed))
    return matrix / matrix.sum(dim=1, keepdim=True)


class TestLinear:
    """The smoothed map is the map; its worst perturbation of a value is along its row."""

    image = torch.full((1, 3, 2, 2), 0.5)

    def slack(self, noise: Noise, spread: float, samples: int) -> float:
        """How far an order statistic of the needed confidence can be from its quantile: scipy's Beta law of ranks."""
        law = {"gaussian": stats.norm, "laplace": stats.laplace, "uniform": stats.uniform(-1, 2)}[noise.family]
        scale = {"gaussian": 1.0, "laplace": 1 / math.sqrt(2), "uniform": math.sqrt(3)}[noise.family] * spread
        q = noise.lowest(0.5, Budget(RADIUS, noise.norm), 12)
        rank = lower_rank(samples, q, (1 - CONFIDENCE) / 24)
        return scale * float(law.ppf(q) - law.ppf(stats.beta.ppf(1e-6, rank, samples - rank + 1)))

    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_family_certifies_the_identity_to_the_radius(self, family: str) -> None:
        noise, samples = noise_of(family, SIGMA), 20_000
        values = drawn(nn.Identity(), self.image, noise, samples=samples, batch=5000)
        _, (found,) = smooth_median(values, noise, [Budget(RADIUS, noise.norm)], confidence=CONFIDENCE)
        slack = self.slack(noise, SIGMA, samples)
        assert slack < 0.15 * RADIUS
        for reach in (0.5 - found.lower, found.upper - 0.5):
            assert bool((reach >= RADIUS).all()) and bool((reach <= RADIUS + slack).all())

    def test_rows_are_certified_to_their_norm_times_the_radius(self) -> None:
        matrix, samples = linear(0, 12), 20_000
        values = drawn(Linear(matrix), self.image, Gaussian(SIGMA), samples=samples, batch=5000)
        median, (found,) = smooth_median(values, Gaussian(SIGMA), [Budget(RADIUS)], confidence=CONFIDENCE)
        for row, reach, middle in zip(matrix, (found.upper - 0.5).flatten(), median.flatten(), strict=True):
            exact = RADIUS * float(row.norm())
            assert exact <= float(reach) <= exact + self.slack(Gaussian(SIGMA), float(row.norm()) * SIGMA, samples)
            # The standard error of a median of Gaussian values is √(π/2) that of their mean.
            assert abs(float(middle) - 0.5) < 5 * math.sqrt(math.pi / 2 / samples) * SIGMA * float(row.norm())

    def test_the_median_error_moves_to_its_bound(self) -> None:
        """One value, reference far below: the error is linear, its median moves by R and no more."""
        image, noise = torch.full((1, 1, 1, 1), 0.5), Gaussian(SIGMA)
        values = drawn(nn.Identity(), image, noise, samples=20_000, batch=5000)
        errors = errors_of(values, torch.zeros(1, 1, 1, 1))
        bound = error_bound(errors, noise, Budget(RADIUS), values=1, confidence=CONFIDENCE)
        assert 0.5 + RADIUS <= bound <= 0.5 + 1.1 * RADIUS


class TestWrongFactors:
    """What would be certified with them is broken by the worst perturbation of the identity."""

    size, runs, samples = 3 * 16 * 16, 30, 400

    def reaches(self, quantile: float, alpha: float) -> Tensor:
        """(runs, values): how far below the image the lower bounds are."""
        rank = lower_rank(self.samples, quantile, alpha)
        found = []
        for seed in range(self.runs):
            values = drawn(
                nn.Identity(),
                torch.full((1, 3, 16, 16), 0.5),
                Gaussian(SIGMA),
                samples=self.samples,
                seed=seed,
                batch=400,
            )
            found.append(0.5 - to_image(order_statistics(values, [rank])).flatten())
        return torch.stack(found)

    @pytest.mark.parametrize(
        ("wrong", "quantile", "share"),
        [
            ("none", lambda: Gaussian(SIGMA).lowest(0.5, Budget(RADIUS), 1), 1 / (6 * 16 * 16)),
            ("no union bound", lambda: Gaussian(SIGMA).lowest(0.5, Budget(RADIUS), 1), 1.0),
            ("σ in place of R/σ", lambda: stats.norm.cdf(-SIGMA), 1 / (6 * 16 * 16)),
            ("R in place of R/σ", lambda: stats.norm.cdf(-RADIUS), 1 / (6 * 16 * 16)),
            ("root mean square in place of the norm", lambda: stats.norm.cdf(-RADIUS / SIGMA / 768**0.5), 1 / 1536),
        ],
    )
    def test_only_the_right_ones_cover(self, wrong: str, quantile, share: float) -> None:  # noqa: ANN001
        """A perturbation of RADIUS on one value moves the smoothed value by RADIUS: below it, the bound is broken."""
        broken = (self.reaches(quantile(), 0.05 * share) < RADIUS).any(dim=1).double().mean()
        assert broken <= 0.15 if wrong == "none" else broken > 0.9

    def test_what_is_certified_here_is_the_right_one(self) -> None:
        """`smooth_median` takes the rank of the case above that covers."""
        noise, share = Gaussian(SIGMA), 0.05 / (2 * self.size)
        image = torch.full((1, 3, 16, 16), 0.5)
        values = drawn(nn.Identity(), image, noise, samples=self.samples, batch=400)
        _, (found,) = smooth_median(values, noise, [Budget(RADIUS)], confidence=0.95)
        rank = lower_rank(self.samples, stats.norm.cdf(-RADIUS / SIGMA), share)
        assert torch.equal(found.lower, to_image(np.sort(values, axis=0)[rank - 1])[None])


class Squashed(nn.Module):
    """A small random network that is far from linear within a radius, with outputs in (0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters()):
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=seeded(index)))
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(4 * (image - 0.5)))


class Smoothed(nn.Module):
    """What an attacker of the smoothed network differentiates: a draw with fresh noise."""

    def __init__(self, network: nn.Module, noise: Noise) -> None:
        super().__init__()
        self.network, self.noise, self.generator = network, noise, seeded(5)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image + self.noise.sigma * normal(image, [self.generator] * len(image)))


class TestAttacked:
    """APGD in L2 through 8 draws a gradient, on images of 16²: no certificate is broken."""

    noise, budget = Gaussian(0.1), Budget(0.15)

    def attacked(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, what the network makes of them without noise, and their worst neighbours."""
        images = torch.rand(TRIALS, 3, 16, 16, generator=seeded(0))
        network = Squashed()
        references = network(images)
        model = Smoothed(network, self.noise)
        options = {"eps": self.budget.radius / 768**0.5, "norm": "l2", "steps": 15, "draws": 8, "generator": seeded(1)}
        return images, references, attacks.apgd(model, images, references, **options).image

    @pytest.mark.timeout(600)
    def test_no_certificate_is_broken(self) -> None:
        network, floors, reached, clean = Squashed(), [], [], []
        for trial, (image, reference, worst) in enumerate(zip(*self.attacked(), strict=True)):
            assert float((worst - image).norm()) <= self.budget.radius * 1.001
            values = drawn(network, image[None], self.noise, samples=600, seed=trial, batch=300)
            median, (found,) = smooth_median(values, self.noise, [self.budget], confidence=CONFIDENCE)
            assert not found.abstains
            attacked_values = drawn(network, worst[None], self.noise, samples=600, seed=10**6 + trial, batch=300)
            # The median there is known to sampling error only: what surely lies beyond the bounds breaks them.
            low, middle, high = to_image(order_statistics(attacked_values, [200, 300, 401]))
            assert bool((high >= found.lower[0]).all()) and bool((low <= found.upper[0]).all())
            floors.append(worst_psnr(found, reference[None]))
            reached.append(float(psnr(middle[None], reference[None])))
            clean.append(float(psnr(median, reference[None])))
            errors = errors_of(attacked_values, reference[None]).sort().values
            bound = error_bound(
                errors_of(values, reference[None]), self.noise, self.budget, values=768, confidence=CONFIDENCE
            )
            assert float(errors[199]) <= bound
            centres = [
                smooth_centre(v, self.noise, [self.budget], confidence=CONFIDENCE) for v in (values, attacked_values)
            ]
            moved = float((centres[0].image - centres[1].image).square().mean().sqrt())
            assert moved <= centres[0].moved[0]
        assert min(r - f for r, f in zip(reached, floors, strict=True)) > 0
        assert np.mean(clean) - np.mean(reached) > 0.05  # the attack bites


class TestMechanics:
    def test_order_statistics_are_those_of_sorting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("udc_defense.certification.median.CHUNK", 100)  # several chunks
        values = np.random.default_rng(0).integers(0, LEVELS, (9, 3, 5, 7)).astype(np.uint16)
        found = order_statistics(values, [4, 1, 9, 0, 10])
        assert np.array_equal(found[:3], np.sort(values, axis=0)[[3, 0, 8]])
        assert (found[3] == 0).all() and (found[4] == LEVELS).all()

    def test_too_few_samples_abstain_and_say_how_many_are_needed(self) -> None:
        noise, budget, image = Gaussian(SIGMA), Budget(2 * SIGMA), torch.full((1, 3, 4, 4), 0.5)
        q, alpha = stats.norm.cdf(-2), (1 - CONFIDENCE) / (2 * 48)
        needed = int(samples_needed(q, alpha))
        for samples, abstains in ((needed - 1, True), (needed, False)):
            values = drawn(nn.Identity(), image, noise, samples=samples, batch=500)
            _, (found,) = smooth_median(values, noise, [budget], confidence=CONFIDENCE)
            assert (found.abstains, found.needed) == (abstains, needed)
            assert bool((found.lower == 0).all()) == bool((found.upper == 1).all()) == abstains

    def test_the_worst_psnr_is_that_of_the_worst_image(self) -> None:
        lower, width, reference = torch.rand(3, 1, 3, 4, 4, generator=seeded(0))
        found = Intervals(lower * 0.5, lower * 0.5 + width * 0.5, abstains=False, needed=1)
        corners = torch.stack([found.lower, found.upper])
        worst = torch.where((corners[0] - reference).abs() > (corners[1] - reference).abs(), *corners)
        assert worst_psnr(found, reference) == pytest.approx(float(psnr(worst, reference)), abs=1e-4)
        inside = found.lower + (found.upper - found.lower) * torch.rand(100, 3, 4, 4, generator=seeded(1))
        assert bool((psnr(inside, reference.expand_as(inside)) >= worst_psnr(found, reference) - 1e-4).all())
