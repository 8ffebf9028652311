"""PNG, chunk by chunk: what Pillow stumbles over or passes by."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from udc_defense.formats import colour

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT = (b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"IDAT", b"IEND")
TEXT = (b"tEXt", b"zTXt", b"iTXt")
ORIENTED = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts that may turn the picture
LONGEST_TEXT = 1 << 18
SRGB_GAMMA, TOLERANCE = 1 / 2.2, 0.02  # a file of this gamma means the curve of sRGB


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, content and the whole of each chunk up to the last.

    Raises:
        ValueError: one is longer than the file. OpenCV would allocate what it claims.
    """
    position = len(SIGNATURE)
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4].ljust(4, b"\0"))
        end = position + 12 + length
        if end > len(data):
            raise ValueError("a chunk is longer than the file")
        yield data[position + 4 : position + 8], data[position + 8 : end - 4], data[position:end]
        if data[position + 4 : position + 8] == b"IEND":
            return
        position = end


def essential(data: bytes) -> bytes:
    """The file without what says nothing of its pixels: at long texts, for one, Pillow gives the picture up."""
    kept = (whole for name, content, whole in chunks(data) if name in KEPT or _is_orientation(name, content))
    return SIGNATURE + b"".join(kept)


def _is_orientation(name: bytes, content: bytes) -> bool:
    """Whether it is a short text that may say how the picture is turned."""
    if name not in TEXT or not content.startswith(ORIENTED) or len(content) > LONGEST_TEXT:
        return False
    if name == b"tEXt":
        return True
    keyword, _, rest = content.partition(b"\0")
    if name == b"iTXt" and rest[:1] == b"\0":
        return True
    packed = rest[1:] if name == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    unpacker = zlib.decompressobj()
    try:
        return len(unpacker.decompress(packed, LONGEST_TEXT)) < LONGEST_TEXT
    except zlib.error:
        return False


def profile(data: bytes) -> bytes | None:
    """The ICC profile that a PNG without one describes by other chunks; None where that is sRGB.

    Raises:
        ImageError: the picture is one of high dynamic range.
    """
    found = {name: content for name, content, _ in chunks(data) if name in (b"cICP", b"sRGB", b"gAMA", b"cHRM")}
    if len(code := found.get(b"cICP", b"")) == 4:
        return colour.coded_profile(code[0], code[1])
    if b"sRGB" in found:
        return None
    return _calibrated(found.get(b"gAMA", b""), found.get(b"cHRM", b""))


def _calibrated(gamma: bytes, chromaticities: bytes) -> bytes | None:
    """A profile of the chunks gAMA and cHRM; most programs write those of sRGB."""
    power = struct.unpack(">I", gamma)[0] / 100_000 if len(gamma) == 4 else SRGB_GAMMA
    points = np.array(struct.unpack(">8I", chromaticities)) / 100_000 if len(chromaticities) == 32 else None
    usual = np.array([*colour.D65, *colour.PRIMARIES[1]])
    same_points = points is None or bool(np.abs(points - usual).max() < 0.005)
    same_gamma = abs(power - SRGB_GAMMA) < TOLERANCE
    if (same_points and same_gamma) or not 0.1 < power < 10:
        return None
    white_red_green_blue = usual if points is None else points
    if not ((white_red_green_blue > 0) & (white_red_green_blue < 1)).all():
        return None
    white, primaries = tuple(white_red_green_blue[:2].tolist()), tuple(white_red_green_blue[2:].tolist())
    try:
        return colour.matrix_profile(primaries, white, None if same_gamma else 1 / power)
    except RuntimeError:  # points that span no colours
        return None
