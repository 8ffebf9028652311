"""Short trainings of networks of a few thousand weights, on images that need no data."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

from udc_defense.checkpoints.files import WEIGHTS
from udc_defense.noise import seeded
from udc_defense.restorers.gated_unet import GatedUNet
from udc_defense.training import purifier, restorer
from udc_defense.training.loop import Progress, TrainingSettings
from udc_defense.training.purifier import train_purifier
from udc_defense.training.restorer import train_restorer

WEIGHTS_OF = {"restorer": f"restorer/{WEIGHTS}", "purifier": f"purifier/unet/{WEIGHTS}"}


TRAIN = {"restorer": train_restorer, "purifier": train_purifier}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks of a few thousand weights, on one thread, as the killed process has it."""
    shrink(monkeypatch.setattr)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shrink(put: Any) -> None:
    put(restorer, "GatedUNet", functools.partial(GatedUNet, widths=(4, 8), blocks=(1, 1)))
    put(purifier, "WIDTHS", (4, 8))


class Drawn(Dataset[tuple[Tensor, Tensor]]):
    """Item i from i alone: noisy copies of smooth images."""

    def __init__(self, length: int, broken_at: int | None = None) -> None:
        self.length, self.broken_at = length, broken_at

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = seeded(index)
        coarse = torch.rand(2, 3, 4, 4, generator=generator)
        clean = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
        captured = clean + 0.1 * torch.randn(clean.shape, generator=generator)
        return (captured * math.nan if index == self.broken_at else captured), clean


def settings(out: Path, **changes: Any) -> TrainingSettings:
    return TrainingSettings(out, **({"steps": 6, "batch": 2, "checkpoint_every": 2, "seed": 3} | changes))


def train(kind: str, out: Path, **changes: Any) -> list[Progress]:
    return list(TRAIN[kind](Drawn(12), settings(out, **changes), {"scenes": 2}))


def weights(kind: str, out: Path) -> dict[str, Tensor]:
    return load_file(out / WEIGHTS_OF[kind])


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
