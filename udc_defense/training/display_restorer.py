"""Train a restorer that knows the display, behind many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from udc_defense.output import write_json
from udc_defense.restorers.physics import clipped_share
from udc_defense.restorers.wiener_unet import WienerUNet
from udc_defense.training.display_captures import Batches, Captures, DisplayCaptures
from udc_defense.training.loop import Progress, TrainingSettings, bare, save, train

LIGHTS_WEIGHT = 0.05  # of the estimated lights, beside the image
CLIPPED_AT_LEAST = 0.05  # share of a 2×2 block


def train_display_restorer(
    captures: DisplayCaptures,
    settings: TrainingSettings,
    facts: dict[str, Any],
    network: Callable[[], WienerUNet] = WienerUNet,
    *,
    batch: int,
) -> Iterator[Progress]:
    """Train from scratch; the EMA weights end in `settings.out/restorer` as float16.

    Args:
        captures: simulates batches on the device that trains.
        settings: of the run; a "capture" of it is a whole batch here.
        facts: what else the card shall say.
        network: makes it.
        batch: captures that are simulated at once.
    """
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(settings.seed)
        restorer = network()

    def finish(trained: nn.Module, run: dict[str, Any]) -> None:
        folder = settings.out / "restorer"
        save(trained.half(), folder)
        write_json(folder / "training.json", facts | run)

    seeds = Batches(length=settings.steps, seed=settings.seed)
    return train(restorer, partial(_loss, captures, batch), seeds, settings, finish=finish)


def _loss(
    captures: DisplayCaptures, count: int, network: nn.Module, seeds: Tensor, _: Tensor, __: list[torch.Generator]
) -> Tensor:
    """Mean log error of the restored crops in units of 10 dB, and the error of the lights that were estimated."""
    with torch.no_grad(), torch.autocast(seeds.device.type, enabled=False):
        batch = captures(int(seeds[0]), count)
    restorer = bare(network)
    restorer.bind(batch.optics)  # type: ignore[operator]
    restored, lights = restorer.with_lights(batch.captured)  # type: ignore[operator]
    error = (restored.float() - batch.clean).square().flatten(1).mean(dim=1)
    return torch.log10(error + 1e-6).mean() + LIGHTS_WEIGHT * lights_error(batch, lights)


def lights_error(batch: Captures, lights: Tensor) -> Tensor:
    """Mean absolute error of log light over saturation, where 2×2 blocks of the capture are clipped."""
    clipped = nn.functional.avg_pool2d(clipped_share(batch.captured, batch.optics.saturation), 2)
    lost = (batch.unclipped - batch.optics.saturation).clamp_min(0)
    lost = nn.functional.avg_pool2d(lost, 2) / batch.optics.saturation
    true = torch.log1p(lost / clipped.clamp_min(CLIPPED_AT_LEAST))
    where = (clipped > CLIPPED_AT_LEAST).to(true)
    difference = (lights[..., : true.shape[-2], : true.shape[-1]] - true).abs() * where
    return difference.sum() / where.sum().clamp_min(1)
