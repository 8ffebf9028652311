"""The one place where attacks evaluate a model: loss and gradient, or the loss alone, over draws of its noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from udc_defense.attacks.objectives import Objective, select
from udc_defense.errors import SettingError
from udc_defense.tensors import call, check_gradients_possible, check_output

# Pixels that go through a model at once. A CPU is slower on larger batches, whose activations leave its caches.
CHUNK_PIXELS = {"cpu": 256**2, "cuda": 32 * 256**2, "mps": 8 * 256**2}


@torch.enable_grad()
def loss_and_grad(
    model: nn.Module, image: Tensor, reference: Tensor, objective: Objective, draws: int = 1
) -> tuple[Tensor, Tensor]:
    """Loss per sample (B,) and its gradient (B, 3, H, W), averaged over draws of the model's own noise.

    Losses are summed over the batch, so that a sample's gradient does not depend on its neighbours. Averaging losses,
    not outputs, is expectation over transformation (arXiv 1707.07397).

    Raises:
        SettingError: no draws, or the model returns something else or is not differentiable.
    """
    check_gradients_possible()
    _check_draws(draws)
    image, reference = _with_history(image), _with_history(reference)
    losses, gradient = image.new_zeros(len(image)), torch.zeros_like(image)
    for part in _chunks(image):
        for _ in range(draws):
            x = image[part].detach().requires_grad_(True)
            value = _value(model, x, reference[part], objective, part)
            if not value.requires_grad:
                raise SettingError(
                    "the model is not differentiable: its output does not depend on the input for autograd."
                )
            gradient[part] += torch.autograd.grad(value.sum(), x)[0] / draws
            losses[part] += value.detach() / draws
    return losses, gradient


@torch.no_grad()
def loss(model: nn.Module, image: Tensor, reference: Tensor, objective: Objective, draws: int = 1) -> Tensor:
    """The loss per sample (B,) alone: all that a black-box attack sees.

    Raises:
        SettingError: no draws, or the model returns something else.
    """
    _check_draws(draws)
    losses = image.new_zeros(len(image))
    for part in _chunks(image):
        for _ in range(draws):
            losses[part] += _value(model, image[part], reference[part], objective, part) / draws
    return losses


def _check_draws(draws: int) -> None:
    if draws < 1:
        raise SettingError(f"{draws} draws: a loss needs at least 1.")


def _chunks(image: Tensor) -> list[slice]:
    pixels = image.shape[-1] * image.shape[-2]
    size = max(1, CHUNK_PIXELS.get(image.device.type, 256**2) // pixels)
    return [slice(start, start + size) for start in range(0, len(image), size)]


def _value(model: nn.Module, x: Tensor, reference: Tensor, objective: Objective, part: slice) -> Tensor:
    output = check_output(call(model, x), tuple(reference.shape))
    return check_output(select(objective, part)(output, reference), (len(x),), "the objective")


def _with_history(image: Tensor) -> Tensor:
    """One that autograd can record; those made under inference_mode are copied."""
    return image.clone() if image.is_inference() else image
