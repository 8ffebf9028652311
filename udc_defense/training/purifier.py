"""Train the default purifier: a diffusion model of captures, for small timesteps only.

DDPM's simple loss (arXiv 2006.11239, eq. 14) over t < 150 of 1000: purification starts no higher, so all capacity goes
to denoising of σ ≤ 0.46. The result is a denoiser in diffusion's clothes, not a generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from udc_defense.noise import normal
from udc_defense.output import write_json
from udc_defense.training.loop import Progress, TrainingSettings, save, train

CROP = 96
CROPS_PER_CAPTURE = 4
LAST_TIMESTEP = 150
WIDTHS = (16, 32, 64, 128)


def new_network() -> UNet2DModel:
    """Narrow at full resolution, where the time goes; no attention, so that it works at any size and in tiles."""
    return UNet2DModel(
        sample_size=256,
        in_channels=3,
        out_channels=3,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
        down_block_types=("DownBlock2D",) * len(WIDTHS),
        up_block_types=("UpBlock2D",) * len(WIDTHS),
    )


def new_scheduler() -> DDPMScheduler:
    """Linear betas, 1000 steps; no clipping of x̂₀, which would cut gradients."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)


def train_purifier(
    dataset: Dataset[tuple[Tensor, Tensor]], settings: TrainingSettings, facts: dict[str, Any]
) -> Iterator[Progress]:
    """Train from scratch; the EMA weights end in `settings.out/purifier` as float16, in stock diffusers' layout.

    Args:
        dataset: captures (and clean images, unused), tone-mapped.
        settings: of the run.
        facts: what else the card shall say (data, panels).
    """
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(settings.seed)
        network = new_network()
    scheduler = new_scheduler()

    def loss(network: nn.Module, captured: Tensor, clean: Tensor, generators: list[torch.Generator]) -> Tensor:
        x = captured * 2 - 1
        t = torch.cat([torch.randint(0, LAST_TIMESTEP, (1,), generator=g) for g in generators]).to(x.device)
        noise = normal(x, generators)
        return F.mse_loss(network(scheduler.add_noise(x, noise, t), t).sample.float(), noise)

    def finish(trained: nn.Module, run: dict[str, Any]) -> None:
        folder = settings.out / "purifier"
        save(DDPMPipeline(trained.half(), scheduler), folder)
        run = facts | run | {"last_timestep": LAST_TIMESTEP}
        write_json(folder / "training.json", run)

    return train(network, loss, dataset, settings, finish=finish)
