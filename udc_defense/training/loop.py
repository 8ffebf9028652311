"""The training loop of all networks: accelerate, EMA, warm-up and cosine, checkpoints that survive a kill.

Sample i of a run depends on (seed, i) alone, so a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import json
import math
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from udc_defense.errors import SettingError
from udc_defense.training.data import join

WARM_UP = 300
KEPT_CHECKPOINTS = 2

Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class TrainingSettings:
    """What decides a run besides its data. `batch` counts captures per step and process."""

    out: Path
    steps: int
    batch: int = 2
    learning_rate: float = 5e-4
    ema_decay: float = 0.999
    seed: int = 0
    precision: str = "no"
    checkpoint_every: int = 500
    resume: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} {getattr(self, name)} is not at least 1.")


@dataclass(frozen=True)
class Progress:
    """One step done: its number, the number of all, the loss and the seconds spent training so far."""

    step: int
    steps: int
    loss: float
    seconds: float


def train(
    network: nn.Module,
    loss: Loss,
    dataset: Dataset[tuple[Tensor, Tensor]],
    settings: TrainingSettings,
    *,
    finish: Callable[[nn.Module, dict[str, Any]], None],
) -> Iterator[Progress]:
    """Train `network` in place, one step per item of the iterator; at the end hand its EMA weights to `finish`.

    Args:
        network: moved to the device of the process.
        loss: (network, captures, clean images, generator of the step) -> scalar.
        dataset: at least steps · batch · processes items.
        settings: see there.
        finish: saves the result, given the facts of the run (steps, seconds, hardware); main process only.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=settings.precision)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, settings.steps))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network, optimizer = accelerator.prepare(network, optimizer)
    average = EMAModel(network.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75)
    average.to(accelerator.device)
    accelerator.register_for_checkpointing(schedule, average)
    start, seconds = _resume(accelerator, settings)
    per_step = settings.batch * accelerator.num_processes
    first = start * per_step
    remaining = Subset(dataset, range(first, settings.steps * per_step))
    loader = accelerator.prepare(
        DataLoader(remaining, batch_size=settings.batch, collate_fn=join, num_workers=_workers(accelerator))
    )
    log = settings.out / "log.jsonl"
    clock = time.monotonic() - seconds
    for step, (captured, clean) in enumerate(loader, start=start + 1):
        noise_seed = (settings.seed * 1_000_003 + step) * 4096 + accelerator.process_index
        generator = torch.Generator().manual_seed(noise_seed)
        with accelerator.autocast():
            value = loss(network, captured, clean, generator)
        if not torch.isfinite(value):
            raise SettingError(f"training diverged at step {step}: loss {float(value)}; try a lower learning rate.")
        accelerator.backward(value)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        average.step(network.parameters())
        progress = Progress(step, settings.steps, float(value.detach()), time.monotonic() - clock)
        if accelerator.is_main_process and step % 50 == 0:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(progress)) + "\n")
        if step % settings.checkpoint_every == 0 or step == settings.steps:
            _checkpoint(accelerator, settings, progress)
        yield progress
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        average.copy_to(network.parameters())
        seconds = time.monotonic() - clock
        finish(accelerator.unwrap_model(network), _facts(settings, seconds, accelerator))


def _warm_cosine(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / min(WARM_UP, max(1, steps // 10)))
    return warm * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))


def _workers(accelerator: Any) -> int:
    """Simulation competes with training for CPU cores, unless training happens elsewhere."""
    return 8 if accelerator.device.type == "cuda" else 0


def _checkpoint(accelerator: Any, settings: TrainingSettings, progress: Progress) -> None:
    """Write to a temporary folder and rename: a kill leaves the last complete checkpoint."""
    temporary = settings.out / "checkpoint.tmp"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (temporary / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
        final = settings.out / f"checkpoint-{progress.step:07d}"
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in _checkpoints(settings.out)[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)


def _checkpoints(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("checkpoint-*") if (path / "progress.json").is_file())


def _resume(accelerator: Any, settings: TrainingSettings) -> tuple[int, float]:
    """Load the newest checkpoint if asked to; the number of steps done and the seconds they took."""
    settings.out.mkdir(parents=True, exist_ok=True)
    found = _checkpoints(settings.out)
    if not settings.resume:
        if found:
            raise SettingError(f"{settings.out}: holds a run already; add --resume or choose another folder.")
        return 0, 0.0
    if not found:
        return 0, 0.0
    accelerator.load_state(str(found[-1]))
    done = json.loads((found[-1] / "progress.json").read_text(encoding="utf-8"))
    return int(done["step"]), float(done["seconds"])


def _facts(settings: TrainingSettings, seconds: float, accelerator: Any) -> dict[str, Any]:
    """What a model card says of the run."""
    chosen = {key: value for key, value in asdict(settings).items() if key not in ("out", "resume")}
    return chosen | {
        "seconds": round(seconds),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "device": hardware(accelerator.device),
        "torch": torch.__version__,
    }


def hardware(device: torch.device) -> str:
    """The name of what the numbers were computed on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        for line in cpu.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
