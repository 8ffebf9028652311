"""The loss curve of a training run: as a picture, or in a line of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from udc_defense.errors import SettingError
from udc_defense.training.loop import Progress, read_log

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Means of `width` equal parts of the values as bars, from the lowest mean to the highest."""
    width = min(width, len(values))
    parts = [values[len(values) * i // width : len(values) * (i + 1) // width] for i in range(width)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Of the last `window` values at each place, of fewer at the beginning."""
    return [sum(part) / len(part) for end in range(1, len(values) + 1) if (part := values[max(0, end - window) : end])]


def in_words(values: Sequence[float]) -> str:
    """Means of the first and of the last twentieth: single steps show other scenes, which tells more than progress."""
    window = max(1, len(values) // 20)
    first, last = (sum(part) / window for part in (values[:window], values[-window:]))
    return f"loss {first:.4g} in the first {window} of {len(values)} steps, {last:.4g} in the last {window}"


def plot(log: Sequence[Progress], path: Path) -> None:
    """Loss over steps, and its running mean, as SVG, PNG or PDF by the name's suffix.

    Raises:
        SettingError: matplotlib is not installed, or does not know the suffix.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingError(
            f'a picture needs {error.name}; install it with pip install "udc-defense[report]".'
        ) from error

    steps, losses = [entry.step for entry in log], [entry.loss for entry in log]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8, label="each step")
    axes.plot(steps, running_mean(losses, max(1, len(losses) // 20)), color="tab:blue", label="running mean")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    try:
        figure.savefig(path)
    except ValueError as error:
        raise SettingError(f"{path}: the suffix {path.suffix!r} is of no picture that can be drawn.") from error


def read_curve(run: Path) -> list[Progress]:
    """The log of a run.

    Raises:
        SettingError: there is none, or nothing in it.
    """
    if not (log := read_log(run)):
        raise SettingError(f"{run}: has logged no step yet.")
    return log
