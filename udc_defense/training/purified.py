"""Purified copies of captures for training: every sample at a noise level of its own, on the fly or kept on disk."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from udc_defense.noise import Generators, seeded
from udc_defense.output import write_file
from udc_defense.purifiers.diffusion import DiffusionPurifier

LEVEL_STEP = 10  # levels are drawn from a coarse grid: few calls a batch, and kept copies are met again
MOST_COPIES = 10_000  # of a cache; 128² crops take 100 kB each, 256² crops 400 kB


def draw_levels(lowest: int, highest: int, generators: list[torch.Generator]) -> list[int]:
    """A noise level for each sample: lowest, lowest + 10, …, not above highest."""
    count = (highest - lowest) // LEVEL_STEP + 1
    return [lowest + LEVEL_STEP * int(torch.randint(count, (), generator=g)) for g in generators]


class PerSample(nn.Module):
    """A purifier as one batch meets it: level and noise of each sample are its own, whatever its neighbours.

    Args:
        purifier: of diffusion, or a plain transform, which has no level.
        levels: noise level of each sample.
        generators: of each sample's noise, fresh at every call.
    """

    def __init__(self, purifier: nn.Module, levels: list[int], generators: list[torch.Generator]) -> None:
        super().__init__()
        self.purifier, self.generators = purifier, generators
        self.levels = levels if isinstance(purifier, DiffusionPurifier) else [0] * len(levels)

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        """Captures (B, 3, H, W) to purified captures; `generator` is not used."""
        order = sorted(range(len(image)), key=self.levels.__getitem__)
        purified = []
        for level in sorted(set(self.levels)):
            group = [index for index in order if self.levels[index] == level]
            purifier = _at_level(self.purifier, level)
            purified.append(purifier(image[group], generator=[self.generators[index] for index in group]))
        back = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(purified)[back]


def _at_level(purifier: nn.Module, level: int) -> nn.Module:
    if isinstance(purifier, DiffusionPurifier):
        purifier = copy.copy(purifier)
        purifier.noise_level = level
    return purifier


class Cache:
    """Purified copies as float16 files, named by the capture's own bytes and the noise level.

    So they are valid for one purifier and its settings, of any data, and a sample is never taken for another.

    Args:
        folder: of all caches; each purifier has one in it.
        purifier: its settings and sha256.
        most: no more copies are kept.
    """

    def __init__(self, folder: Path, purifier: dict[str, Any], most: int = MOST_COPIES) -> None:
        text = json.dumps(purifier, indent=1, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        write_file(self.folder / "purifier.json", text.encode())
        self.room = most - sum(1 for _ in self.folder.glob("*.safetensors"))

    def purified(self, purifier: nn.Module, image: Tensor, levels: list[int]) -> Tensor:
        """Copies of captures (B, 3, H, W), from the folder where they are; a copy's noise is drawn from its name."""
        copies = [self._copy(purifier, one[None], level) for one, level in zip(image, levels, strict=True)]
        return torch.cat(copies).to(image)

    def _copy(self, purifier: nn.Module, image: Tensor, level: int) -> Tensor:
        content = image.float().cpu().contiguous().numpy().tobytes()
        name = hashlib.sha256(content + str(level).encode()).hexdigest()
        path = self.folder / f"{name}.safetensors"
        try:
            return load(path.read_bytes())["purified"]
        except (OSError, SafetensorError, KeyError):  # not there, or damaged
            generator = seeded(int(name[:14], 16))
            copied = PerSample(purifier, [level], [generator])(image).half().cpu()
        if self.room > 0:
            self.room -= 1
            write_file(path, save({"purified": copied}))
        return copied
