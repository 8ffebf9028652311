"""The one place where white-box attacks take gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from udc_defense.attacks.objectives import Objective
from udc_defense.errors import SettingError


@torch.enable_grad()
def loss_and_grad(
    model: nn.Module, image: Tensor, reference: Tensor, objective: Objective, draws: int = 1
) -> tuple[Tensor, Tensor]:
    """Loss per sample (B,) and its gradient (B, 3, H, W), averaged over draws of the model's own noise.

    Losses are summed over the batch, so that a sample's gradient does not depend on its neighbours. Averaging losses,
    not outputs, is expectation over transformation (arXiv 1707.07397).

    Raises:
        SettingError: no draws, or the model returns another shape or is not differentiable.
    """
    if draws < 1:
        raise SettingError(f"{draws} draws: a gradient needs at least 1.")
    losses, gradient = image.new_zeros(len(image)), torch.zeros_like(image)
    for _ in range(draws):
        x = image.detach().requires_grad_(True)
        output = model(x)
        if output.shape != reference.shape:
            raise SettingError(f"the model returns {tuple(output.shape)}, the reference is {tuple(reference.shape)}.")
        if not output.requires_grad:
            raise SettingError("the model is not differentiable: its output does not depend on the input for autograd.")
        value = objective(output, reference)
        gradient += torch.autograd.grad(value.sum(), x)[0] / draws
        losses += value.detach() / draws
    return losses, gradient
