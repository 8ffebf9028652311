"""Was this image trained on? The threshold attack of membership inference (arXiv 1709.01604), and its success."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from udc_defense.errors import SettingError

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Membership:
    """Success of an attacker who takes images of high score for members; 0.5 is guessing.

    Attributes:
        auc: area under the ROC: the chance that a member scores higher than another image, ties half.
        low: end of its interval, 95 %, bootstrap over images.
        high: the other end.
        accuracy: balanced accuracy at a threshold that was chosen on one half of the images and tried on the other, the
            mean of both ways.
    """

    auc: float
    low: float
    high: float
    accuracy: float


def infer_membership(
    members: Sequence[float], others: Sequence[float], *, seed: int = 0, resamples: int = 2000
) -> Membership:
    """How well scores, such as PSNR or a confidence, tell members from other images.

    Args:
        members: scores of images that were trained on; two or more.
        others: of images that were not.
        seed: of the bootstrap.
        resamples: of the images of both sets, with replacement.

    Raises:
        SettingError: fewer than two scores in a set, or values that are not finite.
    """
    inside, outside = (np.asarray(scores, dtype=float) for scores in (members, others))
    if min(len(inside), len(outside)) < 2 or not (np.isfinite(inside).all() and np.isfinite(outside).all()):
        raise SettingError(f"{len(inside)} and {len(outside)} scores are not two sets of 2 or more finite values.")
    random = np.random.default_rng(seed)
    areas = [area(random.choice(inside, len(inside)), random.choice(outside, len(outside))) for _ in range(resamples)]
    low, high = np.quantile(areas, [0.025, 0.975])
    return Membership(area(inside, outside), float(low), float(high), _accuracy(inside, outside))


def area(members: Scores, others: Scores) -> float:
    """Mann and Whitney's statistic over the number of pairs."""
    ordered = np.sort(others)
    below, up_to = np.searchsorted(ordered, members, "left"), np.searchsorted(ordered, members, "right")
    return float((below + up_to).mean() / 2 / len(others))


def _accuracy(members: Scores, others: Scores) -> float:
    """A threshold tried on the images that it was chosen on would flatter the attacker."""
    found = []
    for chosen, tried in ((0, 1), (1, 0)):
        cut = max(
            np.unique(np.concatenate([members[chosen::2], others[chosen::2]])),
            key=lambda value: _balanced(members[chosen::2], others[chosen::2], value),  # noqa: B023
        )
        found.append(_balanced(members[tried::2], others[tried::2], cut))
    return sum(found) / 2


def _balanced(members: Scores, others: Scores, cut: float) -> float:
    return float(((members >= cut).mean() + (others < cut).mean()) / 2)
