"""What a defense costs whoever runs it: time, arithmetic, network evaluations and peak memory of one restored image."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from udc_defense.defense import Defense
from udc_defense.noise import seeded

REPEATS = 3
PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


def reset_peak() -> None:
    """Start to watch the memory of this process anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mb(device: str = "cpu") -> float | None:
    """Most memory since then in MB: of a GPU what tensors take, else of the process; None where no system says it."""
    if torch.device(device).type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    try:
        found = PEAK.search(Path("/proc/self/status").read_text(encoding="ascii"))
    except OSError:
        return None
    return round(int(found[1]) * 1024 / 1e6, 1) if found else None


@torch.no_grad()
def kmac_per_pixel(model: nn.Module, size: int, device: str) -> float:
    """Thousands of multiplications with addition for one pixel of an image of size × size.

    Those of convolutions, matrix products and attention, as PyTorch counts them; Fourier transforms and what is done
    value by value are left out.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.rand(1, 3, size, size, generator=seeded(0)).to(device))
    return round(counter.get_total_flops() / 2 / size**2 / 1000, 2)


@torch.no_grad()
def overhead(defenses: Sequence[Defense], size: int, device: str) -> list[dict[str, Any]]:
    """Of one image of size × size each: median seconds, the network's evaluations and arithmetic, and peak memory."""
    image = torch.rand(1, 3, size, size, generator=seeded(0)).to(device)
    return [_measured(defense, image, device) for defense in defenses]


def _measured(defense: Defense, image: torch.Tensor, device: str) -> dict[str, Any]:
    seconds = []
    reset_peak()
    for _ in range(REPEATS):
        started = time.perf_counter()
        defense(image, generator=seeded(1)).cpu()  # waits for a GPU, too
        seconds.append(time.perf_counter() - started)
    peak = peak_mb(device)  # before anything else is done
    return {
        "seconds": round(median(seconds), 4),
        "evaluations": getattr(defense.purifier, "evaluations", 0),
        "kmac_per_pixel": kmac_per_pixel(defense, image.shape[-1], device),
        "peak_memory_mb": peak,
    }
