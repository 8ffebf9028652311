"""One network evaluation on a large image: overlapping tiles, blended, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def apply_tiled(function: Callable[[Tensor], Tensor], image: Tensor, *, size: int, overlap: int) -> Tensor:
    """Apply an image-to-image function tile by tile; an image of at most one tile goes through whole.

    Neighbours are cross-faded linearly over the inner half of their overlap, so that what a tile's border has spoilt
    counts for nothing and no seam shows.

    Args:
        function: (B, C, h, w) -> (B, C, h, w).
        image: (B, C, H, W).
        size: side of a tile.
        overlap: pixels that neighbours share, less than half of `size`.
    """
    height, width = image.shape[-2:]
    if height <= size and width <= size:
        return function(image)
    rows, columns = _starts(height, size, overlap), _starts(width, size, overlap)
    total, weight = torch.zeros_like(image), image.new_zeros(1, 1, height, width)
    for top in rows:
        for left in columns:
            window = (..., slice(top, top + size), slice(left, left + size))
            tile = image[window]
            fade = _fade(tile.shape[-2], top, height, size, overlap, image)[:, None]
            fade = fade * _fade(tile.shape[-1], left, width, size, overlap, image)[None, :]
            if torch.is_grad_enabled() and image.requires_grad:
                total = _added(total, window, function(tile) * fade)
            else:
                total[window] += function(tile) * fade
            weight[window] += fade
    return total / weight


def _starts(length: int, size: int, overlap: int) -> list[int]:
    """First pixels of tiles that cover a side, evenly spread."""
    if length <= size:
        return [0]
    count = -(-(length - overlap) // (size - overlap))
    return [round(index * (length - size) / (count - 1)) for index in range(count)]


def _fade(count: int, start: int, length: int, size: int, overlap: int, like: Tensor) -> Tensor:
    """Weights along one side: 1 inside, a ramp over the overlap's inner half, 0 at borders that have a neighbour."""
    position = torch.arange(count, device=like.device, dtype=like.dtype) + 0.5
    margin, ramp = overlap / 4, overlap / 2
    rising = ((position - margin) / ramp).clamp(0, 1) if start > 0 else torch.ones_like(position)
    falling = ((count - position - margin) / ramp).clamp(0, 1) if start + size < length else torch.ones_like(position)
    return rising * falling


def _added(total: Tensor, window: tuple, tile: Tensor) -> Tensor:
    """Out-of-place accumulation, for autograd."""
    canvas = torch.zeros_like(total)
    canvas[window] = tile
    return total + canvas
