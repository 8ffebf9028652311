"""Detect an attack by what purification changes: restorer(x) against restorer(purifier(x)).

A clean capture is restored to nearly the same image with and without purification; an attacked one is not. The
published defense (arXiv 2402.13629) speaks of detecting perturbations without saying how; the score is ours, after the
reconstruction detectors of classification (MagNet, arXiv 1705.09064).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from udc_defense.defense import Defense
from udc_defense.errors import SettingError
from udc_defense.noise import Generators

CALIBRATION = Path(__file__).parent / "weights" / "detector.json"


class Detector(nn.Module):
    """Capture (B, 3, H, W) to a score (B,), differentiable; higher is more suspicious.

    Args:
        defense: whose two restorations are compared.

    Raises:
        SettingError: the defense has no purifier.
    """

    def __init__(self, defense: Defense) -> None:
        super().__init__()
        if defense.purifier is None:
            raise SettingError("a detector compares with the purified capture; this defense has no purifier.")
        self.defense = defense

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        """The mean squared difference of the two restorations in dB: minus their PSNR, at least -100."""
        return difference(self.defense.restorer(image), self.defense(image, generator=generator))


def difference(restored: Tensor, defended: Tensor) -> Tensor:
    """10 log10 of the mean squared difference per sample, (B,), in dB; -100 for equal images."""
    return 10 * torch.log10((restored - defended).square().flatten(1).mean(dim=1).clamp_min(1e-10))


def threshold(clean_scores: Sequence[float], false_alarms: float = 0.05) -> float:
    """The score above which at most this share of clean captures lies: the conformal quantile.

    Another clean capture exceeds it with a probability of at most `false_alarms`, whatever the distribution, if it is
    exchangeable with the calibration captures (arXiv 2107.07511, eq. 1).

    Args:
        clean_scores: of captures without attack.
        false_alarms: in 0…1, both excluded.

    Raises:
        SettingError: the share is out of range, or the scores are too few for it.
    """
    if not 0 < false_alarms < 1:
        raise SettingError(f"a share of false alarms of {false_alarms:g} is not in 0…1.")
    rank = math.ceil((len(clean_scores) + 1) * (1 - false_alarms))
    if rank > len(clean_scores):
        needed = math.ceil(1 / false_alarms) - 1
        raise SettingError(f"{len(clean_scores)} clean scores are too few for {false_alarms:g}: at least {needed}.")
    return sorted(clean_scores)[rank - 1]


def calibrated(purifier: Mapping[str, Any], checkpoints: Mapping[str, str]) -> float | None:
    """The threshold that comes with the embedded networks, in dB; None for any other networks or purification.

    Args:
        purifier: what a report says of the purifier.
        checkpoints: sha256 of the weights in use, as a report has them.
    """
    if not CALIBRATION.is_file():
        return None
    found = json.loads(CALIBRATION.read_text(encoding="utf-8"))
    fits = (dict(purifier), dict(checkpoints)) == (found["purifier"], found["checkpoints"])
    return found["threshold"] if fits else None


@dataclass(frozen=True)
class Roc:
    """How well scores tell attacked captures from clean ones.

    Attributes:
        false_alarms: share of clean captures above each threshold, rising from 0 to 1.
        detections: share of attacked captures above it.
        area: under the curve: the chance that an attacked capture scores higher than a clean one, ties half.
    """

    false_alarms: list[float]
    detections: list[float]
    area: float


def roc(clean_scores: Sequence[float], attacked_scores: Sequence[float]) -> Roc:
    """The curve over all thresholds.

    Raises:
        SettingError: one of the two is empty.
    """
    if not clean_scores or not attacked_scores:
        raise SettingError("a ROC needs scores of clean and of attacked captures.")
    cuts = [math.inf, *sorted({*clean_scores, *attacked_scores}, reverse=True)]
    alarms, detections = (
        [sum(score >= cut for score in scores) / len(scores) for cut in cuts]
        for scores in (clean_scores, attacked_scores)
    )
    wins = sum((a > c) + (a == c) / 2 for a in attacked_scores for c in clean_scores)
    return Roc(alarms, detections, wins / len(clean_scores) / len(attacked_scores))


class Evading(nn.Module):
    """The restorer as the detector-aware attacker has it; as its objective, damage that the detector must not see.

    `attacks.pgd(evading, captured, clean, objective=evading.damage, eps=…)`: every evaluation also runs the detector,
    and the loss falls where its score exceeds the threshold.

    Args:
        detector: to be evaded; its noise is fresh at every evaluation.
        limit: threshold of the detector, in dB.
        generator: of the purifier's noise.
        weight: of the excess in dB, the damage being the mean squared error in dB.
    """

    def __init__(
        self, detector: Detector, limit: float, generator: torch.Generator | None = None, weight: float = 4.0
    ) -> None:
        super().__init__()
        self.defense, self.limit, self.generator, self.weight = detector.defense, limit, generator, weight
        self._score: Tensor | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Captures to restored images; what the detector says of them is kept for `damage`."""
        restored = self.defense.restorer(image)
        self._score = difference(restored, self.defense(image, generator=self.generator))
        return restored

    def damage(self, output: Tensor, reference: Tensor) -> Tensor:
        """Loss per sample (B,), in dB; of the last evaluation."""
        if self._score is None or len(self._score) != len(output):
            raise SettingError("the objective belongs to evaluations of its own module.")
        return difference(output, reference) - self.weight * (self._score - self.limit).clamp_min(0)
