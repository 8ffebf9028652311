"""Noise level selection: the timestep t* to which captures are diffused before they are denoised.

`select` is the published way (UAD-RS, arXiv 2307.16865): one level for a set of captures, the one that brings the task
network's features nearest to those of clean captures. `AdaptivePurifier` is ours: a level for each photo, without clean
data, from the score of a detector and thresholds calibrated beforehand.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from udc_defense.detection import Detector
from udc_defense.errors import SettingError
from udc_defense.frechet import frechet_distance, kernel_distance
from udc_defense.hooks import submodule, watch
from udc_defense.noise import Generators, seeded, split

CALIBRATION = Path(__file__).parent / "weights" / "noise_level.json"
Distance = Literal["frechet", "kid"]


@dataclass(frozen=True)
class Selection:
    """A level, and the distance from the clean captures at every level tried."""

    level: int
    scores: dict[int, float]


def select(
    purify: Callable[[int], nn.Module],
    network: nn.Module,
    layer: str,
    clean: Iterable[Tensor],
    suspicious: Iterable[Tensor],
    levels: Sequence[int],
    *,
    distance: Distance = "frechet",
    seed: int = 0,
) -> Selection:
    """The level whose purified captures are nearest to clean ones in a layer of the task network (arXiv 2307.16865).

    Of the layer's activation the mean over the image counts. Every level sees the same captures under the same noise,
    so that levels differ by nothing else; of equally near ones the lowest wins.

    Args:
        purify: level -> purifier, called with `generator`; level 0 is the identity.
        network: captures in [0, 1] -> anything: the restorer or classifier to be defended, in evaluation mode.
        layer: dotted name of a submodule of `network`, whose output is (B, C) or (B, C, H, W).
        clean: batches (B, 3, H, W) of captures without attack, in [0, 1]; sizes may differ from batch to batch.
        suspicious: batches of the captures to be purified; they need no pairs among the clean ones.
        levels: to choose from.
        distance: `frechet`, of Gaussians with shrunk covariances, or `kid`, the kernel distance.
        seed: of the purifiers' noise.

    Raises:
        SettingError: no levels, no such layer or distance, an activation of another form, or fewer than two captures.
    """
    with torch.no_grad():
        near = [pooled(network, layer, image) for image in clean]
    features = features_by_level(purify, network, layer, suspicious, levels, seed=seed)
    return nearest(torch.cat(near) if near else torch.empty(0, 0), features, distance)


def features_by_level(
    purify: Callable[[int], nn.Module],
    network: nn.Module,
    layer: str,
    suspicious: Iterable[Tensor],
    levels: Sequence[int],
    *,
    seed: int = 0,
) -> dict[int, Tensor]:
    """Level -> pooled activations (N, C) of the captures purified at it; arguments as those of `select`."""
    if not levels:
        raise SettingError("no noise levels to choose from.")
    purifiers = {level: purify(level) for level in levels}
    features: dict[int, list[Tensor]] = {level: [] for level in purifiers}
    source = seeded(seed)
    with torch.no_grad():
        # Levels inside, captures outside: a loader that shuffles gives every level the same captures.
        for image in suspicious:
            seeds = torch.randint(2**62, (len(image),), generator=source).tolist()
            for level, purifier in purifiers.items():
                purified = purifier(image, generator=[seeded(own) for own in seeds])
                features[level].append(pooled(network, layer, purified))
    return {level: torch.cat(parts) if parts else torch.empty(0, 0) for level, parts in features.items()}


def nearest(clean: Tensor, features: dict[int, Tensor], distance: Distance = "frechet") -> Selection:
    """The level whose features (N, C) are nearest to those of clean captures (M, C).

    Raises:
        SettingError: no such distance, or fewer than two captures.
    """
    if distance not in get_args(Distance):
        raise SettingError(f"distance {distance!r} is not one of {', '.join(get_args(Distance))}.")
    suspicious = len(next(iter(features.values())))
    if min(len(clean), suspicious) < 2:
        raise SettingError(f"{len(clean)} clean and {suspicious} suspicious captures: a distance needs 2 of each.")
    measure = frechet_distance if distance == "frechet" else kernel_distance
    scores = {level: measure(clean, purified) for level, purified in features.items()}
    return Selection(min(scores, key=lambda level: (scores[level], level)), scores)


def pooled(network: nn.Module, layer: str, image: Tensor) -> Tensor:
    """The layer's activation for captures (B, 3, H, W), averaged over the image: (B, C).

    Where the layer runs several times, as in tiles, over its runs, too.

    Raises:
        SettingError: there is no such layer, it does not run, or its output is of another form.
    """
    calls: deque[Any] = deque()
    hook = watch(submodule(network, layer), calls)
    try:
        network(image)
    finally:
        hook.remove()
    if not calls:
        raise SettingError(f"layer {layer!r} gave nothing: it does not run.")
    means = [_spatial_mean(call, len(image), layer) for call in calls]
    if len({mean.shape for mean in means}) > 1:
        raise SettingError(f"layer {layer!r} runs {len(means)} times with different numbers of channels.")
    return torch.stack(means).mean(dim=0)


def _spatial_mean(activation: Any, batch: int, layer: str) -> Tensor:
    if not isinstance(activation, Tensor) or activation.dim() not in (2, 4) or len(activation) != batch:
        raise SettingError(f"layer {layer!r} does not give (B, C) or (B, C, H, W) for {batch} captures.")
    return activation if activation.dim() == 2 else activation.mean(dim=(-2, -1))


@dataclass(frozen=True)
class Chooser:
    """A rising step function from score to level: `levels[i]` for scores in (`cuts[i - 1]`, `cuts[i]`].

    Raises:
        SettingError: cuts or levels do not rise, a level is negative, or levels are not one more than cuts.
    """

    cuts: tuple[float, ...]
    levels: tuple[int, ...]

    def __post_init__(self) -> None:
        fits = len(self.levels) == len(self.cuts) + 1 and min(self.levels) >= 0
        if not fits or not all(map(math.isfinite, self.cuts)) or not (_rise(self.cuts) and _rise(self.levels)):
            raise SettingError(f"cuts {self.cuts} and levels {self.levels} are no rising step function.")

    def __call__(self, score: float) -> int:
        """The level for a photo of this score."""
        return self.levels[bisect_left(self.cuts, score)]

    def to_json(self) -> str:
        """One object, `{"cuts": […], "levels": […]}`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Chooser:
        """The inverse of `to_json`.

        Raises:
            SettingError: the text is something else.
        """
        try:
            found = json.loads(text)
            return cls(tuple(map(float, found["cuts"])), tuple(map(int, found["levels"])))
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise SettingError(f"{text[:80]!r} is no JSON object of cuts and levels that rise.") from error


def _rise(values: Sequence[float]) -> bool:
    return all(a < b for a, b in zip(values, values[1:], strict=False))


def calibrate(scores: Sequence[float], quality: Sequence[Sequence[float]], levels: Sequence[int]) -> Chooser:
    """The rising step function from score to level with the highest mean quality on calibration photos.

    An exact dynamic programme over the sorted scores. It rises because a stronger attack needs more noise; without
    that it would fit the photos' accidents. Of equally good levels it takes the lowest.

    Args:
        scores: (N,), the detector's, of photos under the mixture of attacks that is expected, clean ones among them.
        quality: (N, L), of each photo at each level: the PSNR in dB of its restoration.
        levels: (L,), rising.

    Raises:
        SettingError: shapes do not fit, values are not finite, or levels do not rise.
    """
    score, value = np.asarray(scores, dtype=float), np.asarray(quality, dtype=float)
    if not len(score) or score.ndim != 1 or value.shape != (len(score), len(levels)):
        raise SettingError(f"quality of shape {value.shape} does not fit {len(score)} scores and {len(levels)} levels.")
    if not (np.isfinite(score).all() and np.isfinite(value).all()):
        raise SettingError("scores or qualities to calibrate with are not finite.")
    if not levels or not _rise(levels):
        raise SettingError(f"levels {tuple(levels)} do not rise.")
    # Equal scores get one level, so that they count as one photo.
    steps, group = np.unique(score, return_inverse=True)
    gain = np.zeros((len(steps), len(levels)))
    np.add.at(gain, group, value)
    total, chosen = gain[0], []
    for more in gain[1:]:
        # Where the best sum over levels up to each one is, the first of equal ones.
        best = np.array([int(total[: j + 1].argmax()) for j in range(len(levels))])
        chosen.append(best)
        total = total[best] + more
    path = [int(total.argmax())]
    for best in reversed(chosen):
        path.append(int(best[path[-1]]))
    path.reverse()
    jumps = [i for i in range(1, len(path)) if path[i] != path[i - 1]]
    cuts = tuple(float(steps[i - 1] + steps[i]) / 2 for i in jumps)
    return Chooser(cuts, tuple(levels[path[i]] for i in [0, *jumps]))


class AdaptivePurifier(nn.Module):
    """Capture (B, 3, H, W) to purified capture, at a level chosen for each sample by the detector's score.

    It is differentiable within the chosen level. The choice itself is piecewise constant, so that gradients do not see
    it: an attacker who wants another level needs the score in the objective, as `detection.Evading` has it.

    Args:
        purify: level -> purifier, called with `generator`; level 0 is the identity.
        detector: the probe. A single draw of `one_step` at level 30…50 will do: its cost is one evaluation and two
            restorations.
        chooser: calibrated with the scores of that detector, and qualities of those purifiers.
    """

    sha256 = ""  # of the purifiers' weights, where they were loaded

    def __init__(self, purify: Callable[[int], nn.Module], detector: Detector, chooser: Chooser) -> None:
        super().__init__()
        self.detector, self.chooser = detector, chooser
        self.purifiers = nn.ModuleDict({str(level): purify(level) for level in chooser.levels})

    @property
    def evaluations(self) -> int:
        """Evaluations of the purifiers' network at the costliest level, with the probe's; without the restorations."""
        return _evaluations(self.detector.defense.purifier) + max(map(_evaluations, self.purifiers.values()))

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        """Purify (B, 3, H, W) in [0, 1]; nothing is clamped.

        Args:
            image: captures.
            generator: a CPU generator, or one per sample.
        """
        probes, draws = split(generator, len(image), 2)
        chosen = self.choose(image, generator=probes)
        purified, order = [], []
        for level in sorted(set(chosen)):
            members = [i for i, own in enumerate(chosen) if own == level]
            purified.append(self.purifiers[str(level)](image[members], generator=[draws[i] for i in members]))
            order += members
        return torch.cat(purified)[torch.tensor(order).argsort()]

    @torch.no_grad()
    def choose(self, image: Tensor, *, generator: Generators = None) -> list[int]:
        """The level of each sample; `generator` draws the probe's noise."""
        return [self.chooser(score) for score in self.detector(image, generator=generator).tolist()]


def _evaluations(purifier: nn.Module | None) -> int:
    return getattr(purifier, "evaluations", 0)
