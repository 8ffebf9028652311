"""The exact gradient with activations kept beside computed again: python benchmarks/exact_speed.py"""

from __future__ import annotations

import time
from statistics import median

import torch

from udc_defense import Defense, load_purifier, load_restorer
from udc_defense.attacks.gradients import loss_and_grad
from udc_defense.attacks.objectives import mse
from udc_defense.noise import seeded
from udc_defense.purifiers import diffusion
from udc_defense.threats import threat

ROUNDS = 7
KEPT = diffusion.KEPT_VALUES
CASES = ((256, 1), (128, 8))  # side in pixels, draws


def seconds(defense: Defense, image: torch.Tensor, kept: int) -> float:
    diffusion.KEPT_VALUES = kept
    start = time.perf_counter()
    loss_and_grad(threat(defense, "exact", seeded(1)), image, image, mse)
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    print("image   draws   kept (s)   again (s)   again / kept")
    for size, draws in CASES:
        defense = Defense(load_restorer(), load_purifier("direct", noise_level=10, draws=draws)).requires_grad_(False)
        image = torch.rand(1, 3, size, size, generator=seeded(0))
        # In turns, for the machine's speed varies.
        pairs = [[seconds(defense, image, values) for values in (KEPT, 0)] for _ in range(ROUNDS)]
        kept, again = (median(times) for times in zip(*pairs, strict=True))
        ratio = median(slow / fast for fast, slow in pairs)
        print(f"{size}²   {draws:5}   {kept:8.2f}   {again:9.2f}   {ratio:12.2f}")


if __name__ == "__main__":
    main()
