"""Train the default restorer on simulated or paired captures: L1 in the tone-mapped domain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from udc_defense.restorers.gated_unet import GatedUNet
from udc_defense.training.loop import Progress, TrainingSettings, train

CROP = 128
CROPS_PER_CAPTURE = 4


def train_restorer(
    dataset: Dataset[tuple[Tensor, Tensor]], settings: TrainingSettings, facts: dict[str, Any]
) -> Iterator[Progress]:
    """Train from scratch; the EMA weights end in `settings.out/restorer` as float16.

    Args:
        dataset: captures and clean images, tone-mapped.
        settings: of the run.
        facts: what else the card shall say (data, panels).
    """
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(settings.seed)
        network = GatedUNet()

    def finish(trained: nn.Module, run: dict[str, Any]) -> None:
        folder = settings.out / "restorer"
        trained.half().save_pretrained(folder)  # type: ignore[operator]
        (folder / "training.json").write_text(json.dumps(facts | run, indent=1), encoding="utf-8")

    return train(network, _loss, dataset, settings, finish=finish)


def _loss(network: nn.Module, captured: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
    return F.l1_loss(network(captured).float(), clean)
