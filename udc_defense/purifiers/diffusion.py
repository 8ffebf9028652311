"""Purification by diffusion: noise a capture to a small timestep, denoise it back (arXiv 2205.07460, 2402.13629)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from udc_defense.errors import SettingError
from udc_defense.noise import Generators, normal, split
from udc_defense.purifiers import SAMPLERS
from udc_defense.purifiers.base import Diffusion
from udc_defense.restorers.base import pad_to_multiple
from udc_defense.tiles import apply_tiled

Aggregate = Literal["mean", "median"]


@dataclass(frozen=True)
class PurifyStep:
    """One network evaluation done; `image` is the result after the last one and the current draw's x before."""

    step: int
    steps: int
    image: Tensor


class DiffusionPurifier(nn.Module):
    """Capture (B, 3, H, W) to purified capture, differentiable.

    Args:
        network: noise predictor, ε-prediction on [-1, 1].
        scheduler: gives the betas.
        sampler: name of a file of this package: `one_step`, `ddim`, `ddpm`, …
        noise_level: number of forward steps t*; 0 is the identity.
        steps: network evaluations per draw of the samplers that can choose (`ddim`).
        draws: independent purifications, aggregated pixel by pixel.
        aggregate: `mean` or `median` over the draws.
        last_timestep: the network was trained below this timestep; a higher noise level is refused.

    Raises:
        SettingError: a parameter is out of range or a name unknown.
    """

    signal: Tensor
    tile_size = 640
    tile_overlap = 128

    def __init__(
        self,
        network: UNet2DModel,
        scheduler: DDPMScheduler,
        *,
        sampler: str = "one_step",
        noise_level: int = 30,
        steps: int = 5,
        draws: int = 1,
        aggregate: Aggregate = "mean",
        last_timestep: int | None = None,
    ) -> None:
        super().__init__()
        highest = min(last_timestep or math.inf, len(scheduler.alphas_cumprod))
        if not 0 <= noise_level <= highest:
            raise SettingError(f"noise level {noise_level} is not in 0…{highest}, what the purifier was trained for.")
        if steps < 1 or draws < 1:
            raise SettingError(f"steps {steps} and draws {draws} must be at least 1.")
        if aggregate not in ("mean", "median"):
            raise SettingError(f"aggregate {aggregate!r} is neither mean nor median.")
        self.network, self.sampler, self.sample = network, sampler, SAMPLERS.get(sampler)
        self.noise_level, self.draws, self.aggregate = noise_level, draws, aggregate
        self.sampler_steps, self.last_timestep = steps, last_timestep
        self.register_buffer("signal", scheduler.alphas_cumprod.double(), persistent=False)
        self.multiple = 2 ** (len(network.config["block_out_channels"]) - 1)

    @property
    def diffusion(self) -> Diffusion:
        """What samplers see: the noise predictor, tiled on large images, and the schedule."""
        return Diffusion(self._predict, self.signal)

    @property
    def evaluations(self) -> int:
        """Network evaluations of one forward pass."""
        chosen = min(self.sampler_steps, self.noise_level)
        per_draw = {"one_step": 1, "ddpm": self.noise_level}.get(self.sampler, chosen)
        return self.draws * per_draw if self.noise_level else 0

    def of_fewer_steps(self, steps: int) -> DiffusionPurifier:
        """The same network and noise with at most `steps` evaluations per draw: DDPM is replaced by DDIM."""
        if steps < 1:
            raise SettingError(f"{steps} steps of a purifier: it needs at least 1.")
        fewer = copy.copy(self)
        fewer.sampler_steps = min(steps, self.sampler_steps)
        if self.sampler == "ddpm":
            fewer.sampler, fewer.sample, fewer.sampler_steps = "ddim", SAMPLERS.get("ddim"), steps
        return fewer

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        """Purify (B, 3, H, W) in [0, 1]; nothing is clamped.

        Args:
            image: captures.
            generator: a CPU generator, or one per sample: then the noise of a sample does not depend on its batch.
        """
        purified = image
        for state in self.iterate(image, generator=generator):
            purified = state.image
        return purified

    def iterate(self, image: Tensor, *, generator: Generators = None) -> Iterator[PurifyStep]:
        """The same, one network evaluation at a time; close the iterator to stop."""
        if self.noise_level == 0:
            return
        t, x0 = self.noise_level - 1, image * 2 - 1
        diffusion = self.diffusion
        total, done, results = self.evaluations, 0, []
        for generators in split(generator, len(image), self.draws):
            x = diffusion.noised(x0, t, normal(x0, generators))
            for after in self.sample(diffusion, x, t, steps=self.sampler_steps, generators=generators):
                x, done = after, done + 1
                if done < total:
                    yield PurifyStep(done, total, (x.detach() + 1) / 2)
            results.append((x + 1) / 2)
        yield PurifyStep(total, total, self._aggregated(results))

    def _aggregated(self, results: list[Tensor]) -> Tensor:
        if len(results) == 1:
            return results[0]
        stack = torch.stack(results)
        if self.aggregate == "mean":
            return stack.mean(dim=0)
        # torch's median of an even number is the lower of the two middle ones: the minimum of two draws.
        return (stack.median(dim=0).values - (-stack).median(dim=0).values) / 2

    def _predict(self, x: Tensor, t: int) -> Tensor:
        def evaluate(part: Tensor) -> Tensor:
            height, width = part.shape[-2:]
            padded = pad_to_multiple(part, self.multiple)
            times = torch.full((len(padded),), t, device=padded.device)
            # Under autograd only the input of each evaluation is kept; its activations are computed again.
            if torch.is_grad_enabled() and padded.requires_grad:
                epsilon = checkpoint(lambda p: self.network(p, times).sample, padded, use_reentrant=False)
            else:
                epsilon = self.network(padded, times).sample
            return epsilon[..., :height, :width]

        return apply_tiled(evaluate, x, size=self.tile_size, overlap=self.tile_overlap)
