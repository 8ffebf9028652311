"""PNG files that are sound, though they have what makes readers stumble."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image
from png_writer import SIGNATURE, chunk, png

from udc_defense.errors import ImageError
from udc_defense.images import read_image

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3))
LONG = b"a" * 3_000_000
TEXTS = {
    "tEXt": chunk(b"tEXt", b"Comment\0" + LONG),
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LONG)),
    "iTXt": chunk(b"iTXt", b"Comment\0\0\0\0\0" + LONG),
    "packed iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(LONG)),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + LONG),
    "many": b"".join(chunk(b"tEXt", b"Key%d\0" % i + bytes([97]) * 900_000) for i in range(80)),
    "a profile of Exif": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(LONG)),
    "broken": chunk(b"zTXt", b"Raw profile type exif\0\0" + b"not packed at all"),
}


def levels(data: bytes) -> np.ndarray:
    return (read_image(data)[0].permute(1, 2, 0).numpy() * 255).round()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("text", TEXTS)
def test_texts_do_not_cost_the_picture(text: str, bits: int) -> None:
    stored = LEVELS * 257 if bits == 16 else LEVELS
    np.testing.assert_array_equal(levels(png(stored, TEXTS[text], bits=bits)), LEVELS)


def test_short_texts_may_turn_the_picture() -> None:
    """Programs without the chunk eXIf write the orientation as a text."""
    tags = Image.Exif()
    tags[0x0112] = 6
    exif = b"Exif\0\0" + tags.tobytes().removeprefix(b"Exif\0\0")
    profile = b"\nexif\n%8d\n" % len(exif) + exif.hex().encode() + b"\n"
    xmp = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    for text in (
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        chunk(b"tEXt", b"Raw profile type exif\0" + profile),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    ):
        np.testing.assert_array_equal(levels(png(LEVELS, text, TEXTS["tEXt"], bits=8)), np.rot90(LEVELS, -1))


ODD = {
    "a palette that is cut short": (3, [chunk(b"PLTE", bytes(10))]),
    "no palette": (3, []),
    "transparency of a palette that is too long": (3, [chunk(b"PLTE", bytes(6)), chunk(b"tRNS", bytes(400))]),
    "transparency cut short": (2, [chunk(b"tRNS", b"\0")]),
    "a resolution cut short": (2, [chunk(b"pHYs", b"\0\0")]),
    "a profile without a name": (2, [chunk(b"iCCP", b"")]),
    "a frame cut short": (2, [chunk(b"acTL", b"\0"), chunk(b"fcTL", b"\0\0")]),
    "a header cut short": (2, [chunk(b"IHDR", b"\0\0")]),
    "primaries cut short": (2, [chunk(b"cHRM", b"\0\0\0")]),
    "a code cut short": (2, [chunk(b"cICP", b"\x0c")]),
    "Exif cut short": (2, [chunk(b"eXIf", b"II*\0\x08")]),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_chunks_end_in_a_picture_or_in_a_sentence(kind: str) -> None:
    colour, extra = ODD[kind]
    header = chunk(b"IHDR", bytes([0, 0, 0, 9, 0, 0, 0, 6, 8, colour, 0, 0, 0]))
    rows = zlib.compress(bytes(6 * (1 + 9 * (3 if colour == 2 else 1))))
    data = SIGNATURE + header + b"".join(extra) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    try:
        assert read_image(data).shape == (1, 3, 6, 9)
    except ImageError as error:
        assert str(error) == "the image: damaged or truncated, it cannot be decoded."
