"""Cost of PGD-20 beside bare passes, batches, and ART: python benchmarks/attack_speed.py

ART (adversarial-robustness-toolbox) is compared where it is installed. It knows no image-to-image networks: its
regressor needs outputs and targets flattened. All are measured in turns in one run, and compared as ratios.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from udc_defense import attacks, load_restorer
from udc_defense.noise import seeded

SIZE, STEPS, BATCH, ROUNDS = 256, 20, 4, 5
EPS = 4 / 255


def bare(model: nn.Module, image: Tensor, reference: Tensor) -> None:
    """As many forward and backward passes, and nothing else."""
    for _ in range(STEPS):
        x = image.detach().requires_grad_(True)
        torch.autograd.grad((model(x) - reference).square().mean(), x)


def ours(model: nn.Module, image: Tensor, reference: Tensor) -> Tensor:
    return attacks.pgd(model, image, reference, eps=EPS, steps=STEPS, generator=seeded(0)).image


def singles(model: nn.Module, image: Tensor, reference: Tensor) -> None:
    for i in range(len(image)):
        ours(model, image[i : i + 1], reference[i : i + 1])


class Flat(nn.Module):
    """What ART needs: one vector per sample."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image).flatten(1)


def art_pgd(model: nn.Module) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.regression import PyTorchRegressor

    shape = (3, SIZE, SIZE)
    regressor = PyTorchRegressor(
        Flat(model), loss=nn.MSELoss(), input_shape=shape, clip_values=(0.0, 1.0), device_type="cpu"
    )
    # Without a random start it finds no gradient where the target is the model's own output; here it is the truth.
    attack = ProjectedGradientDescent(
        regressor,
        norm=np.inf,
        eps=EPS,
        eps_step=EPS / 4,
        max_iter=STEPS,
        num_random_init=0,
        batch_size=1,
        verbose=False,
    )
    return lambda image, target: attack.generate(image, target)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    model = load_restorer().requires_grad_(False)
    image, reference = (torch.rand(BATCH, 3, SIZE, SIZE, generator=seeded(seed)) for seed in (0, 1))
    one, truth = image[:1], reference[:1]
    work: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(model, one, truth),
        "ours": lambda: ours(model, one, truth),
        "batch": lambda: ours(model, image, reference),
        "singles": lambda: singles(model, image, reference),
    }
    if importlib.util.find_spec("art"):
        generate = art_pgd(model)
        work["ART"] = lambda: generate(one.numpy(), truth.flatten(1).numpy())
    for run in work.values():
        run()
    times = {name: [] for name in work} | {}
    for _ in range(ROUNDS):
        for name, run in work.items():
            times[name].append(seconds(run))
    ratios = {"ours / bare": ("ours", "bare"), "batch / singles": ("batch", "singles"), "ART / bare": ("ART", "bare")}
    print(f"PGD-{STEPS} at {SIZE}², {torch.get_num_threads()} threads, median of {ROUNDS} rounds:")
    for name, (above, below) in ratios.items():
        if above in times:
            ratio = median(a / b for a, b in zip(times[above], times[below], strict=True))
            print(f"{name:16} {ratio:.3f}   ({median(times[above]):.2f} s / {median(times[below]):.2f} s)")


if __name__ == "__main__":
    main()
