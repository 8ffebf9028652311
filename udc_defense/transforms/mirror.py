"""Padding of any width around images of any size."""

from __future__ import annotations

import torch
from torch import Tensor


def mirror(image: Tensor, before: int, after: int) -> Tensor:
    """Reflect at the border's edge (d c b a | a b c d | d c b a), over and over if the image is small.

    It is the `reflect` of scipy.ndimage. torch's own refuses an image that is smaller than the padding.

    Args:
        image: (B, C, H, W).
        before: pixels to the left and on top.
        after: pixels to the right and below.
    """
    rows, columns = (_order(length, before, after, image.device) for length in image.shape[-2:])
    return image[..., rows[:, None], columns]


def _order(length: int, before: int, after: int, device: torch.device) -> Tensor:
    index = torch.arange(-before, length + after, device=device) % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)
