"""The training loop of all networks: accelerate, EMA, warm-up and cosine, checkpoints that survive a kill.

Sample i of a run, and what the loss draws for it, depend on (seed, i) alone. So a resumed run sees what an
uninterrupted one would have seen, and two processes, or two batches a step, of half the size see what one sees.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from udc_defense.errors import OutputError, SettingError
from udc_defense.noise import seeded
from udc_defense.output import append, locked, write_file, write_json, writing
from udc_defense.provenance import hardware
from udc_defense.restorers.base import Restorer
from udc_defense.training.data import join

WARM_UP = 300
KEPT_CHECKPOINTS = 2
LOG = "log.jsonl"
KEPT = "; the checkpoints before are kept, go on with --resume"

Loss = Callable[[nn.Module, Tensor, Tensor, list[torch.Generator]], Tensor]


@dataclass(frozen=True)
class TrainingSettings:
    """What decides a run besides its data.

    Attributes:
        out: folder of the run.
        steps: optimizer steps.
        batch: captures that a process has in memory at once.
        accumulate: batches per step and process.
        tensorboard: also log for TensorBoard, in `out/tensorboard`.
        resume: go on from the newest checkpoint in `out`.
    """

    out: Path
    steps: int
    batch: int = 2
    accumulate: int = 1
    learning_rate: float = 5e-4
    ema_decay: float = 0.999
    seed: int = 0
    precision: str = "no"
    checkpoint_every: int = 500
    tensorboard: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "checkpoint_every"):
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
        loss: (network, captures, clean images, generator of each crop) -> mean over the crops.
        dataset: at least steps · batch · accumulate · processes items.
        settings: see there.
        finish: saves the result, given the facts of the run (steps, seconds, hardware); main process only.

    Raises:
        OutputError: another process trains into the folder, or it cannot be written.
        SettingError: the run diverged, its folder holds another, or TensorBoard is missing.
    """
    accelerator = _accelerator(settings)
    with locked(settings.out) if accelerator.is_main_process else nullcontext():
        yield from _steps(accelerator, network, loss, dataset, settings, finish)


def _steps(
    accelerator: Any,
    network: nn.Module,
    loss: Loss,
    dataset: Dataset[tuple[Tensor, Tensor]],
    settings: TrainingSettings,
    finish: Callable[[nn.Module, dict[str, Any]], None],
) -> Iterator[Progress]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, settings.steps))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    constrain(network)
    network, optimizer = accelerator.prepare(network, optimizer)
    average = EMAModel(network.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75)
    average.to(accelerator.device)
    accelerator.register_for_checkpointing(schedule, average)
    per_batch = settings.batch * accelerator.num_processes
    per_step = per_batch * settings.accumulate
    step, seconds = _resume(accelerator, settings, per_step)
    if accelerator.is_main_process:
        _rewind(settings.out / LOG, step)
    remaining = Subset(dataset, range(step * per_step, settings.steps * per_step))
    loader = accelerator.prepare(
        DataLoader(remaining, batch_size=settings.batch, collate_fn=join, num_workers=_workers(accelerator))
    )
    clock = time.monotonic() - seconds
    losses = []
    for batch, (captured, clean) in enumerate(loader, start=step * settings.accumulate):
        first = batch * per_batch + accelerator.process_index * settings.batch
        crops = len(captured) // settings.batch
        generators = [_generator(settings.seed, first * crops + index) for index in range(len(captured))]
        with accelerator.accumulate(network):
            with accelerator.autocast():
                value = loss(network, captured, clean, generators)
            accelerator.backward(value)
            losses.append(value.detach())
            if not accelerator.sync_gradients:
                continue
            step, mean = step + 1, _mean(accelerator, losses)
            if not math.isfinite(mean):
                raise SettingError(f"training diverged at step {step}: loss {mean}; try a lower learning rate.")
            accelerator.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            constrain(network)
        schedule.step()
        average.step(network.parameters())
        progress = Progress(step, settings.steps, mean, time.monotonic() - clock)
        losses = []
        accelerator.log({"loss": mean, "learning rate": schedule.get_last_lr()[0]}, step=step)
        if accelerator.is_main_process:
            append(settings.out / LOG, json.dumps(asdict(progress)).encode() + b"\n")
        if step % settings.checkpoint_every == 0 or step == settings.steps:
            _checkpoint(accelerator, settings, progress, per_step)
        yield progress
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if accelerator.is_main_process:
        average.copy_to(network.parameters())
        constrain(network)  # where bounds are of another shape, a mean of weights within them is not
        seconds = time.monotonic() - clock
        finish(accelerator.unwrap_model(network), _facts(settings, seconds, accelerator))


def save(network: Any, folder: Path) -> None:
    """Write a trained network, or a pipeline of such, as diffusers does.

    Raises:
        OutputError: the disk is full, or the folder cannot be written for another reason.
    """
    with writing(folder, KEPT):
        network.save_pretrained(folder)


def bare(network: nn.Module) -> nn.Module:
    """The network without the wrapper by which processes share gradients of weights.

    Whoever differentiates with respect to an image calls it so, as attacks do: nothing is shared then.
    """
    return getattr(network, "module", network)


def constrain(network: nn.Module) -> None:
    """Bring the weights of a network that has bounds back within them."""
    if isinstance(plain := bare(network), Restorer):
        plain.constrain()


def read_log(out: Path) -> list[Progress]:
    """The steps that a run has logged, in order.

    Raises:
        SettingError: there is no log.
    """
    try:
        lines = (out / LOG).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingError(f"{out}: holds no {LOG} of a training run ({error.strerror}).") from error
    return [Progress(**json.loads(line)) for line in lines if line.endswith("}")]  # a kill can cut the last line


def _rewind(log: Path, step: int) -> None:
    """Forget what was logged after a step: it is trained, and logged, again."""
    if log.is_file():
        kept = [json.dumps(asdict(entry)) + "\n" for entry in read_log(log.parent) if entry.step <= step]
        write_file(log, "".join(kept).encode())


def _accelerator(settings: TrainingSettings) -> Any:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise SettingError(f'training needs {error.name}; install it with pip install "udc-defense[train]".') from error

    options: dict[str, Any] = {
        "mixed_precision": settings.precision,
        "gradient_accumulation_steps": settings.accumulate,
    }
    if not settings.tensorboard:
        return Accelerator(**options)
    from accelerate.utils import is_tensorboard_available

    if not is_tensorboard_available():
        raise SettingError('TensorBoard is not installed; get it with pip install "udc-defense[tensorboard]".')
    accelerator = Accelerator(log_with="tensorboard", project_dir=str(settings.out), **options)
    accelerator.init_trackers("tensorboard")
    return accelerator


def _generator(seed: int, crop: int) -> torch.Generator:
    """Of a crop's noise, unlike any that its capture was drawn with."""
    return seeded(int.from_bytes(hashlib.sha256(f"{seed} {crop}".encode()).digest()[:7], "big"))


def _mean(accelerator: Any, losses: list[Tensor]) -> float:
    """Over the batches of a step and all processes."""
    return accelerator.reduce(torch.stack(losses).mean(), "mean").item()


def _warm_cosine(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / min(WARM_UP, max(1, steps // 10)))
    return warm * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))


def _workers(accelerator: Any) -> int:
    """Simulation competes with training for CPU cores, unless training happens elsewhere."""
    return 8 if accelerator.device.type == "cuda" else 0


def _checkpoint(accelerator: Any, settings: TrainingSettings, progress: Progress, per_step: int) -> None:
    """Write to a temporary folder and rename: a kill leaves the last complete checkpoint."""
    temporary = settings.out / "checkpoint.tmp"
    final = settings.out / f"checkpoint-{progress.step:07d}"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        with writing(final, KEPT):
            accelerator.save_state(str(temporary))
    except OutputError:
        shutil.rmtree(temporary, ignore_errors=True)  # half a checkpoint is of no use, and the disk may be full
        raise
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(temporary / "progress.json", asdict(progress) | {"captures": per_step})
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in _checkpoints(settings.out)[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)


def _checkpoints(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("checkpoint-*") if (path / "progress.json").is_file())


def _resume(accelerator: Any, settings: TrainingSettings, per_step: int) -> tuple[int, float]:
    """Load the newest checkpoint if asked to; the number of steps done and the seconds they took."""
    settings.out.mkdir(parents=True, exist_ok=True)
    found = _checkpoints(settings.out)
    if not settings.resume:
        if found:
            raise SettingError(f"{settings.out}: holds a run already; add --resume or choose another folder.")
        return 0, 0.0
    if not found:
        return 0, 0.0
    done = json.loads((found[-1] / "progress.json").read_text(encoding="utf-8"))
    if done["captures"] != per_step:  # which samples come next would be another question
        raise SettingError(f"{settings.out}: the run there takes {done['captures']} captures a step, not {per_step}.")
    accelerator.load_state(str(found[-1]))
    return int(done["step"]), float(done["seconds"])


def _facts(settings: TrainingSettings, seconds: float, accelerator: Any) -> dict[str, Any]:
    """What a model card says of the run."""
    chosen = {key: value for key, value in asdict(settings).items() if key not in ("out", "resume", "tensorboard")}
    return chosen | {
        "seconds": round(seconds),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "device": hardware(accelerator.device),
        "torch": torch.__version__,
    }
