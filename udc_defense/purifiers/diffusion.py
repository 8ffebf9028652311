"""Purification by diffusion: noise a capture to a small timestep, denoise it back (arXiv 2205.07460, 2402.13629)."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from udc_defense.diffusion import Diffusion
from udc_defense.errors import SettingError
from udc_defense.guides import Guide, check_guidance
from udc_defense.noise import Generators, normal, split
from udc_defense.purifiers.base import Sampler
from udc_defense.purifiers.ddim import ddim
from udc_defense.purifiers.one_step import one_step
from udc_defense.tensors import call, check_image
from udc_defense.tiles import apply_tiled, pad_to_multiple

# Activations are kept for the gradient, and not computed again, up to so many values in the widest layer of all
# evaluations together: for the embedded networks 8 evaluations at 128², half a gigabyte.
KEPT_VALUES = 2**21

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
        network: predicts ε, or x_0 itself, from x_t in [-1, 1].
        scheduler: gives the betas, and with `prediction_type` what is predicted: `epsilon` or `sample`.
        sampler: goes from x_t down to x_0: `one_step`, `ddim`, `ddpm`, …, one a file of this package.
        noise_level: number of forward steps t*; 0 is the identity.
        steps: of the samplers that can choose; network evaluations per draw, but a step of `ode` takes two.
        draws: independent purifications, aggregated pixel by pixel.
        aggregate: `mean` or `median` over the draws.
        last_timestep: the network was trained below this timestep; a higher noise level is refused.
        guide: what keeps the result near the input.
        guidance: its strength, from 0, none at all, to the guide's `strongest`.
        options: the sampler's own, such as `eta` of `ddim`.

    Raises:
        SettingError: a parameter is out of range.
    """

    sha256 = ""  # of the weights that were loaded
    tile_size = 640
    tile_overlap = 128

    def __init__(
        self,
        network: UNet2DModel,
        scheduler: DDPMScheduler,
        *,
        sampler: Sampler = one_step,
        noise_level: int = 30,
        steps: int = 5,
        draws: int = 1,
        aggregate: Aggregate = "mean",
        last_timestep: int | None = None,
        guide: Guide | None = None,
        guidance: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        highest = min(last_timestep or math.inf, len(scheduler.alphas_cumprod))
        if not 0 <= noise_level <= highest:
            raise SettingError(f"noise level {noise_level} is not in 0…{highest}, what the purifier was trained for.")
        if steps < 1 or draws < 1:
            raise SettingError(f"steps {steps} and draws {draws} must be at least 1.")
        if aggregate not in ("mean", "median"):
            raise SettingError(f"aggregate {aggregate!r} is neither mean nor median.")
        self.prediction = scheduler.config["prediction_type"]
        if self.prediction not in ("epsilon", "sample"):
            raise SettingError(f"a network that predicts {self.prediction!r} is no purifier: epsilon or sample.")
        check_guidance(guide, guidance)
        self.network, self.sampler, self.options = network, sampler, sampler.parse_options(options)
        self.noise_level, self.draws, self.aggregate = noise_level, draws, aggregate
        self.sampler_steps, self.last_timestep = steps, last_timestep
        self.guide, self.guidance = guide, guidance
        # No buffer: it is read number by number, and some devices have no float64.
        self.signal = scheduler.alphas_cumprod.double()
        self.multiple = 2 ** (len(network.config["block_out_channels"]) - 1)

    @property
    def diffusion(self) -> Diffusion:
        """The noise predictor, tiled on large images and not guided, and the schedule."""
        return Diffusion(self._predict, self.signal)

    def guided(self, x0: Tensor) -> Diffusion:
        """What samplers see: the same, guided towards the input x0 (B, 3, H, W) in [-1, 1].

        The guide sees whole images, not tiles.
        """
        guide, plain, strength = self.guide, self.diffusion, self.guidance
        if guide is None or strength == 0:
            return plain
        given = guide.reference(x0)

        def predict(x: Tensor, t: int) -> Tensor:
            def edited(x: Tensor, epsilon: Tensor, reference: Tensor) -> Tensor:
                return guide(plain, x, t, epsilon, reference, strength=strength)

            return _Replayed.apply(x, plain.predict(x, t), given, edited)

        return dataclasses.replace(plain, predict=predict)

    @property
    def evaluations(self) -> int:
        """Network evaluations of one forward pass."""
        return self.draws * self.sampler.evaluations(self.noise_level, self.sampler_steps) if self.noise_level else 0

    def of_fewer_steps(self, evaluations: int) -> DiffusionPurifier:
        """The same network and noise with at most so many evaluations per draw.

        A sampler that takes more whatever its steps (DDPM) is replaced by DDIM.
        """
        if evaluations < 1:
            raise SettingError(f"{evaluations} steps of a purifier: it needs at least 1.")
        fewer = copy.copy(self)
        for steps in range(min(evaluations, self.sampler_steps), 0, -1):
            if self.sampler.evaluations(self.noise_level, steps) <= evaluations:
                fewer.sampler_steps = steps
                return fewer
        fewer.sampler, fewer.sampler_steps, fewer.options = ddim, evaluations, ddim.parse_options({})
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
        check_image(image, "the capture")
        if self.noise_level == 0:
            return
        t, x0 = self.noise_level - 1, image * 2 - 1
        diffusion = self.guided(x0)
        total, done, results = self.evaluations, 0, list[Tensor]()
        for generators in split(generator, len(image), self.draws):
            x = diffusion.noised(x0, t, normal(x0, generators))
            for after in self.sampler(diffusion, x, t, steps=self.sampler_steps, generators=generators, **self.options):
                x, done = after, done + 1
                if done < total:
                    yield PurifyStep(done, total, (x.detach() + 1) / 2)
            # A mean needs the sum alone: several draws of a large photo would be gigabytes.
            results = self._joined(results, (x + 1) / 2)
        yield PurifyStep(total, total, self._aggregated(results))

    def _joined(self, results: list[Tensor], result: Tensor) -> list[Tensor]:
        return [results[0] + result] if results and self.aggregate == "mean" else [*results, result]

    def _aggregated(self, results: list[Tensor]) -> Tensor:
        if self.aggregate == "mean":
            return results[0] / self.draws
        stack = torch.stack(results)
        # torch's median of an even number is the lower of the two middle ones: the minimum of two draws.
        return (stack.median(dim=0).values - (-stack).median(dim=0).values) / 2

    def _predict(self, x: Tensor, t: int) -> Tensor:
        def plain(x: Tensor, times: Tensor) -> Tensor:
            return call(self.network, x, times).sample

        def replayed(x: Tensor, times: Tensor) -> Tensor:
            return _Replayed.apply(x, lambda x: plain(x, times))

        values = self.evaluations * x[:, 0].numel() * self.network.config["block_out_channels"][0]
        network = plain if values <= KEPT_VALUES else replayed

        def evaluate(part: Tensor) -> Tensor:
            height, width = part.shape[-2:]
            padded = pad_to_multiple(part, self.multiple)
            times = torch.full((len(padded),), t, device=padded.device)
            predicted = network(padded, times)
            return predicted[..., :height, :width]

        predicted = apply_tiled(evaluate, x, size=self.tile_size, overlap=self.tile_overlap, stride=self.multiple)
        return predicted if self.prediction == "epsilon" else self.diffusion.noise_of(x, t, predicted)


class _Replayed(torch.autograd.Function):
    """A function, given last, of which autograd keeps the inputs alone: its activations are computed again.

    What `torch.utils.checkpoint` does, too; but that runs forwards with gradients on, which on a CPU left the heap so
    fragmented that a step cost as much as 46 images more (benchmarks/exact_memory.py), not 3.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, ctx.evaluate = inputs
        ctx.save_for_backward(*tensors)
        device = tensors[0].device.type
        ctx.autocast = {"dtype": torch.get_autocast_dtype(device), "enabled": torch.is_autocast_enabled(device)}
        return ctx.evaluate(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad(), torch.autocast(gradients[0].device.type, **ctx.autocast):
            tensors = [tensor.detach().requires_grad_(True) for tensor in ctx.saved_tensors]
            # A guide may do without one of them.
            return *torch.autograd.grad(ctx.evaluate(*tensors), tensors, gradients, allow_unused=True), None
