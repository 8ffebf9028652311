"""What an attack maximises: (output, reference) -> loss per sample, (B,).

Outputs are taken as they are: clamped to [0, 1], they would have no gradient wherever they leave it.

An objective that holds something per sample has a method `select`, which gives the objective for some of the samples.
"""

from __future__ import annotations

import copy
import re
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from udc_defense.attacks.lpips import load_lpips
from udc_defense.errors import ImageError, SettingError
from udc_defense.hooks import submodule, watch
from udc_defense.images import read_image
from udc_defense.metrics import unclamped_ms_ssim, unclamped_ssim
from udc_defense.tensors import check_alike, check_image

Objective = Callable[[Tensor, Tensor], Tensor]


def mse(output: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error: maximising it minimises PSNR."""
    return (output - reference).square().flatten(1).mean(dim=1)


def l1(output: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute error."""
    return (output - reference).abs().flatten(1).mean(dim=1)


def ssim(output: Tensor, reference: Tensor) -> Tensor:
    """1 - SSIM."""
    return 1 - unclamped_ssim(output, reference)


def ms_ssim(output: Tensor, reference: Tensor) -> Tensor:
    """1 - MS-SSIM; at most 1, where every channel has a scale that does not correlate."""
    return 1 - unclamped_ms_ssim(output, reference)


@dataclass(frozen=True)
class Targeted:
    """-MSE to a target (B, 3, H, W): draws the output towards an image of the attacker's choice."""

    target: Tensor

    def __post_init__(self) -> None:
        check_image(self.target, "the target")

    def __call__(self, output: Tensor, reference: Tensor) -> Tensor:
        check_alike(output, self.target, ("the output", "the target"))
        return -mse(output, self.target)

    def select(self, part: slice | Sequence[int]) -> Targeted:
        return Targeted(self.target[part])


@dataclass(frozen=True)
class Masked:
    """Mean squared error inside a rectangle, in pixels from the upper left; what happens outside counts for nothing.

    Raises:
        SettingError: the rectangle has no pixels, or some lie outside the image.
    """

    left: int
    top: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if min(self.left, self.top) < 0 or min(self.width, self.height) < 1:
            raise SettingError(f"{self._words()} needs a left and top of at least 0 and sides of at least 1.")

    def __call__(self, output: Tensor, reference: Tensor) -> Tensor:
        self.check(output)
        window = (..., slice(self.top, self.top + self.height), slice(self.left, self.left + self.width))
        return mse(output[window], reference[window])

    def check(self, image: Tensor) -> None:
        """Refuse an image that does not hold the rectangle."""
        height, width = image.shape[-2:]
        if self.left + self.width > width or self.top + self.height > height:
            raise SettingError(f"{self._words()} is not inside the image of {width}x{height} pixels.")

    def _words(self) -> str:
        return f"the region of {self.width}x{self.height} pixels at ({self.left}, {self.top})"


class Feature:
    """Mean squared distance of a layer's activation from the one that the clean image gives.

    The activation is caught in the forward pass that the attack makes anyway; of several passes the last one counts.
    The distance and its gradient are zero at the clean image, so that an attack needs a random start. The layer is
    watched until `close`, the end of a `with`, or until nothing refers to the objective any more.

    Args:
        model: runs whenever the attacked model does: the attacked module itself or a part of it.
        layer: dotted name of a submodule of `model`, whose output is one tensor with the batch first. Where a model
            works in tiles, the activations of all tiles count.
        image: clean captures (B, 3, H, W). A random model draws once for them; give its deterministic part instead.

    Raises:
        SettingError: there is no such layer, it does not run, or its output is of another form.
    """

    def __init__(self, model: nn.Module, layer: str, image: Tensor) -> None:
        self.layer = layer
        module = submodule(model, layer)
        calls: deque[Any] = deque()
        with torch.no_grad(), watch(module, calls):
            model(image)
        self.clean = self._joined(calls, len(image))
        self._tap = _Tap(module, len(calls))

    def __call__(self, output: Tensor, reference: Tensor) -> Tensor:
        activation = self._joined(self._tap.calls, len(output))
        self._tap.calls.clear()  # a pass must not count twice, and its graph is not kept
        if activation.shape != self.clean.shape:
            raise SettingError(
                f"layer {self.layer!r} gave {activation.shape[1]} values per sample, {self.clean.shape[1]} for the "
                f"clean image, for {len(activation)} and {len(self.clean)} samples."
            )
        return mse(activation, self.clean)

    def __enter__(self) -> Feature:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def select(self, part: slice | Sequence[int]) -> Feature:
        """For some of the samples; it shares what is caught, and either one's `close` closes both."""
        selected = copy.copy(self)
        selected.clean = self.clean[part]
        return selected

    def close(self) -> None:
        """Watch the layer no longer."""
        self._tap.close()

    def _joined(self, calls: deque[Any], batch: int) -> Tensor:
        """The activations of all calls as (B, N)."""
        if not calls:
            raise SettingError(f"layer {self.layer!r} gave nothing: it does not run, or is watched no longer.")
        if not all(isinstance(call, Tensor) and call.dim() > 0 and len(call) == batch for call in calls):
            raise SettingError(f"layer {self.layer!r} does not give one tensor with the {batch} samples first.")
        return torch.cat([call.flatten(1) for call in calls], dim=1)


class _Tap:
    """What a layer gave in its last `count` calls, which are those of the last forward pass."""

    def __init__(self, module: nn.Module, count: int) -> None:
        self.calls: deque[Any] = deque(maxlen=count)
        # The hook refers to the deque and not to the tap, so that the model does not keep the tap alive.
        self.close = weakref.finalize(self, watch(module, self.calls).remove)


def select(objective: Any, part: slice | Sequence[int]) -> Objective:
    """The objective for some samples of the batch: those that hold something per sample have a method `select`."""
    return objective.select(part) if hasattr(objective, "select") else objective


# Those that take no argument and hold nothing.
OBJECTIVES: dict[str, Objective] = {"mse": mse, "l1": l1, "ssim": ssim, "ms_ssim": ms_ssim}
OBJECTIVE_WORDS: dict[str, str] = {
    "mse": "mean squared error: lowers PSNR",
    "l1": "mean absolute error",
    "ssim": "1 - SSIM",
    "ms_ssim": "1 - SSIM over several scales (Wang et al. 2003)",
    "lpips": "perceptual distance in VGG16 (arXiv 1801.03924); downloads its weights once, 553 MB",
    "feature:LAYER": "distance of a layer's activation from the clean capture's, such as feature:encoder.3",
    "targeted:PATH": "-MSE to an image file of the capture's size: draws the output towards it",
    "masked:LEFT,TOP,WIDTH,HEIGHT": "mean squared error inside a rectangle alone, in pixels",
}
ARGUMENTS: dict[str, str] = {name: argument for name, _, argument in (form.partition(":") for form in OBJECTIVE_WORDS)}
OBJECTIVE_NAMES: tuple[str, ...] = tuple(ARGUMENTS)


def check_objective(text: str) -> None:
    """Refuse a text that `parse_objective` would refuse for any model and image.

    Raises:
        SettingError: the name is unknown, or its argument missing, superfluous or malformed.
    """
    name, argument = _split(text)
    if name == "masked":
        _rectangle(argument)


def parse_objective(text: str, model: nn.Module, image: Tensor) -> Objective:
    """The objective that a text such as `ssim` or `feature:encoder.3` means; `OBJECTIVE_WORDS` lists the forms.

    Args:
        text: name, or `name:argument`.
        model: whose layers `feature` names.
        image: clean captures (B, 3, H, W) in [0, 1].

    Raises:
        SettingError: the text is malformed, or does not fit model or image; or an extra is missing.
        CheckpointError: the weights of `lpips` cannot be had.
    """
    name, argument = _split(text)
    if name == "lpips":
        return load_lpips(image.device, image.dtype)
    if name == "feature":
        return Feature(model, argument, image)
    if name == "targeted":
        return Targeted(_read_target(argument, image))
    if name == "masked":
        region = _rectangle(argument)
        region.check(image)
        return region
    return OBJECTIVES[name]


def _split(text: str) -> tuple[str, str]:
    name, colon, argument = text.partition(":")
    if name not in ARGUMENTS:
        raise SettingError(f"objective {text!r} is not one of {', '.join(OBJECTIVE_WORDS)}.")
    if ARGUMENTS[name] and not argument:
        raise SettingError(f"objective {text!r} lacks its argument: {name}:{ARGUMENTS[name]}.")
    if colon and not ARGUMENTS[name]:
        raise SettingError(f"objective {text!r} has an argument, but {name} takes none.")
    return name, argument


def _rectangle(argument: str) -> Masked:
    if not re.fullmatch(r"\d{1,9}(,\d{1,9}){3}", argument, re.ASCII):
        raise SettingError(f"region {argument!r} is not {ARGUMENTS['masked']} in whole pixels.")
    left, top, width, height = map(int, argument.split(","))
    return Masked(left, top, width, height)


def _read_target(path: str, image: Tensor) -> Tensor:
    try:
        target = read_image(path)
    except ImageError as error:
        raise SettingError(f"the target image cannot be used: {error}") from error
    if target.shape[-2:] != image.shape[-2:]:
        (height, width), (rows, columns) = target.shape[-2:], image.shape[-2:]
        raise SettingError(f"the target image {path} has {width}x{height} pixels, the capture {columns}x{rows}.")
    return target.to(image).expand_as(image)
