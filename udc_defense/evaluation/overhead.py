"""What a defense costs whoever runs it: time, network evaluations and peak memory of one restored image."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

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
def overhead(defenses: Sequence[Defense], size: int, device: str) -> list[dict[str, Any]]:
    """Median seconds, evaluations of the purifier's network, and peak memory, for one image of size × size each."""
    image = torch.rand(1, 3, size, size, generator=seeded(0)).to(device)
    return [_measured(defense, image, device) for defense in defenses]


def _measured(defense: Defense, image: torch.Tensor, device: str) -> dict[str, Any]:
    seconds = []
    reset_peak()
    for _ in range(REPEATS):
        started = time.perf_counter()
        defense(image, generator=seeded(1)).cpu()  # waits for a GPU, too
        seconds.append(time.perf_counter() - started)
    evaluations = getattr(defense.purifier, "evaluations", 0)
    return {"seconds": round(median(seconds), 4), "evaluations": evaluations, "peak_memory_mb": peak_mb(device)}
