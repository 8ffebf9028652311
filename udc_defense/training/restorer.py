"""Train a restorer on simulated or paired captures: PSNR as the loss, as NAFNet's (arXiv 2204.04676)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from udc_defense.errors import SettingError
from udc_defense.output import write_json
from udc_defense.restorers import RESTORERS
from udc_defense.restorers.base import Restorer
from udc_defense.restorers.gated_unet import GatedUNet
from udc_defense.sizes import check_sizes
from udc_defense.training.loop import Progress, TrainingSettings, save, train

CROP = 192  # flare reaches far: smaller crops do not show where it comes from
CROPS_PER_CAPTURE = 2


def train_restorer(
    dataset: Dataset[tuple[Tensor, Tensor]],
    settings: TrainingSettings,
    facts: dict[str, Any],
    network: Callable[[], Restorer] | None = None,
) -> Iterator[Progress]:
    """Train from scratch; the EMA weights end in `settings.out/restorer` as float16.

    Args:
        dataset: captures and clean images, tone-mapped.
        settings: of the run.
        facts: what else the card shall say (data, panels).
        network: makes it; the default restorer's architecture if not given.
    """
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(settings.seed)
        restorer = (network or GatedUNet)()

    def finish(trained: nn.Module, run: dict[str, Any]) -> None:
        folder = settings.out / "restorer"
        save(trained.half(), folder)
        write_json(folder / "training.json", facts | run)

    return train(restorer, _loss, dataset, settings, finish=finish)


def untrained(architecture: str, options: dict[str, Any]) -> Restorer:
    """A network of the zoo with random weights.

    Raises:
        SettingError: there is no such architecture, or its constructor takes no such options.
    """
    try:
        network = RESTORERS.get(architecture)
        check_sizes(network, options)
        return network(**options)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        problem = str(error).partition("\n")[0].rstrip(".")
        raise SettingError(f"{architecture} cannot be made with {options} ({problem}).") from error


def _loss(network: nn.Module, captured: Tensor, clean: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Mean log error of the crops, so that a bright scene does not outweigh the others; in units of 10 dB."""
    error = (network(captured).float() - clean).square().flatten(1).mean(dim=1)
    return torch.log10(error + 1e-6).mean()
