"""Files that are known by their first bytes and not read as photos: each is told what to do about it."""

from __future__ import annotations

from udc_defense.errors import ImageError
from udc_defense.formats import heif
from udc_defense.formats.tiff import RAW

LIGHT = "holds linear light, not a photo: it is read as a scene, and in pairs of the domain linear."
EXPORT = "export it as PNG, JPEG or TIFF first."

# Beginnings of files, and what they are.
REFUSED = {
    b"FUJIFILMCCD-RAW": RAW,
    b"IIRO": RAW,  # Olympus
    b"IIRS": RAW,
    b"MMOR": RAW,
    b"IIU\0": RAW,  # Panasonic
    b"II\x1a\0\0\0HEAPCCDR": RAW,  # Canon's CRW
    b"\0MRM": RAW,  # Minolta
    b"FOVb": RAW,  # Sigma
    b"\x76\x2f\x31\x01": LIGHT,  # OpenEXR
    b"#?RADIANCE": LIGHT,
    b"#?RGBE": LIGHT,
    b"\x93NUMPY": "is a NumPy array, which is read in pairs only.",
    b"\0\0\0\x0cjP  \r\n\x87\n": f"is JPEG 2000: {EXPORT}",
    b"\xff\x4f\xff\x51": f"is JPEG 2000: {EXPORT}",
    b"\0\0\0\x0cJXL \r\n\x87\n": f"is JPEG XL: {EXPORT}",
    b"\xff\x0a": f"is JPEG XL: {EXPORT}",
    b"8BPS": f"is a document of Photoshop: {EXPORT}",
    b"%PDF-": f"is a PDF: {EXPORT}",
}

READ = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")


def refuse(data: bytes) -> None:
    """Refuse what is known and not read.

    Raises:
        ImageError: what it is, and what to do.
    """
    if b"crx " in heif.brands(data):  # Canon's CR3
        raise ImageError(RAW)
    for beginning, reason in REFUSED.items():
        if data.startswith(beginning):
            raise ImageError(reason)


def is_heic(data: bytes) -> bool:
    """Whether a file is HEIC rather than AVIF, which the two families share the brand mif1 with."""
    found = heif.brands(data)
    return any(brand in heif.HEIC for brand in found) and not any(brand in heif.AVIF for brand in found)


def is_known(data: bytes) -> bool:
    """Whether it begins as a file that is read."""
    return data.startswith(READ) or bool(heif.brands(data))
