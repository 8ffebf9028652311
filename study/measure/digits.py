"""DUCD in its published setting, a classifier (arXiv 2408.10647), small: scikit-learn's digits.

A target is overfitted on some digits. A surrogate is distilled from its answers for others, with noise and L1 on the
logits, and smoothed by votes under Gaussian noise. How well does a threshold on the confidence tell the members from
digits that none of them has seen?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study.measure.membership import infer_membership
from udc_defense.errors import SettingError
from udc_defense.evaluation.bootstrap import bootstrap_difference
from udc_defense.noise import seeded

MEMBERS = 150  # and as many others; what is left is the attacker's public data
WIDTH = 256
TARGET_STEPS = 400
SURROGATE_STEPS = 1000
BATCH = 256
NOISY_COPIES = 8  # queries per public digit
SIGMA = 0.25  # of the queries' noise and of the smoothing, pixels being in [0, 1]
VOTES = 100
SPLITS = 10


def load_digits() -> tuple[Tensor, Tensor]:
    """1797 digits of 8×8 as (N, 64) in [0, 1], and their labels.

    Raises:
        SettingError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise SettingError(
            f'the digits need {error.name}; install them with pip install "udc-defense[metrics]".'
        ) from error
    found = datasets.load_digits()
    return torch.from_numpy(found.data).float() / 16, torch.from_numpy(found.target).long()


def measure() -> dict[str, Any]:
    """Accuracy and membership inference of target, surrogate and smoothed surrogate, over random splits."""
    images, labels = load_digits()
    rows = [measure_split(images, labels, seed) for seed in range(SPLITS)]
    areas = {name: np.array([[row[name]["membership"]["auc"]] for row in rows]) for name in rows[0]}
    gained = bootstrap_difference(areas["target"], areas["smoothed"])
    return {
        "members": MEMBERS,
        "others": MEMBERS,
        "queries": (len(images) - 2 * MEMBERS) * NOISY_COPIES,
        "sigma": SIGMA,
        "votes": VOTES,
        "mean_auc": {name: float(values.mean()) for name, values in areas.items()},
        "mean_accuracy": {name: float(np.mean([row[name]["accuracy"] for row in rows])) for name in areas},
        "auc_of_target_over_smoothed": gained._asdict(),
        "splits": rows,
    }


def measure_split(images: Tensor, labels: Tensor, seed: int) -> dict[str, dict[str, Any]]:
    """One split into members, others and public digits, which its seed draws, as it does everything random."""
    order = torch.randperm(len(images), generator=seeded(seed))
    members, others, public = order[:MEMBERS], order[MEMBERS : 2 * MEMBERS], order[2 * MEMBERS :]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        target, surrogate = _classifier(images.shape[1]), _classifier(images.shape[1])
    _fit(target, images[members], lambda logits: F.cross_entropy(logits, labels[members]))
    noise = seeded(seed + SPLITS)
    queries = _noisy(images[public].repeat(NOISY_COPIES, 1), noise)
    distill_logits(surrogate, queries, target(queries).detach(), noise)
    models: dict[str, Callable[[Tensor], Tensor]] = {
        "target": target,
        "surrogate": surrogate,
        "smoothed": lambda x: votes(surrogate, x, noise),
    }
    found = {}
    for name, model in models.items():
        with torch.no_grad():
            inside, outside = model(images[members]), model(images[others])
        guessed = infer_membership(margins(inside, labels[members]), margins(outside, labels[others]), seed=seed)
        correct = (outside.argmax(1) == labels[others]).double().mean()
        found[name] = {"accuracy": float(correct), "membership": asdict(guessed)}
    return found


def margins(outputs: Tensor, labels: Tensor) -> list[float]:
    """The lead of the right class over the next best, in logits or votes: a confidence that does not saturate."""
    right = outputs.gather(1, labels[:, None]).squeeze(1)
    others = outputs.scatter(1, labels[:, None], -torch.inf)
    return (right - others.amax(1)).tolist()


def distill_logits(surrogate: nn.Module, queries: Tensor, answers: Tensor, generator: torch.Generator) -> None:
    """Fit to answers (N, classes) by the paper's loss: mean absolute difference of logits."""
    optimizer = torch.optim.Adam(surrogate.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, SURROGATE_STEPS)
    for _ in range(SURROGATE_STEPS):
        batch = torch.randint(len(queries), (BATCH,), generator=generator)
        optimizer.zero_grad()
        F.l1_loss(surrogate(queries[batch]), answers[batch]).backward()
        optimizer.step()
        schedule.step()


def votes(classifier: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    """Share of the votes of each class under Gaussian noise, (N, classes): randomized smoothing (arXiv 1902.02918)."""
    total = torch.zeros(len(images), 10)
    for _ in range(VOTES):
        winners = classifier(_noisy(images, generator)).argmax(1)
        total += F.one_hot(winners, 10)
    return total / VOTES


def _noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    return images + SIGMA * torch.randn(images.shape, generator=generator)


def _classifier(inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))


def _fit(classifier: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    for _ in range(TARGET_STEPS):
        optimizer.zero_grad()
        loss(classifier(images)).backward()
        optimizer.step()
