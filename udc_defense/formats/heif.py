"""AVIF and HEIC, which are boxes of ISO 14496-12: their kind, their code points of colour, and HEIC where it is had."""

from __future__ import annotations

import numpy as np

from udc_defense.errors import ImageError
from udc_defense.formats import colour
from udc_defense.formats.picture import Picture, check_size

AVIF = (b"avif", b"avis")
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
NO_HEIC = 'is HEIC, which is read where pillow-heif is installed: pip install "udc-defense[heif]".'
HEAD = 1 << 16  # bytes in which the properties of a picture stand


def brands(data: bytes) -> list[bytes]:
    """The brands of a file of this family, the major one first; none for any other file."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), 256)
    return [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]


def profile(data: bytes) -> bytes | None:
    """The ICC profile that a file without one describes by code points; None where they mean sRGB.

    Raises:
        ImageError: the picture is one of high dynamic range.
    """
    # Properties stand before the pixels, those of the picture itself before those of its thumbnail or gain map.
    at = data.find(b"colrnclx", 0, HEAD) + len(b"colrnclx")
    if at < len(b"colrnclx") or at + 4 > len(data):
        return None
    primaries, transfer = (int.from_bytes(data[place : place + 2], "big") for place in (at, at + 2))
    return colour.coded_profile(primaries, transfer)


def read_heic(data: bytes, max_pixels: int) -> Picture:
    """The main picture of a HEIC file, at its full depth.

    Raises:
        ImageError: why it is refused, such as that `pillow-heif` is missing.
        Exception: whatever the library makes of a damaged file.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(NO_HEIC) from error
    file = pillow_heif.open_heif(data, convert_hdr_to_8bit=False)
    width, height = file.size
    check_size(width, height, max_pixels)
    icc = file.info.get("icc_profile") or profile(data)
    stored, depth = np.asarray(file), int(file.info["bit_depth"])
    full = (2**depth - 1) << (8 * stored.itemsize - depth)  # more than 8 bits fill 16 from above
    values = stored.reshape(*stored.shape[:2], -1).astype(np.float32) / full
    if values.shape[2] in (2, 4):
        return Picture(values[..., :-1], values[..., -1:], icc, eight_bit=depth == 8)
    return Picture(values, None, icc, eight_bit=depth == 8)  # the library has turned it upright


def decode_deep_avif(data: bytes) -> np.ndarray | None:
    """The colours (H, W, C) in [0, 1] of an AVIF of 10 or 12 bits, which Pillow would cut to 8; None for 8."""
    at = data.find(b"av1C", 0, HEAD)
    high_depth, twelve = (
        (bool(data[at + 6] & bit) for bit in (0x40, 0x20)) if 0 < at < len(data) - 6 else (False, False)
    )
    if not high_depth:
        return None
    import imagecodecs

    stored = imagecodecs.avif_decode(data, index=0, numthreads=1)
    return stored.reshape(*stored.shape[:2], -1).astype(np.float32) / (4095 if twelve else 1023)
