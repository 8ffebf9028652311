"""Train the encoder of the guide `feature` adversarially, after AGDM's auxiliary network (arXiv 2403.16067).

AGDM trains a classifier with TRADES (arXiv 1901.08573) and compares its latents. Here the task is restoration: from the
latent of a capture, clean or attacked, a linear head gives the clean image, and the latent of an attacked capture shall
be that of the clean one. No path leads around the latent, so it keeps all that the image needs. The diffusion model has
no part in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from udc_defense.attacks.ball import Ball
from udc_defense.guides.encoder import GuideEncoder
from udc_defense.output import write_json
from udc_defense.training.loop import Progress, TrainingSettings, bare, save, train

CROP = 96
CROPS_PER_CAPTURE = 4
EPS = 8 / 255
ATTACK_STEPS = 3
CONSISTENCY = 6.0  # weight of the latent's shift, TRADES's 1/λ
SCALE = 0.1  # weight of a variance of 1, without which channels of a large one would outweigh the others in the guide


def train_guide(
    dataset: Dataset[tuple[Tensor, Tensor]], settings: TrainingSettings, facts: dict[str, Any]
) -> Iterator[Progress]:
    """Train from scratch; the EMA weights of the encoder end in `settings.out/guide` as float16.

    Args:
        dataset: captures and clean images, tone-mapped.
        settings: of the run.
        facts: what else the card shall say (data, panels).
    """
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(settings.seed)
        network = _Student(GuideEncoder())

    def finish(trained: nn.Module, run: dict[str, Any]) -> None:
        folder = settings.out / "guide"
        assert isinstance(trained, _Student)
        save(trained.encoder.half(), folder)
        run = facts | run | {"attack_eps_in_255ths": 255 * EPS}
        write_json(folder / "training.json", run)

    return train(network, _loss, dataset, settings, finish=finish)


class _Student(nn.Module):
    """The encoder, and the head that is needed for training alone."""

    def __init__(self, encoder: GuideEncoder) -> None:
        super().__init__()
        side = encoder.multiple
        self.encoder = encoder
        self.head = nn.Sequential(nn.Conv2d(encoder.config["widths"][-1], 3 * side**2, 1), nn.PixelShuffle(side))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Captures (B, 3, H, W) to latent and restored image."""
        latent = self.encoder(image)
        return latent.float(), self.head(latent)[..., : image.shape[-2], : image.shape[-1]].float()


def _loss(network: nn.Module, captured: Tensor, clean: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Mean log error of clean and attacked captures, in units of 10 dB, and the two terms of the latent."""
    encoder = bare(network).get_submodule("encoder")
    latent, restored = network(torch.cat([captured, _attacked(encoder, captured, generators)]))
    error = (restored - torch.cat([clean, clean])).square().flatten(1).mean(dim=1)
    latent, shifted = latent.chunk(2)
    shift = _shift(shifted, latent).mean()
    scale = _variance(latent).log().square().mean()
    return torch.log10(error + 1e-6).mean() + CONSISTENCY * shift + SCALE * scale


def _attacked(encoder: nn.Module, captured: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Captures (B, 3, H, W) whose latents were driven away by PGD, each within a radius of its own up to ε."""
    ball = Ball.around(captured, torch.cat([torch.rand(1, generator=g) for g in generators]).to(captured) * EPS)
    x, latent = ball.start(generators), encoder(captured).detach().float()
    for _ in range(ATTACK_STEPS):
        x.requires_grad_(True)
        (slope,) = torch.autograd.grad(_shift(encoder(x).float(), latent).sum(), x)
        x = ball.project(x.detach() + ball.steepest(slope) * ball.radius * 1.5 / ATTACK_STEPS)
    return x


def _shift(latent: Tensor, origin: Tensor) -> Tensor:
    """Mean squared difference of latents (B, C, h, w) in shares of each channel's variance, (B,).

    In shares, for a latent that hardly changes at all must not count as one that attacks cannot change.
    """
    return ((latent - origin).square() / _variance(origin)).flatten(1).mean(dim=1)


def _variance(latent: Tensor) -> Tensor:
    """Of each channel over the batch and the plane, (1, C, 1, 1)."""
    return latent.var(dim=(0, 2, 3), keepdim=True) + 1e-6
