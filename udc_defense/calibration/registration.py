"""How far two photos of one scene are off, to a fraction of a pixel; or that they are not of one scene."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from udc_defense.errors import PanelError

FARTHEST = 16.0  # pixels that a pair may be off
LEAST_CORRELATION = 0.3
MOST_TURN = 1.0  # pixels that a quarter of the frame may be off from the whole: turned, scaled or moving
LEAST_CORNER = 120  # pixels of a quarter's side
ALIGNED = 0.5  # pixels; lobes on one side of a PSF look like so much of a shift

Shift = tuple[float, float]  # rows, columns


def register(captured: Tensor, clean: Tensor, name: str) -> Shift:
    """By how many pixels the clean image must move to lie on the capture (rows, columns); (0, 0) where it does.

    Args:
        captured, clean: values of the files (3, H, W), any curve.
        name: of the pair, for the message.

    Raises:
        PanelError: they are off by more than 16 pixels, turned, scaled, or do not show the same scene.
    """
    first, second = captured.mean(dim=0), clean.mean(dim=0)
    shift = _offset(first, second)
    if (likeness := _correlation(first, second, shift)) < LEAST_CORRELATION:
        raise PanelError(f"{name}: capture and clean image do not show the same scene (correlation {likeness:.2f}).")
    if max(map(abs, shift)) > FARTHEST:
        raise PanelError(f"{name}: capture and clean image are off by {_words(shift)}; align them first.")
    for other in map(_offset, _corners(first), _corners(second.roll((round(shift[0]), round(shift[1])), (0, 1)))):
        there = (other[0] + round(shift[0]), other[1] + round(shift[1]))
        if np.hypot(there[0] - shift[0], there[1] - shift[1]) > MOST_TURN:
            raise PanelError(
                f"{name}: the clean image is off by {_words(shift)} as a whole and by {_words(there)} in a corner, "
                "so that it is turned, scaled or from another place; align the pair first."
            )
    return (0.0, 0.0) if np.hypot(*shift) < ALIGNED else shift


def _words(shift: Shift) -> str:
    return f"{shift[0]:+.2f} rows and {shift[1]:+.2f} columns"


def _corners(image: Tensor) -> list[Tensor]:
    """The quarters of an image (H, W), or none where they are too small to tell where they lie."""
    height, width = (side // 2 for side in image.shape)
    if min(height, width) < LEAST_CORNER:
        return []
    return [image[top : top + height, left : left + width] for top in (0, height) for left in (0, width)]


def _offset(first: Tensor, second: Tensor) -> Shift:
    """Phase correlation of two images (H, W), its peak to a fraction of a pixel."""
    import cv2

    window = cv2.createHanningWindow((first.shape[1], first.shape[0]), cv2.CV_64F)
    (columns, rows), _ = cv2.phaseCorrelate(second.double().numpy(), first.double().numpy(), window)
    return float(rows), float(columns)


def _correlation(first: Tensor, second: Tensor, shift: Shift) -> float:
    """Of two images where they overlap, after the second was moved by whole pixels; 0 where they hardly do."""
    for dim, off in enumerate(map(round, shift)):
        side = first.shape[dim] - abs(off)
        if 2 * side < first.shape[dim]:
            return 0.0
        first, second = first.narrow(dim, max(off, 0), side), second.narrow(dim, max(-off, 0), side)
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].nan_to_num(0.0))
