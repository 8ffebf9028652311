"""What an attack maximises: (output, reference) -> loss per sample, (B,)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Objective = Callable[[Tensor, Tensor], Tensor]


def mse(output: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error: maximising it minimises PSNR."""
    return (output - reference).square().flatten(1).mean(dim=1)


def l1(output: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute error."""
    return (output - reference).abs().flatten(1).mean(dim=1)


OBJECTIVES: dict[str, Objective] = {"mse": mse, "l1": l1}


def select(objective: Any, part: slice) -> Objective:
    """The objective for some samples of the batch: those that hold something per sample have a method `select`."""
    return objective.select(part) if hasattr(objective, "select") else objective
