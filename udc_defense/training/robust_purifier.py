"""Train a purifier of one evaluation against the attacks that it will meet, for the restorer that it stands before.

The network sees a capture + δ at a small noise level and gives the capture itself (`prediction_type="sample"`): that
is adversarial training of a one-step denoiser, after arXiv 2408.00315 (from attacked to clean, not from noise to clean)
and 2408.17064 (one evaluation). A third of the captures is attacked through the purifier as it is at that moment, a
third has random noise of the same radius, a third none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from torch.utils.data import Dataset

from udc_defense.checkpoints import checksum, load_restorer, resolve
from udc_defense.training.loop import Progress, TrainingSettings, train
from udc_defense.training.purifier import new_network, new_scheduler

CROP = 96
CROPS_PER_CAPTURE = 4
LAST_TIMESTEP = 60
EPS = 8 / 255
ATTACK_STEPS = 2
CLOSENESS = 0.5  # weight of staying a capture, that of the restored image being 1: other restorers shall profit too


def train_robust_purifier(
    dataset: Dataset[tuple[Tensor, Tensor]], settings: TrainingSettings, facts: dict[str, Any]
) -> Iterator[Progress]:
    """Train from scratch; the EMA weights end in `settings.out/robust_purifier` as float16, in diffusers' layout.

    Args:
        dataset: captures and clean images, tone-mapped.
        settings: of the run.
        facts: what else the card shall say (data, panels).
    """
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(settings.seed)
        network = new_network()
    scheduler = DDPMScheduler.from_config(new_scheduler().config, prediction_type="sample")
    restorer = load_restorer()
    signal = scheduler.alphas_cumprod

    def loss(network: nn.Module, captured: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
        restorer.to(captured.device)
        t = torch.randint(0, LAST_TIMESTEP, (len(captured),), generator=generator)
        level = signal[t].view(-1, 1, 1, 1).to(captured)
        t = t.to(captured.device)

        def purify(x: Tensor, through: nn.Module) -> Tensor:
            noise = randn_tensor(x.shape, generator=generator, device=x.device)
            return (through(level.sqrt() * (2 * x - 1) + (1 - level).sqrt() * noise, t).sample.float() + 1) / 2

        def damage(purified: Tensor) -> Tensor:
            return _log_error(restorer(purified).float(), clean)

        # What several processes share of gradients concerns the weights; the attack needs those of the input alone.
        bare = getattr(network, "module", network)
        purified = purify(_perturbed(captured, lambda x: damage(purify(x, bare)), generator), network)
        return (damage(purified) + CLOSENESS * _log_error(purified, captured)).mean()

    def finish(trained: nn.Module, run: dict[str, Any]) -> None:
        folder = settings.out / "robust_purifier"
        DDPMPipeline(trained.half(), scheduler).save_pretrained(folder)
        against = {"restorer": checksum(resolve("default", "restorer")), "attack_eps_in_255ths": 255 * EPS}
        run = facts | run | {"last_timestep": LAST_TIMESTEP} | against
        (folder / "training.json").write_text(json.dumps(run, indent=1), encoding="utf-8")

    return train(network, loss, dataset, settings, finish=finish)


def _perturbed(captured: Tensor, damage: Callable[[Tensor], Tensor], generator: torch.Generator) -> Tensor:
    """Captures of which a third is attacked, a third has random noise, each with a radius of its own up to ε."""
    count = len(captured)
    radius = torch.rand(count, generator=generator).view(-1, 1, 1, 1).to(captured) * EPS
    kind = torch.randint(0, 3, (count,), generator=generator).view(-1, 1, 1, 1).to(captured.device)
    start = 2 * torch.rand(captured.shape, generator=generator).to(captured) - 1
    noisy = (captured + radius * torch.where(kind == 1, start.sign(), start)).clamp(0, 1)
    x = noisy
    for _ in range(ATTACK_STEPS):
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(damage(x).sum(), x)
        step = x.detach() + slope.sign() * radius * 1.5 / ATTACK_STEPS
        x = (captured + (step - captured).clamp(-radius, radius)).clamp(0, 1)
    return torch.where(kind == 0, captured, torch.where(kind == 1, noisy, x))


def _log_error(image: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error on a logarithmic scale, in units of 10 dB, (B,): no scene outweighs the others."""
    return torch.log10((image - reference).square().flatten(1).mean(dim=1) + 1e-6)
