"""What images are as tensors, checked at every public door: one place, one sentence each, one pass over the values.

Networks clamp nothing, so that their outputs may lie somewhat outside of [0, 1]. What is refused is what can only be a
mistake of scale, such as values in 0…255.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from udc_defense.errors import SettingError

# No image in [0, 1], and no network's answer to one, comes near to it; an image in 0…255 exceeds it unless it is black.
FAR = 16.0


def check_image(image: Any, name: str = "the image", *, signed: bool = False) -> None:
    """Refuse what is no image (B, 3, H, W) in about [0, 1]; values that are not finite pass.

    Args:
        image: what a caller gave.
        name: of it in the sentence.
        signed: values far below 0 excuse those far above, as in what a network without bounds makes of an image.

    Raises:
        SettingError: it is no tensor of floats, has another shape, or values beyond ±16.
    """
    check_shape(image, name)
    if _is_written_down() or image.is_meta:
        return
    low, high = (float(value) for value in image.detach().aminmax())
    if (low < -FAR or high > FAR) and not (signed and low < -1):
        raise SettingError(f"{name} has values from {low:.4g} to {high:.4g}, far outside of [0, 1]{_hint(low, high)}.")


def check_capture(image: Any, name: str = "the image") -> None:
    """Refuse what is no image (B, 3, H, W) in [0, 1] exactly, finite.

    Raises:
        SettingError: it is none.
    """
    check_shape(image, name)
    low, high = (float(value) for value in image.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also where they are not numbers
        raise SettingError(f"{name} has values from {low:.4g} to {high:.4g}, not finite in [0, 1]{_hint(low, high)}.")


def check_pair(image: Any, reference: Any, names: tuple[str, str] = ("the image", "the reference")) -> None:
    """Refuse two images that cannot be compared value by value: nothing is broadcast.

    Raises:
        SettingError: one is no image in about [0, 1], or they differ in shape, dtype or device.
    """
    for one, name in zip((image, reference), names, strict=True):
        check_image(one, name)
    check_alike(image, reference, names)


def check_alike(image: Tensor, other: Tensor, names: tuple[str, str] = ("the image", "the reference")) -> None:
    """Refuse tensors of different shape, dtype or device.

    Raises:
        SettingError: they differ.
    """
    if image.shape != other.shape:
        raise SettingError(f"{names[0]} {tuple(image.shape)} and {names[1]} {tuple(other.shape)} differ in shape.")
    if (image.dtype, image.device) != (other.dtype, other.device):
        raise SettingError(f"{names[0]} is {_kind(image)}, {names[1]} {_kind(other)}: bring both to one.")


def check_shape(image: Any, name: str = "the image") -> None:
    """Refuse what is no tensor of floats (B, 3, H, W), whatever its values.

    Raises:
        SettingError: it is none.
    """
    if _is_written_down():
        return
    if not isinstance(image, Tensor):
        raise SettingError(f"{name} is a {type(image).__name__}, not a tensor (B, 3, H, W).")
    if not image.is_floating_point():
        raise SettingError(f"{name} is {_dtype(image)}, not floats in [0, 1]: divide integers by their full scale.")
    if image.dim() != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise SettingError(f"{name} has the shape {tuple(image.shape)}, not (B, 3, H, W).")


def check_fits(module: nn.Module, image: Tensor, name: str = "the image") -> None:
    """Refuse an image of another dtype or device than a module's weights, unless autocast converts it.

    Raises:
        SettingError: they differ.
    """
    if problem := _misfit(module, image, name):
        raise SettingError(problem)


def call(module: nn.Module, image: Tensor, *others: Any) -> Any:
    """What a module makes of an image; that dtypes or devices differ in a sentence, for modules that may convert.

    Raises:
        SettingError: it fails, and they do.
    """
    try:
        return module(image, *others)
    except RuntimeError as error:
        if problem := _misfit(module, image, "the image"):
            raise SettingError(problem) from error
        raise


def _misfit(module: nn.Module, image: Tensor, name: str) -> str | None:
    """Why a module's weights and an image do not go together, in a sentence; None where they do."""
    weights = next((weight for weight in module.parameters() if weight.is_floating_point()), None)
    if weights is None:
        return None
    if weights.is_inference() and torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        return "the weights were made under torch.inference_mode, so that no gradient goes through: load them anew."
    device = image.device.type
    converted = device != "meta" and torch.is_autocast_enabled(device)
    if weights.device != image.device or (weights.dtype != image.dtype and not converted):
        return f"{name} is {_kind(image)}, the weights {_kind(weights)}: convert it by image.to(weights)."
    return None


def check_output(output: Any, expected: tuple[int, ...], what: str = "the model") -> Tensor:
    """A model's output, if it is a tensor of that shape.

    Raises:
        SettingError: it is something else.
    """
    if not isinstance(output, Tensor):
        raise SettingError(f"{what} returns a {type(output).__name__}, not one tensor of the shape {expected}.")
    if tuple(output.shape) != expected:
        raise SettingError(f"{what} returns the shape {tuple(output.shape)}, not {expected}.")
    return output


def check_gradients_possible() -> None:
    """Refuse to take gradients where none are recorded, whatever `enable_grad` says.

    Raises:
        SettingError: `torch.inference_mode` is on.
    """
    if torch.is_inference_mode_enabled():
        raise SettingError("torch.inference_mode is on, and what needs gradients cannot run in it: use torch.no_grad.")


def _is_written_down() -> bool:
    """The program is being traced or compiled, so that a value cannot be asked for."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _hint(low: float, high: float) -> str:
    for levels in (255, 65535):
        if low >= 0 and FAR < high <= levels:
            return f": divide by {levels}?"
    return ""


def _dtype(image: Tensor) -> str:
    return str(image.dtype).removeprefix("torch.")


def _kind(tensor: Tensor) -> str:
    return f"{_dtype(tensor)} on {tensor.device}"
