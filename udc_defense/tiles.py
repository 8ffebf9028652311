"""One network evaluation on an image of any size: padded to what the network needs, tiled to bound the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def apply_tiled(
    function: Callable[[Tensor], Tensor], image: Tensor, *, size: int, overlap: int, stride: int = 1
) -> Tensor:
    """Apply an image-to-image function tile by tile; an image of at most one tile goes through whole.

    Neighbours are cross-faded linearly over the inner half of their overlap, so that what a tile's border has spoilt
    counts for nothing and no seam shows.

    Args:
        function: (B, C, h, w) -> (B, D, h, w).
        image: (B, C, H, W).
        size: side of a tile.
        overlap: pixels that neighbours share at least, less than half of `size`.
        stride: of the network's coarsest grid. Tiles start at its multiples, as the whole image does, so that a pixel
            has the same place on the grid in both; the last tile may be longer by less than a stride.
    """
    height, width = image.shape[-2:]
    if height <= size and width <= size:
        return function(image)
    rows, columns = (_spans(length, size, overlap, stride) for length in (height, width))
    total: Tensor | None = None
    weight = image.new_zeros(1, 1, height, width)
    for row in rows:
        for column in columns:
            window = (..., row, column)
            fade = _fade(row, height, overlap, image)[:, None] * _fade(column, width, overlap, image)[None, :]
            tile = function(image[window])
            if total is None:
                total = tile.new_zeros(len(image), tile.shape[1], height, width)
            if torch.is_grad_enabled() and image.requires_grad:
                total = _added(total, window, tile * fade)
            else:
                total[window] += tile * fade
            weight[window] += fade
    assert total is not None  # there is at least one tile
    return total / weight


def apply_cut(function: Callable[[Tensor], Tensor], image: Tensor, *, size: int, halo: int) -> Tensor:
    """Apply an image-to-image function tile by tile; of each tile only the part inside its halo is kept.

    With a halo of at least the reach of the function, each value is what it would be of the whole image. That bounds
    the gain too: where tiles are blended, or cut too near, a pixel counts in several, and the gain can be twice that of
    the function.

    Args:
        function: (B, C, h, w) -> (B, C, h, w).
        image: (B, C, H, W).
        size: side of the kept part; a multiple of the stride of the function's coarsest grid, as `halo`.
        halo: pixels that a tile sees on each side beyond what is kept.
    """
    height, width = image.shape[-2:]
    if height <= size and width <= size:
        return function(image)
    rows = [torch.cat(_cut_row(function, image, top, size, halo), dim=-1) for top in range(0, height, size)]
    return torch.cat(rows, dim=-2)


def _cut_row(function: Callable[[Tensor], Tensor], image: Tensor, top: int, size: int, halo: int) -> list[Tensor]:
    """The kept parts of a row of tiles."""
    above, parts = max(0, top - halo), []
    for left in range(0, image.shape[-1], size):
        before = max(0, left - halo)
        tile = function(image[..., above : top + size + halo, before : left + size + halo])
        parts.append(tile[..., top - above : top - above + size, left - before : left - before + size])
    return parts


def _spans(length: int, size: int, overlap: int, stride: int) -> list[slice]:
    """Tiles that cover a side, evenly spread."""
    if length <= size:
        return [slice(0, length)]
    count = -(-(length - overlap) // (size - overlap))
    starts = [index * (length - size) // (count - 1) // stride * stride for index in range(count)]
    # Where rounding down has left a gap to the next tile's overlap, or to the end, the tile reaches on.
    stops = [
        *(start + max(size, after - start + overlap) for start, after in zip(starts, starts[1:], strict=False)),
        length,
    ]
    return [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]


def _fade(span: slice, length: int, overlap: int, like: Tensor) -> Tensor:
    """Weights along one side: 1 inside, a ramp over the overlap's inner half, 0 at borders that have a neighbour."""
    count = span.stop - span.start
    position = torch.arange(count, device=like.device, dtype=like.dtype) + 0.5
    margin, ramp = overlap / 4, overlap / 2
    rising = ((position - margin) / ramp).clamp(0, 1) if span.start > 0 else torch.ones_like(position)
    falling = ((count - position - margin) / ramp).clamp(0, 1) if span.stop < length else torch.ones_like(position)
    return rising * falling


def _added(total: Tensor, window: tuple, tile: Tensor) -> Tensor:
    """Out-of-place accumulation, for autograd."""
    canvas = torch.zeros_like(total)
    canvas[window] = tile
    return total + canvas


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad right and below until the sides are multiples."""
    height, width = image.shape[-2:]
    return pad(image, bottom=-height % multiple, right=-width % multiple)


def pad(image: Tensor, *, bottom: int, right: int) -> Tensor:
    """Pad by reflection, by the edge where the image is too small to reflect."""
    if torch.jit.is_tracing():
        return _pad_any_size(image, bottom=bottom, right=right)
    height, width = image.shape[-2:]
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, bottom), mode=mode) if bottom or right else image


def _pad_any_size(image: Tensor, *, bottom: int, right: int) -> Tensor:
    """The same in operations that hold for any size: a trace keeps the branches that its own image took."""
    height, width = image.shape[-2:]
    # Both sides are reflected or none is.
    reflects = (torch.as_tensor(bottom) < height) & (torch.as_tensor(right) < width)
    rows, columns = _index(height, height + bottom, reflects), _index(width, width + right, reflects)
    return image.index_select(-2, rows).index_select(-1, columns)


def _index(side: int, length: int, reflects: Tensor) -> Tensor:
    """Where each row of the padded image comes from."""
    position, last = torch.arange(length), side - 1
    return torch.where(reflects, last - (position - last).abs(), position.clamp(max=last))
