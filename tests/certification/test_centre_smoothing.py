"""Centre smoothing: the movement is bounded, and by no smaller factor than that of its distance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from udc_defense.certification.centre import CANDIDATES, MSE, RMSE, Centre, Distance, smooth_centre
from udc_defense.certification.noise import Budget, Gaussian
from udc_defense.certification.sampling import drawn

SIGMA, RADIUS = 0.1, 0.25
BALL, CENTRE = 0.15, 0.3  # radius of the ball of outputs, and the value at its centre
VALUES = 48
FAR = 1.38 * BALL  # from the ball's edge; nearer than two points of the edge are to each other, √2 BALL


class Trap(nn.Module):
    """As far as the smoothed output can get in ℓ2.

    Nearly all outputs lie on a ball's surface in many directions, or at its centre, which is therefore chosen. A shift
    by RADIUS along the first value empties the centre, and moves almost half of the mass to two points beyond one of
    the directions, of which the nearer then has the smallest median distance.
    """

    def forward(self, noisy: Tensor) -> Tensor:
        flat = noisy.flatten(1)
        along = (flat[:, 0] - 0.5) / SIGMA
        share = 0.5 * (1 + torch.erf((flat[:, 1] - 0.5) / SIGMA / math.sqrt(2)))  # uniform in [0, 1]
        axis = torch.where(share < 0.25, 0.0, 1 + (share - 0.25) / 0.75 * (VALUES - 2)).long()
        output = torch.full_like(flat, CENTRE)
        rows = torch.arange(len(flat))
        output[rows, axis] += BALL * (along > -0.6)
        beyond = along > RADIUS / SIGMA + 0.25
        output[beyond] = CENTRE
        output[beyond, 0] += BALL + FAR + 0.02 * BALL * (share[beyond] < 0.5)
        return output.view_as(noisy)


@pytest.fixture(scope="module", params=[RMSE, MSE], ids=["rmse", "mse"])
def trapped(request: pytest.FixtureRequest) -> tuple[Distance, Centre, float]:
    """The distance, the certificate of the capture, and how far the output of the attacked capture is away."""
    distance, image = request.param, torch.full((1, 3, 4, 4), 0.5)
    attacked = image.clone()
    attacked.view(-1)[0] += RADIUS

    def smoothed(x: Tensor, seed: int) -> Centre:
        values = drawn(Trap(), x, Gaussian(SIGMA), samples=20_000, seed=seed, batch=5000)
        return smooth_centre(values, Gaussian(SIGMA), [Budget(RADIUS)], confidence=0.95, distance=distance)

    certificate = smoothed(image, 1)
    return distance, certificate, float(distance.between(smoothed(attacked, 2).image, certificate.image))


def test_the_output_moves_no_further_than_certified(trapped: tuple[Distance, Centre, float]) -> None:
    _, certificate, moved = trapped
    assert 0 < moved <= certificate.moved[0] < math.inf


def test_smaller_factors_are_wrong(trapped: tuple[Distance, Centre, float]) -> None:
    """2 R̂ for a metric; and 3 R̂, right for a metric, for the square of one."""
    distance, certificate, moved = trapped
    smaller = {1.0: 2, 2.0: 3}[distance.relaxation]
    assert moved > smaller * certificate.enclosing[0]


def test_factors_of_the_paper() -> None:
    assert (RMSE.factor, MSE.factor) == (3, 10)


def test_the_relaxation_is_that_of_the_distance() -> None:
    """On random images the triangle inequality holds with γ, and for MSE not with 1."""
    a, b, c = torch.rand(3, 1000, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    c[0], b[0] = a[0] + 0.5, a[0] + 0.25  # on a line, the worst
    for distance, metric in ((RMSE, True), (MSE, False)):
        ac, ab, bc = (
            torch.stack([distance.between(x[None], y[None])[0] for x, y in zip(*pair, strict=True)])
            for pair in ((a, c), (a, b), (b, c))
        )
        assert bool((ac <= distance.relaxation * (ab + bc) + 1e-6).all())
        assert bool((ac <= ab + bc + 1e-6).all()) == metric


def test_the_enclosing_radius_of_noise_is_its_quantile() -> None:
    """The identity on one value that noise reaches: |noise| below R̂ for Φ(Φ⁻¹(½ + Δ) + R/σ) of it, 1-D Gaussian."""

    class First(nn.Module):
        def forward(self, noisy: Tensor) -> Tensor:
            return torch.full_like(noisy, 0.5) + (noisy - 0.5) * (torch.arange(3) == 0).view(1, 3, 1, 1)

    noise, samples, confidence = Gaussian(0.05), 40_000, 0.99
    values = drawn(First(), torch.full((1, 3, 1, 1), 0.5), noise, samples=samples, batch=10_000)
    found = smooth_centre(values, noise, [Budget(0.05)], confidence=confidence)
    # Δ as the module documents it: twice Hoeffding's deviation on a quarter of the samples.
    margin = 2 * math.sqrt(math.log(2 / (0.005 - 2.0**-CANDIDATES)) / (2 * ((samples - CANDIDATES) // 4)))
    share = noise.highest(0.5 + margin, Budget(0.05), 3)
    exact = torch.special.ndtri(torch.tensor((1 + share) / 2)) * 0.05 / math.sqrt(3)
    # The chosen sample is near the centre, not at it.
    assert float(exact) < found.enclosing[0] < 1.1 * float(exact)


@pytest.mark.parametrize("samples", [20, 60, 300])
def test_too_few_samples_abstain(samples: int) -> None:
    values = drawn(nn.Identity(), torch.full((1, 3, 4, 4), 0.5), Gaussian(SIGMA), samples=samples, batch=100)
    found = smooth_centre(values, Gaussian(SIGMA), [Budget(0.2)], confidence=0.999)
    assert found.moved == [math.inf]
