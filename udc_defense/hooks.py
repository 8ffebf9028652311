"""A module inside a network, and what goes through it."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import nn

from udc_defense.errors import SettingError


def watch(module: nn.Module, calls: deque[Any]) -> torch.utils.hooks.RemovableHandle:
    """Append what the module gives to `calls`, until the handle is removed."""
    return module.register_forward_hook(lambda module, args, output: calls.append(output))


def submodule(model: nn.Module, layer: str) -> nn.Module:
    """The part of a model by its dotted name.

    Raises:
        SettingError: there is none of that name.
    """
    try:
        return model.get_submodule(layer)
    except AttributeError:
        containers = (nn.ModuleList, nn.ModuleDict)  # which never run
        names = [name for name, child in model.named_modules() if name and not isinstance(child, containers)]
        some = ", ".join(sorted(names, key=lambda name: name.count("."))[:8]) or "none"
        raise SettingError(f"layer {layer!r} is not one of the model's {len(names)} layers, such as {some}.") from None
