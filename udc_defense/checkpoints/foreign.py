"""Anybody's network as a restorer, named `package.module:attribute`."""

from __future__ import annotations

import functools
import hashlib
import importlib
from typing import Any

import torch
from torch import Tensor, nn

from udc_defense.errors import CheckpointError
from udc_defense.memory import in_own_memory
from udc_defense.restorers.base import Restorer


class ForeignRestorer(Restorer):
    """A network that knows nothing of restorers: tone-mapped capture (B, 3, H, W) -> restored image of that shape.

    It is padded, aligned and tiled as its own `multiple`, `stride`, `tile_size` and `tile_overlap` say, where it has
    them, and is refused in one sentence where it fails or gives another shape.

    Args:
        source: where it was imported from, for messages.
        network: the network.
    """

    def __init__(self, source: str, network: nn.Module) -> None:
        super().__init__()
        self.register_to_config(source=source)
        self.network = network
        for name in ("multiple", "stride", "tile_size", "tile_overlap"):
            if isinstance(value := getattr(network, name, None), int):
                setattr(self, name, value)
        # Tells the device and dtype of a network that has no weights, such as a filter.
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def network_forward(self, image: Tensor) -> Tensor:
        """The network's own output.

        Raises:
            CheckpointError: it fails on an image of that size, or gives another shape.
        """
        shape, source = tuple(image.shape), self.config["source"]
        try:
            output = self.network(image)
        except (RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{source}: fails on an image of shape {shape} ({_problem(error)}).") from error
        given = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        if given != shape:
            raise CheckpointError(f"{source}: gives {given} for an image of shape {shape}; a restorer keeps the shape.")
        return output


def imported(source: str) -> Restorer:
    """The network at `package.module:attribute`, in evaluation mode, frozen, float32, on the CPU.

    Args:
        source: an `nn.Module`, which is changed in place, or a class of such that takes no arguments, of which a
            process makes one. Importing it runs the code of its package.

    Raises:
        CheckpointError: it is not there, or is something else.
    """
    found = _found(source)
    restorer = found if isinstance(found, Restorer) else ForeignRestorer(source, found)
    return in_own_memory(restorer.eval().requires_grad_(False).float().cpu())


def imported_sum(source: str) -> str:
    """sha256 of the network that `imported` gives: of names, types, shapes and bytes of its state dict.

    The network in use is not touched, wherever it is.

    Raises:
        CheckpointError: as there.
    """
    digest = hashlib.sha256()
    tensors = {name: value for name, value in _found(source).state_dict().items() if isinstance(value, Tensor)}
    for name, value in sorted(tensors.items()):
        value = value.cpu().float() if value.is_floating_point() else value.cpu()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@functools.cache  # a second one of random weights would be another network
def _found(source: str) -> nn.Module:
    module, _, attribute = source.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise CheckpointError(f"{source}: cannot be imported ({_problem(error)}).") from error
    if isinstance(found, type) and issubclass(found, nn.Module):
        try:
            found = found()
        except Exception as error:
            raise CheckpointError(f"{source}: cannot be made without arguments ({_problem(error)}).") from error
    if not isinstance(found, nn.Module):
        raise CheckpointError(f"{source}: a {type(found).__name__}, not an nn.Module or a class of such.")
    return found


def _problem(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(" .:")
