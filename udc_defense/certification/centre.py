"""Centre smoothing (arXiv 2102.09701): how far the output can move, for any distance between images.

The smoothed output is the sample with the smallest median distance to others: nearly the centre of the smallest ball
that holds half of all outputs. Algorithms 1 and 2, with the ball's radius R̂ here and any x' within the budget:

- A ball around c that holds enough of the outputs at x, `highest(½ + Δ)`, still holds ½ + Δ at x'. So the smallest ball
  with ½ + Δ of the outputs at x' has a radius ≤ R̂. A sample in it has half of the others within 2γ R̂ (2γ is β), and the
  chosen one, c', is at least as good.
- Those within 2γ R̂ of c', validated on fresh samples as more than ½ - Δ, and those within R̂ of c, ½ + Δ, have an output
  in common: d(c, c') ≤ γ (R̂ + 2γ R̂) = γ (1 + 2γ) R̂.

γ is that of d(a, c) ≤ γ (d(a, b) + d(b, c)). A metric has 1: factor 3 (theorem 2). Squared distances, such as MSE or
LPIPS, have 2: factor 10 (section on relaxed triangle inequalities). MSE is no metric.

R̂ is an exact order statistic, where the paper takes Hoeffding's bound of the same quantile. This certifies what is
computed, not a limit: the output printed for x and one computed for x'.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from udc_defense.certification.noise import Budget, Noise
from udc_defense.certification.order_statistics import upper_rank
from udc_defense.certification.sampling import to_image

CANDIDATES = 30  # all of them miss the ball of mass > ½ with a probability below 2^-30, taken off α
ROWS = 16


@dataclass(frozen=True)
class Distance:
    """Between images.

    Attributes:
        between: (A, 3, H, W), (1, 3, H, W) -> (A,).
        relaxation: γ of its triangle inequality; 1 for a metric.
    """

    between: Callable[[Tensor, Tensor], Tensor]
    relaxation: float = 1.0

    @property
    def factor(self) -> float:
        """How many R̂ the output can move: 3 for a metric, 10 for γ = 2."""
        return self.relaxation * (1 + 2 * self.relaxation)


def _mse(images: Tensor, image: Tensor) -> Tensor:
    return (images - image).square().flatten(1).mean(dim=1)


def _rmse(images: Tensor, image: Tensor) -> Tensor:
    return _mse(images, image).sqrt()


MSE, RMSE = Distance(_mse, relaxation=2), Distance(_rmse)


@dataclass(frozen=True)
class Centre:
    """A smoothed output.

    Attributes:
        image: (1, 3, H, W).
        enclosing: R̂ of each budget; infinite where it abstains.
        moved: how far the output can move within each budget.
    """

    image: Tensor
    enclosing: list[float]
    moved: list[float]


def smooth_centre(
    values: np.ndarray, noise: Noise, budgets: list[Budget], *, confidence: float, distance: Distance = RMSE
) -> Centre:
    """Centre and certified movement, from outputs under noise (samples, 3, H, W).

    The first samples are candidates, a quarter chooses among them, another validates, the rest certifies. α is halved
    between choosing and certifying. It abstains where the samples are too few, or too scattered to validate.
    """
    alpha, size = (1 - confidence) / 2, math.prod(values.shape[1:])
    chosen, validation, certification = _parts(values)
    centre, radius = _choose(values[:CANDIDATES], chosen, distance)
    never = Centre(centre, [math.inf] * len(budgets), [math.inf] * len(budgets))
    if alpha <= 2.0**-CANDIDATES or len(validation) == 0:
        return never
    # Hoeffding, as in the paper. Twice the deviation, so that validation fails rarely.
    deviation = math.sqrt(math.log(2 / (alpha - 2.0**-CANDIDATES)) / (2 * len(validation)))
    margin = 2 * deviation
    inside = float((_distances(validation, centre, distance) <= radius).double().mean())
    if margin >= 0.5 or inside - deviation <= 0.5 - margin:
        return never
    sorted_distances = _distances(certification, centre, distance).sort().values
    ranks = [upper_rank(len(certification), noise.highest(0.5 + margin, b, size), alpha) for b in budgets]
    found = [float(sorted_distances[rank - 1]) if rank <= len(certification) else math.inf for rank in ranks]
    return Centre(centre, found, [distance.factor * radius for radius in found])


def _parts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """To choose, to validate and to certify with; apart from the candidates."""
    rest = values[CANDIDATES:]
    quarter = len(rest) // 4
    return rest[:quarter], rest[quarter : 2 * quarter], rest[2 * quarter :]


def _choose(candidates: np.ndarray, samples: np.ndarray, distance: Distance) -> tuple[Tensor, float]:
    """The candidate of the smallest median distance, and that distance."""
    images = to_image(candidates)
    if len(samples) == 0:
        return images[:1], math.inf
    # The upper median: at least half of the samples are within it.
    medians = [_upper_median(_distances(samples, image[None], distance)) for image in images]
    best = min(range(len(medians)), key=medians.__getitem__)
    return images[best : best + 1], medians[best]


def _upper_median(values: Tensor) -> float:
    return float(values.sort().values[len(values) // 2])


def _distances(samples: np.ndarray, image: Tensor, distance: Distance) -> Tensor:
    parts = [distance.between(to_image(samples[i : i + ROWS]), image) for i in range(0, len(samples), ROWS)]
    return torch.cat(parts) if parts else torch.zeros(0)
