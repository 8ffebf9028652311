"""Linear light: Radiance .hdr, OpenEXR, and TIFF of floats, as radiance of any size."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from udc_defense.errors import ImageError
from udc_defense.formats.opencv import decode_bytes
from udc_defense.formats.picture import check_size
from udc_defense.formats.tiff import MAGIC as TIFF
from udc_defense.formats.tiff import read_tiff

RADIANCE = (b"#?RADIANCE", b"#?RGBE")
EXR = b"\x76\x2f\x31\x01"
SUFFIXES = {".hdr", ".exr"}
MOST_CHANNELS = 8  # of a picture of the largest size
REC_709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)


def read_light(data: bytes, max_pixels: int) -> np.ndarray:
    """RGB (H, W, 3), float32; where a file says so, infinite or no number.

    Raises:
        ImageError: why it is refused.
    """
    if data.startswith(RADIANCE):
        return _radiance(data, max_pixels)
    if data.startswith(EXR):
        return _open_exr(data, max_pixels)
    if data.startswith(TIFF):
        return _float_tiff(data, max_pixels)
    raise ImageError("not a Radiance .hdr file, nor OpenEXR, nor a TIFF of floats.")


def _radiance(data: bytes, max_pixels: int) -> np.ndarray:
    head, _, body = data[:65_536].partition(b"\n\n")
    width, height = _radiance_size(body)
    check_size(width, height, max_pixels)
    if b"FORMAT=32-bit_rle_xyze" in head:
        raise ImageError("has XYZ colours, which are not read: convert it to RGB.")
    pixels = decode_bytes(data)
    if pixels is None or pixels.dtype != np.float32 or pixels.ndim != 3:
        raise ImageError("damaged, its pixels cannot be decoded.")
    exposure = _exposure(head)
    return pixels[..., ::-1] / exposure if exposure != 1 else pixels[..., ::-1]


def _radiance_size(body: bytes) -> tuple[int, int]:
    """Width and height from the line `-Y height +X width` that follows the header, before anything is decoded."""
    words = body.partition(b"\n")[0].split()
    if len(words) == 4 and words[0] == b"-Y" and words[2] == b"+X" and words[1].isdigit() and words[3].isdigit():
        return int(words[3][:9]), int(words[1][:9])
    raise ImageError("its header is not followed by a line '-Y height +X width'.")


def _exposure(head: bytes) -> np.float32:
    """What the light was multiplied by when it was stored; every line of it counts."""
    factors = [line.partition(b"=")[2] for line in head.split(b"\n") if line.startswith(b"EXPOSURE=")]
    try:
        product = np.float32(np.prod([float(factor) for factor in factors]))
    except ValueError:
        product = np.float32(np.nan)
    if not 0 < product < np.inf:
        raise ImageError("states an EXPOSURE that is no positive number.")
    return product


def _open_exr(data: bytes, max_pixels: int) -> np.ndarray:
    import OpenEXR

    try:
        # What it finds wrong it prints; what is missing then is found below. Its older InputFile crashes on such files.
        with contextlib.redirect_stdout(io.StringIO()):
            part, names = _checked_part(OpenEXR.File(io.BytesIO(data), header_only=True, num_threads=0), max_pixels)
            channels = OpenEXR.File(io.BytesIO(data), separate_channels=True, num_threads=0).channels(part)
        planes = [channels[name].pixels for name in names]
    except ImageError:
        raise
    except Exception as error:  # of a damaged file
        raise ImageError("damaged, its pixels cannot be decoded.") from error
    if any(plane.dtype.kind != "f" for plane in planes):
        raise ImageError("holds integers, whose light nobody knows: linear light is stored as floats.")
    pixels = np.stack(planes, axis=-1).astype(np.float32)
    return np.repeat(pixels, 3, axis=-1) if len(names) == 1 else pixels


def _checked_part(file: Any, max_pixels: int) -> tuple[int, list[str]]:
    """The first part that has colours, and their names; every part is decoded, so that all must be small enough."""
    values, found = 0, None
    for index in range(len(file.parts)):
        header = file.header(index)
        first, last = header["dataWindow"]
        width, height = (int(high) - int(low) + 1 for low, high in zip(first, last, strict=True))
        check_size(width, height, max_pixels)
        values += width * height * len(header["channels"])
        if values > MOST_CHANNELS * max_pixels:
            raise ImageError("has more layers than are read: keep the one with the colours.")
        if found is None and (names := _colours({channel.name for channel in header["channels"]})):
            _check_header(header)
            found = index, names
    if found is None:
        raise ImageError("has no channels R, G and B, nor light alone as Y.")
    return found


def _colours(names: set[str]) -> list[str]:
    if {"R", "G", "B"} <= names:
        return ["R", "G", "B"]
    return ["Y"] if "Y" in names and not {"RY", "BY"} & names else []


def _check_header(header: dict[str, Any]) -> None:
    if "deep" in str(header["type"]):
        raise ImageError("has deep samples, which are not read: flatten it.")
    if any((channel.xSampling, channel.ySampling) != (1, 1) for channel in header["channels"]):
        raise ImageError("has channels of fewer pixels than the picture.")
    if not all(map(np.array_equal, header["dataWindow"], header["displayWindow"])):
        raise ImageError("has a data window that is not its display window: crop or extend it first.")
    stated = np.ravel(header.get("chromaticities", REC_709))
    if stated.shape != (8,) or not np.abs(stated - REC_709).max() < 0.005:
        raise ImageError("has other primaries than Rec. 709: convert it first.")


def _float_tiff(data: bytes, max_pixels: int) -> np.ndarray:
    try:
        colours = read_tiff(data, max_pixels, linear=True).colours
    except ImageError:
        raise
    except Exception as error:
        raise ImageError("damaged or truncated, it cannot be decoded.") from error
    return np.repeat(colours, 3, axis=-1) if colours.shape[-1] == 1 else colours
