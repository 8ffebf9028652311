"""Where the weights of a network lie."""

from __future__ import annotations

from itertools import chain
from typing import TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


def in_own_memory(network: N) -> N:
    """Give each parameter and buffer memory of its own, as torch aligns it: at multiples of 64 bytes on a CPU.

    MKL gives equal bits for operands of equal alignment only, and what is read from a file lies at any address. Kernels
    of convolutions also get the order of memory in which the CPU is a sixth faster.
    """
    for tensor in chain(network.parameters(), network.buffers()):
        order = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
        tensor.data = tensor.data.clone(memory_format=order)
    return network
