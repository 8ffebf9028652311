"""VGG (arXiv 1409.1556), whose layers tell what a picture shows; numbered as in torchvision, without torchvision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from udc_defense.checkpoints.resolve import resolve
from udc_defense.errors import CheckpointError
from udc_defense.memory import in_own_memory

FILE = "model.safetensors"


class Vgg(nn.Module):
    """Blocks of 3 × 3 convolutions with ReLU, a pooling between two blocks.

    Args:
        blocks: width and number of convolutions of each.
        taps: numbers of the layers whose outputs are wanted, rising; the last one ends the network.
    """

    def __init__(self, blocks: Sequence[tuple[int, int]], taps: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, depth in blocks:
            layers += [nn.MaxPool2d(2)] if layers else []
            for _ in range(depth):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                before = width
        self.features = nn.Sequential(*layers[: taps[-1] + 1])
        self.taps = tuple(taps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) to the outputs of the taps."""
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                found.append(x)
        return found


def load_vgg(source: str, kind: str, blocks: Sequence[tuple[int, int]], taps: Sequence[int]) -> Vgg:
    """A network with the weights of a Hub repository, frozen, on the CPU; layers beyond its last tap are not read.

    Args:
        source: owner/name@revision.
        kind: what it is wanted for, in messages.
        blocks: of `Vgg`.
        taps: of `Vgg`.

    Raises:
        CheckpointError: the weights cannot be had, or are not what they should be.
    """
    path = resolve(source, kind) / FILE
    if not path.is_file():
        raise CheckpointError(f"{source}: has no {FILE}.")
    with torch.device("meta"):  # no values until they are read: a missing one could not pass for a random one
        network = Vgg(blocks, taps)
    wanted = network.state_dict().keys()
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in wanted & set(file.keys())}
        network.load_state_dict(state, strict=True, assign=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{source}: its weights cannot be read ({error}).") from error
    except RuntimeError as error:
        raise CheckpointError(f"{source}: its weights are not those of VGG{sum(n for _, n in blocks) + 3}.") from error
    return in_own_memory(network.eval().requires_grad_(False))
