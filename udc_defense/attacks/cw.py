"""The smallest perturbation in L2 that does a given damage: Carlini & Wagner (arXiv 1608.04644) for regression."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from udc_defense.attacks.ball import rms
from udc_defense.attacks.base import AttackResult, register
from udc_defense.attacks.objectives import mse
from udc_defense.attacks.search import Search
from udc_defense.errors import SettingError
from udc_defense.noise import Generators, normal, split

# In these units a visible perturbation has the size 1, which makes 1 the right first weight of the damage.
UNIT = 1 / 255
START = 0.1 * UNIT
# Adam's step size; once a δ is known, this share of its root mean square.
RATE, RELATIVE_RATE = 1.3 * UNIT, 0.15
# A search starts inside the best δ so far, not on it: so its success is its own and says something about its weight.
WARM = 0.9
# The tanh's range is wider than the box by this share, and cut: in the paper's, black and white pixels are stuck.
WIDER = 0.02
EDGE = math.atanh(1 / (1 + WIDER))
HALVINGS = 8


@register("cw")
def cw(
    model: nn.Module,
    image: Tensor,
    reference: Tensor,
    *,
    steps: int = 50,
    draws: int = 1,
    generator: Generators = None,
    psnr: float = 20.0,
    searches: int = 9,
) -> Iterator[AttackResult]:
    """Minimise size(δ)² + c · max(0, PSNR − psnr) with Adam in tanh space, c by bisection: no radius is given.

    Size is the root mean square of δ in 1/255. Damage done is PSNR ≤ psnr, of outputs as they are, not clamped; the
    paper's confidence has no counterpart. The losses are −PSNR. The image is the smallest success; a sample without
    one (all its losses are below −psnr) has its most damaged image, one that needs no attack is left as it is.

    Args:
        model: captures -> images, differentiable.
        image: captures (B, 3, H, W) in [0, 1].
        reference: what damage is measured against, same shape.
        steps: of Adam in each search.
        draws: of the model's own noise, averaged per gradient.
        generator: of the random start, one or one per sample.
        psnr: to be reached or undercut, in dB.
        searches: weights c that are tried per sample, at least 1.

    Raises:
        SettingError: an argument is out of range, or the model cannot be attacked so.
    """
    if searches < 1:
        raise SettingError(f"{searches} searches: an attack needs at least 1.")
    if not math.isfinite(psnr):
        raise SettingError(f"psnr {psnr:g} is not finite.")
    search, found = Search(model, image, reference, _damage, draws, steps * searches), _Found(image, psnr)
    found.keep(image, search.loss(image))
    # Not δ = 0, where the gradient is zero if the reference is the model's own output.
    w = _to_tanh(_near(image, split(generator, len(image), 1)[0]))
    weight = _Weight(image)
    for done in range(0, search.steps, steps):
        w = torch.where(found.some, _to_tanh(image + WARM * (found.image - image)), w)
        adam, reached = _Adam(found.rate(), steps), torch.zeros_like(found.some)
        for step in range(1, steps + 1):
            x = _to_image(w)
            value, gradient = search.gradient(x)
            success = found.keep(x, value)
            reached |= success
            # The hinge is flat once the damage is done: only the size is left to fall.
            slope = _size_gradient(x - image) - torch.where(success, 0, weight.c) * gradient
            # Adam undoes the scale of each value's gradient, so its step, in image values, is brought to w here.
            stretch = _slope_of_image(w)
            w = (w - adam.step(slope * stretch) / stretch).clamp(-EDGE, EDGE)
            if done + step == search.steps:
                _shrink(search, found)
            yield replace(search.result(done + step), image=torch.where(found.some, found.image, search.best))
        weight.bisect(reached, found.size)


class _Found:
    """The smallest success of each sample."""

    def __init__(self, image: Tensor, psnr: float) -> None:
        self.clean, self.psnr, self.image = image, psnr, image
        self.size = torch.full_like(image[:, :1, :1, :1], torch.inf)

    @property
    def some(self) -> Tensor:
        return self.size.isfinite()

    def keep(self, x: Tensor, value: Tensor) -> Tensor:
        """Whether x does the damage, (B, 1, 1, 1)."""
        # Not `rms`, which is never zero.
        size = (x - self.clean).square().mean(dim=(1, 2, 3), keepdim=True) / UNIT**2
        success = (-value <= self.psnr).view(-1, 1, 1, 1)
        smaller = success & (size < self.size)
        self.image, self.size = torch.where(smaller, x, self.image), torch.where(smaller, size, self.size)
        return success

    def rate(self) -> Tensor:
        """Adam's step size, in image values."""
        return torch.where(self.some, RELATIVE_RATE * rms(self.image - self.clean), RATE)


class _Weight:
    """The weight c of the damage, bisected per sample; ×10 while it has always been too small."""

    def __init__(self, image: Tensor) -> None:
        self.c = torch.ones_like(image[:, :1, :1, :1])
        self.low, self.high = torch.zeros_like(self.c), torch.full_like(self.c, torch.inf)

    def bisect(self, success: Tensor, size: Tensor) -> None:
        self.high = torch.where(success, self.c, self.high)
        self.low = torch.where(success, self.low, self.c)
        middle = (self.low + self.high) / 2
        # The weight at which size and damage balance is of the order of the size (2/8.7 of it, of a linear model). For
        # a tiny δ halving would take all searches to come down to it, and a weight far above it makes Adam swing.
        middle = torch.where(self.low == 0, middle.minimum(size), middle)
        self.c = torch.where(self.high.isinf(), 10 * self.c, middle)


class _Adam:
    """Adam with a step size per sample that falls to zero over the steps along a cosine."""

    def __init__(self, rate: Tensor, steps: int, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.rate, self.steps, self.betas = rate, steps, betas
        self.mean, self.square, self.done = torch.zeros_like(rate), torch.zeros_like(rate), 0

    def step(self, gradient: Tensor) -> Tensor:
        first, second = self.betas
        falling = (1 + math.cos(math.pi * self.done / self.steps)) / 2
        self.done += 1
        self.mean = first * self.mean + (1 - first) * gradient
        self.square = second * self.square + (1 - second) * gradient.square()
        scale = (self.square / (1 - second**self.done)).sqrt() + 1e-12
        return falling * self.rate * self.mean / (1 - first**self.done) / scale


def _damage(output: Tensor, reference: Tensor) -> Tensor:
    """−PSNR; at most 200 dB, for equal images too."""
    return 10 * torch.log10(mse(output, reference).clamp_min(1e-20))


def _size_gradient(delta: Tensor) -> Tensor:
    return 2 * delta / delta[0].numel() / UNIT**2


def _near(image: Tensor, generators: list[torch.Generator]) -> Tensor:
    """A random start; noise that would leave the box turns back, since at δ = 0 a value can be without a gradient."""
    noise = START * normal(image, generators)
    x = image + noise
    return torch.where((x < 0) | (x > 1), image - noise, x)


def _to_tanh(x: Tensor) -> Tensor:
    return torch.atanh((2 * x - 1) / (1 + WIDER))


def _to_image(w: Tensor) -> Tensor:
    return ((1 + (1 + WIDER) * torch.tanh(w)) / 2).clamp(0, 1)


def _slope_of_image(w: Tensor) -> Tensor:
    return (1 + WIDER) / 2 * (1 - torch.tanh(w).square())


def _shrink(search: Search, found: _Found) -> None:
    """Bisect the length of the best δ: Adam stops near the damage asked for, not on it."""
    delta = found.image - found.clean
    low, high = torch.zeros_like(found.size), torch.ones_like(found.size)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        x = found.clean + middle * delta
        success = found.keep(x, search.loss(x))
        low, high = torch.where(success, low, middle), torch.where(success, middle, high)
