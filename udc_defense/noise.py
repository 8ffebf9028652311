"""Randomness that depends on a sample's generator alone: not on batch, order, device or tile."""

from __future__ import annotations

import torch
from torch import Tensor

from udc_defense.errors import SettingError

Generators = torch.Generator | list[torch.Generator] | None


def seeded(seed: int) -> torch.Generator:
    """A CPU generator of its own."""
    return torch.Generator().manual_seed(seed)


def check_generator(generator: Generators) -> None:
    """Refuse what is neither a CPU generator, nor a list of them, nor None.

    Raises:
        SettingError: it is something else, such as a seed.
    """
    for one in generator if isinstance(generator, list) else [generator]:
        if not isinstance(one, torch.Generator | None):
            raise SettingError(f"generator {one!r} is no torch.Generator; torch.Generator().manual_seed(7) is one.")
        if one is not None and one.device.type != "cpu":
            raise SettingError(f"a generator on {one.device}: noise is drawn on the CPU, so that devices agree.")


def split(generator: Generators, batch: int, parts: int) -> list[list[torch.Generator]]:
    """Independent child generators, `parts` lists of one per sample.

    A list of generators gives each sample its own children; a single one (or None, the global state) is asked for
    the samples in turn.

    Raises:
        SettingError: the list is of another length than the batch, or one is no CPU generator.
    """
    check_generator(generator)
    sources = generator if isinstance(generator, list) else [generator] * batch
    if len(sources) != batch:
        raise SettingError(f"{len(sources)} generators for a batch of {batch}.")
    seeds = [torch.randint(2**62, (parts,), generator=source).tolist() for source in sources]
    return [[seeded(sample[part]) for sample in seeds] for part in range(parts)]


def normal(like: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Standard normal values in the shape of `like`, drawn on the CPU sample by sample."""
    shape = like.shape[1:]
    return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(like)


def uniform(like: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Values uniform in [-1, 1), likewise."""
    shape = like.shape[1:]
    return (2 * torch.stack([torch.rand(shape, generator=g) for g in generators]) - 1).to(like)
