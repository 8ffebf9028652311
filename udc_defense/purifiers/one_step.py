"""One step: x̂₀ straight from x_t, the posterior mean (Tweedie); arXiv 2206.10550 denoises so for certification."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from udc_defense.diffusion import Diffusion
from udc_defense.purifiers import register


@register("one_step", evaluations=lambda noise_level, steps: 1)
def one_step(diffusion: Diffusion, x: Tensor, t: int, *, generators: list[torch.Generator]) -> Iterator[Tensor]:
    """One network evaluation, and no noise is drawn."""
    yield diffusion.clean(x, t, diffusion.predict(x, t))
