"""NumPy's .npy, and what the numbers of an array mean: integers count by their full scale, floats as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from udc_defense.errors import ImageError
from udc_defense.formats.picture import check_size, unit_floats


def read_array(path: Path | str, max_pixels: int) -> np.ndarray:
    """The array (H, W, 3) of a .npy file, of numbers of any kind.

    Raises:
        ImageError: why it is refused.
    """
    if not Path(path).is_file():
        raise ImageError("is no regular file.")  # NumPy would wait for a pipe
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # a header that promises too much allocates nothing
    except Exception as error:  # headers are Python, of which strangers write what they like
        raise ImageError("cannot be read as a NumPy array.") from error
    usable = array.ndim == 3 and array.shape[2] == 3 and array.size > 0 and array.dtype.kind in "fiu"
    if usable:
        check_size(array.shape[1], array.shape[0], max_pixels)
    if not (usable and np.isfinite(array).all()):
        raise ImageError(f"holds {array.dtype} {array.shape}, not finite values of shape (H, W, 3).")
    return np.array(array)


def unit_range(values: np.ndarray) -> np.ndarray:
    """Numbers as float32 in [0, 1]: unsigned integers over their full scale, floats as they are.

    Raises:
        ImageError: floats outside of [0, 1], or integers that have no full scale.
    """
    if values.dtype.kind == "f":
        return unit_floats(values)
    if values.dtype.kind != "u" or values.dtype.itemsize > 4:
        raise ImageError(f"holds {values.dtype}, whose white nobody knows: save it as uint8, uint16 or floats in 0…1.")
    full = np.float64(np.iinfo(values.dtype).max)
    return (values / full).astype(np.float32)


def light(values: np.ndarray) -> np.ndarray:
    """Numbers as linear light, float32.

    Raises:
        ImageError: they are integers, which have a scale that nobody knows.
    """
    if values.dtype.kind != "f":
        raise ImageError(f"holds {values.dtype}, whose light nobody knows: linear light is stored as floats.")
    return values.astype(np.float32)
