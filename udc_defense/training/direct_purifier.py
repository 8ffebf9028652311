"""Train a purifier of one evaluation against the attacks that it will meet, for the restorer that it stands before.

Adversarial training of a one-step denoiser, after arXiv 2408.00315 (from attacked to clean, not from noise to clean)
and 2408.17064 (one evaluation). It starts from the purifier `diffusion`, which has learnt what captures look like, and
keeps its prediction of the noise: so the input passes by the network, and only what is to be removed must be learnt.
Half of the captures are attacked through the purifier as it is at that moment, a quarter has random noise of the same
radius, a quarter none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import DDPMPipeline
from torch import Tensor, nn
from torch.utils.data import Dataset

from udc_defense.checkpoints.files import checksum
from udc_defense.checkpoints.load import load_purifier, load_restorer
from udc_defense.checkpoints.resolve import resolve
from udc_defense.noise import normal, uniform
from udc_defense.output import write_json
from udc_defense.training.loop import Progress, TrainingSettings, bare, save, train
from udc_defense.training.purifier import new_scheduler

CROP = 96
CROPS_PER_CAPTURE = 4
LAST_TIMESTEP = 40
EPS = 8 / 255
ATTACK_STEPS = 3
CLOSENESS = 0.5  # weight of staying a capture, that of the restored image being 1: other restorers shall profit too


def train_direct_purifier(
    dataset: Dataset[tuple[Tensor, Tensor]], settings: TrainingSettings, facts: dict[str, Any]
) -> Iterator[Progress]:
    """Train; the EMA weights end in `settings.out/direct_purifier` as float16, in diffusers' layout.

    Args:
        dataset: captures and clean images, tone-mapped.
        settings: of the run.
        facts: what else the card shall say (data, panels).
    """
    network, scheduler = load_purifier().network.train().requires_grad_(True), new_scheduler()
    restorer = load_restorer()
    signal = scheduler.alphas_cumprod

    def loss(network: nn.Module, captured: Tensor, clean: Tensor, generators: list[torch.Generator]) -> Tensor:
        restorer.to(captured.device)
        t = torch.cat([torch.randint(0, LAST_TIMESTEP, (1,), generator=g) for g in generators])

        def purify(x: Tensor, chosen: list[int], through: nn.Module) -> Tensor:
            level = signal[t[chosen]].view(-1, 1, 1, 1).to(x)
            noise = normal(x, [generators[index] for index in chosen])
            noised = level.sqrt() * (2 * x - 1) + (1 - level).sqrt() * noise
            predicted = through(noised, t[chosen].to(x.device)).sample.float()
            return ((noised - (1 - level).sqrt() * predicted) / level.sqrt() + 1) / 2

        def attack(chosen: list[int]) -> Callable[[Tensor], Tensor]:
            return lambda x: _log_error(restorer(purify(x, chosen, bare(network))).float(), clean[chosen])

        purified = purify(_perturbed(captured, attack, generators), list(range(len(captured))), network)
        return (_log_error(restorer(purified).float(), clean) + CLOSENESS * _log_error(purified, captured)).mean()

    def finish(trained: nn.Module, run: dict[str, Any]) -> None:
        folder = settings.out / "direct_purifier"
        save(DDPMPipeline(trained.half(), scheduler), folder)
        run = facts | run | {"last_timestep": LAST_TIMESTEP, "attack_eps_in_255ths": 255 * EPS}
        for kind, name in {"purifier": "diffusion", "restorer": "default"}.items():  # started from, trained for
            run[kind] = checksum(resolve(name, kind))
        write_json(folder / "training.json", run)

    return train(network, loss, dataset, settings, finish=finish)


def _perturbed(
    captured: Tensor, attack: Callable[[list[int]], Callable[[Tensor], Tensor]], generators: list[torch.Generator]
) -> Tensor:
    """Captures of which half is attacked and a quarter has random noise, each with a radius of its own up to ε.

    Args:
        captured: (B, 3, H, W).
        attack: indices of the samples to attack -> their images -> the damage of each.
        generators: of each sample.
    """
    radius = torch.cat([torch.rand(1, generator=g) for g in generators]).view(-1, 1, 1, 1).to(captured) * EPS
    kind = torch.cat([torch.randint(0, 4, (1,), generator=g) for g in generators])
    start = uniform(captured, generators)
    is_noise = (kind == 1).view(-1, 1, 1, 1).to(captured.device)
    perturbed = (captured + radius * torch.where(is_noise, start.sign(), start)).clamp(0, 1)
    perturbed[kind == 0] = captured[kind == 0]
    chosen = (kind >= 2).nonzero().squeeze(1).tolist()
    if chosen:
        origin, radius, x, damage = captured[chosen], radius[chosen], perturbed[chosen], attack(chosen)
        for _ in range(ATTACK_STEPS):
            x = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(damage(x).sum(), x)
            step = x.detach() + slope.sign() * radius * 1.5 / ATTACK_STEPS
            x = (origin + (step - origin).clamp(-radius, radius)).clamp(0, 1)
        perturbed[chosen] = x
    return perturbed


def _log_error(image: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error on a logarithmic scale, in units of 10 dB, (B,): no scene outweighs the others."""
    return torch.log10((image - reference).square().flatten(1).mean(dim=1) + 1e-6)
