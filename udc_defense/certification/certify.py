"""Everything certified of one photo, from one set of samples."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from udc_defense.certification.centre import smooth_centre
from udc_defense.certification.median import Intervals, psnr_of, smooth_median, worst_psnr
from udc_defense.certification.noise import Budget, Noise
from udc_defense.certification.sampling import BATCH, draw
from udc_defense.certification.single_draw import error_bound, errors_of
from udc_defense.errors import SettingError
from udc_defense.tensors import check_capture, check_pair


@dataclass(frozen=True)
class Certification:
    """How a photo is certified.

    Attributes:
        noise: added to the capture.
        budgets: what the attacker may do; each gets certificates of its own.
        confidence: of each certificate, 1 - α.
        samples: under noise.
        batch: of them at once.
        seed: of the noise.
    """

    noise: Noise
    budgets: tuple[Budget, ...]
    confidence: float = 0.999
    samples: int = 1000
    batch: int = BATCH
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise SettingError(f"confidence {self.confidence:g} is not between 0 and 1.")
        if not 1 <= self.samples <= 1_000_000:
            raise SettingError(f"{self.samples} samples are not in 1…1000000.")
        if not 1 <= self.batch <= 1024:
            raise SettingError(f"batch {self.batch} is not in 1…1024.")


@dataclass(frozen=True)
class Floor:
    """Certified lower bounds of PSNR in dB within a budget; None where a certificate abstains.

    Attributes:
        budget: what the attacker may do.
        median: of the median image (median smoothing).
        draw: of at least half of all single draws.
        centre: of the centre of the draws (centre smoothing).
        needed: fewest samples with which median smoothing does not abstain.
    """

    budget: Budget
    median: float | None
    draw: float | None
    centre: float | None
    needed: float


@dataclass(frozen=True)
class Certificate:
    """What is certified of one photo.

    Attributes:
        bare: PSNR in dB of the restorer without noise or denoiser; infinite where its output is the reference.
        smoothed: of the median image.
        drawn: of the median single draw.
        floors: one per budget.
        median: the median image, (1, 3, H, W).
        intervals: one per budget.
        seconds: of sampling by this process, and of the certificates.
    """

    bare: float
    smoothed: float
    drawn: float
    floors: list[Floor]
    median: Tensor
    intervals: list[Intervals]
    seconds: dict[str, float]

    def report(self) -> dict[str, Any]:
        """As it is written to files; null where a certificate abstains, or no number of samples is enough."""
        values = self.median[0].numel()
        return {
            "psnr": {name: finite(getattr(self, name)) for name in ("bare", "smoothed", "drawn")},
            "floors": [
                {"norm": floor.budget.norm, "radius": floor.budget.radius}
                | {"linf_covered_in_255ths": 255 * floor.budget.linf_covered(values)}
                | {name: getattr(floor, name) for name in ("median", "draw", "centre")}
                | {"samples_needed": finite(floor.needed)}
                for floor in self.floors
            ],
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        }


@dataclass(frozen=True)
class Step:
    """`done` of `total` samples; the certificate after the last."""

    done: int
    total: int
    certificate: Certificate | None = None


def certify(
    model: nn.Module,
    image: Tensor,
    reference: Tensor,
    certification: Certification,
    *,
    bare: Tensor,
    file: Path | None = None,
) -> Iterator[Step]:
    """Sample, then certify; yields after every batch. Close the iterator to stop.

    Args:
        model: noisy captures -> images: the restorer, perhaps behind a denoiser; deterministic.
        image: the capture (1, 3, H, W) in [0, 1].
        reference: what PSNR is against, same shape; fixed before the samples are drawn.
        certification: noise, budgets, confidence, samples.
        bare: output of the restorer without noise.
        file: keeps the samples of a run that is killed.
    """
    check_capture(image)
    check_pair(image, reference)
    started = time.perf_counter()
    options = {"samples": certification.samples, "seed": certification.seed, "batch": certification.batch}
    for state in draw(model, image, certification.noise, **options, file=file):
        yield Step(state.done, state.total)
    assert state.values is not None
    sampled = time.perf_counter()
    certificate = _certificate(state.values, reference.cpu(), bare.cpu(), certification)
    certificate.seconds.update(sampling=sampled - started, certificates=time.perf_counter() - sampled)
    yield Step(state.total, state.total, certificate)


def _certificate(values: np.ndarray, reference: Tensor, bare: Tensor, settings: Certification) -> Certificate:
    noise, budgets, confidence = settings.noise, list(settings.budgets), settings.confidence
    median, intervals = smooth_median(values, noise, budgets, confidence=confidence)
    errors = errors_of(values, reference)
    centre = smooth_centre(values, noise, budgets, confidence=confidence)
    centre_error = _rmse(centre.image, reference)
    size = reference[0].numel()
    floors = []
    for budget, found, moved in zip(budgets, intervals, centre.moved, strict=True):
        drawn = error_bound(errors, noise, budget, values=size, confidence=confidence)
        floors.append(
            Floor(
                budget,
                median=None if found.abstains else worst_psnr(found, reference),
                draw=finite(psnr_of(drawn)),
                centre=finite(psnr_of(centre_error + moved)),
                needed=found.needed,
            )
        )
    return Certificate(
        bare=psnr_of(_rmse(bare, reference)),
        smoothed=psnr_of(_rmse(median, reference)),
        drawn=psnr_of(float(errors.median())),
        floors=floors,
        median=median,
        intervals=intervals,
        seconds={},
    )


def _rmse(image: Tensor, reference: Tensor) -> float:
    return float((image.clamp(0, 1) - reference.clamp(0, 1)).double().square().mean().sqrt())


def finite(value: float) -> float | None:
    """A number that JSON can hold, or null."""
    return value if math.isfinite(value) else None


def bare_output(restorer: nn.Module, image: Tensor) -> Tensor:
    """The restorer's output on the capture as it is."""
    with torch.inference_mode():
        return restorer(image)
