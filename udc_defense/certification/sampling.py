"""Outputs of a restorer under noise, the one costly step; every certificate is computed from them.

What is certified is the restorer as a file of 16 bits: outputs are clamped to [0, 1] and rounded to that grid, which is
a part of the function and costs no validity. n samples of (3, H, W) take 6 n H W bytes: 1,000 of 256² are 393 MB, in
memory or, where a file is given, on disk, and rows of a killed run are kept there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from udc_defense.certification.noise import Noise
from udc_defense.errors import SettingError
from udc_defense.noise import seeded
from udc_defense.output import append
from udc_defense.tensors import check_output

LEVELS = 65535
BATCH = 4


@dataclass(frozen=True)
class Drawing:
    """`done` of `total` samples; `values` (total, 3, H, W), uint16 of 0…65535, after the last one."""

    done: int
    total: int
    values: np.ndarray | None = None


def draw(
    model: nn.Module,
    image: Tensor,
    noise: Noise,
    *,
    samples: int,
    seed: int = 0,
    batch: int = BATCH,
    file: Path | None = None,
) -> Iterator[Drawing]:
    """Outputs for the image plus noise, a batch at a time. Close the iterator to stop.

    The noise of a sample depends on the seed and its number alone.

    Args:
        model: captures -> images; deterministic, for the noise is all that may be random.
        image: a capture (1, 3, H, W) in [0, 1].
        noise: added to the capture; the sum is not clamped.
        samples: how many.
        seed: of the noise.
        batch: samples at once.
        file: where rows go as they are known. Whole batches in it are taken for done.

    Raises:
        SettingError: a number is out of range, or an output is not finite.
        OutputError: the file cannot be written.
    """
    if samples < 1 or batch < 1 or len(image) != 1:
        raise SettingError(f"{samples} samples in batches of {batch} of {len(image)} images: needs 1 image, 1 or more.")
    seeds = torch.randint(2**62, (samples,), generator=seeded(seed)).tolist()
    shape = (samples, *image.shape[1:])
    rows = _InMemory(shape) if file is None else _OnDisk(file, shape)
    # Whole batches only: a network may round differently in a batch of another size.
    for start in range(rows.resume(batch), samples, batch):
        rows.append(start, _outputs(model, image, noise, seeds[start : start + batch]))
        yield Drawing(min(start + batch, samples), samples)
    yield Drawing(samples, samples, rows.values())


def drawn(
    model: nn.Module, image: Tensor, noise: Noise, *, samples: int, seed: int = 0, batch: int = BATCH
) -> np.ndarray:
    """All of them at once, in memory."""
    *_, last = draw(model, image, noise, samples=samples, seed=seed, batch=batch)
    assert last.values is not None
    return last.values


def noisy(image: Tensor, noise: Noise, seeds: list[int]) -> Tensor:
    """The image (1, 3, H, W) once per seed, each with noise of its own."""
    repeated = image.expand(len(seeds), *image.shape[1:])
    return repeated + noise.draw(repeated, [seeded(seed) for seed in seeds])


def to_image(values: np.ndarray) -> Tensor:
    """Levels (..., 3, H, W) as float values in [0, 1]."""
    return torch.from_numpy(values.astype(np.float32)) / LEVELS


def _outputs(model: nn.Module, image: Tensor, noise: Noise, seeds: list[int]) -> np.ndarray:
    with torch.inference_mode():
        inputs = noisy(image, noise, seeds)
        outputs = check_output(model(inputs), tuple(inputs.shape), "the restorer")
        if not bool(outputs.isfinite().all()):
            raise SettingError(
                f"the restorer's output under {noise.family} noise of σ = {noise.sigma:g} is not finite."
            )
        levels = (outputs.clamp(0, 1) * LEVELS).round().to(torch.int32)
    return levels.cpu().numpy().astype(np.uint16)


class _InMemory:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.array = np.empty(shape, np.uint16)

    def resume(self, batch: int) -> int:
        return 0

    def append(self, start: int, rows: np.ndarray) -> None:
        self.array[start : start + len(rows)] = rows

    def values(self) -> np.ndarray:
        return self.array


class _OnDisk:
    """Rows one after the other; a row that a kill has cut off is written again."""

    def __init__(self, file: Path, shape: tuple[int, ...]) -> None:
        self.file, self.shape = file, shape
        self.row_bytes = 2 * int(np.prod(shape[1:]))

    def resume(self, batch: int) -> int:
        if not self.file.is_file():
            return 0
        rows = self.file.stat().st_size // self.row_bytes
        whole = rows if rows == self.shape[0] else rows // batch * batch
        os.truncate(self.file, whole * self.row_bytes)
        return whole

    def append(self, start: int, rows: np.ndarray) -> None:
        append(self.file, rows.tobytes())

    def values(self) -> np.ndarray:
        return np.memmap(self.file, np.uint16, "r", shape=self.shape)
