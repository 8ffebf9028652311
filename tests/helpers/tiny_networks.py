"""Networks of a few weights, in memory and as checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from udc_defense.checkpoints.files import write_checksums
from udc_defense.checkpoints.load import named_guide
from udc_defense.noise import seeded
from udc_defense.purifiers import SAMPLERS
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.restorers.gated_unet import GatedUNet


def tiny_unet(channels: tuple[int, int] = (4, 8), *, groups: int = 2, seed: int = 0, **config: Any) -> UNet2DModel:
    """The network of a purifier, as diffusers draws its weights: the last layers of its blocks are near zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet2DModel(
            block_out_channels=channels,
            layers_per_block=1,
            norm_num_groups=groups,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            **{"add_attention": False} | config,
        )
    return network.eval().requires_grad_(False)


def lively_unet(seed: int = 0) -> UNet2DModel:
    """The same with weights at which every layer counts."""
    network, generator = tiny_unet(), seeded(seed)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
    return network


def purifier(
    network: Any, scheduler: DDPMScheduler, *, sampler: str = "one_step", guide: Any = None, **options: Any
) -> DiffusionPurifier:
    """A purifier whose sampler, and guide where it is no object, are named."""
    guide = named_guide(guide) if isinstance(guide, str) else guide
    return DiffusionPurifier(network, scheduler, sampler=SAMPLERS.get(sampler), guide=guide, **options)


def save_restorer(folder: Path) -> Path:
    """A restorer in half precision."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GatedUNet(widths=(4, 8), blocks=(1, 1)).half().save_pretrained(folder)
    write_checksums(folder)
    return folder


def save_purifier(folder: Path, prediction_type: str = "epsilon") -> Path:
    """A purifier in half precision, trained below timestep 150."""
    scheduler = DDPMScheduler(clip_sample=False, prediction_type=prediction_type)
    DDPMPipeline(tiny_unet().half(), scheduler).save_pretrained(folder)
    (folder / "training.json").write_text('{"last_timestep": 150}')
    write_checksums(folder)
    return folder
