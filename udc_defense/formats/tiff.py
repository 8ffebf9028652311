"""TIFF, classic and Big, by what its tags say: what is understood is converted exactly, the rest refused with a reason.

BitsPerSample, SampleFormat, PhotometricInterpretation, PlanarConfiguration and Compression decide before any pixel is
decoded. `docs/files.md` has the table, and the tests go through it.
"""

from __future__ import annotations

import io
import itertools
import logging
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from udc_defense.errors import ImageError
from udc_defense.formats.picture import Picture, check_size, unit_floats

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_PAGES = 64  # looked at for the photo
MAX_SAMPLES = 8  # per pixel
MAX_SEGMENTS = 1_000_000  # strips or tiles
MAX_VALUES = 4_000_000  # of all tags together, since tifffile makes a Python object of each
RAW = "is a camera's raw file: develop it first, for instance to a 16-bit TIFF or PNG."

# What decodes into as many bytes as were announced. Pictures inside of the picture (JPEG 2000, PNG, WebP, …) do not.
COMPRESSIONS = {
    1: "none", 2: "CCITT RLE", 3: "CCITT G3", 4: "CCITT G4", 5: "LZW", 7: "JPEG", 8: "Deflate", 32773: "PackBits",
    32946: "Deflate", 34925: "LZMA", 50000: "Zstandard",
}  # fmt: skip
JPEG = 7
RAW_COMPRESSIONS = {32767, 32769, 32770, 34713, 34316, 65000, 65535}  # Sony, Epson, Samsung, Nikon, Kodak, Pentax
PHOTOMETRIC = {
    0: "WhiteIsZero", 1: "BlackIsZero", 2: "RGB", 3: "palette", 4: "transparency mask", 5: "separated inks", 6: "YCbCr",
    8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "colour filter array", 32844: "LogL", 32845: "LogLuv",
    34892: "linear raw",
}  # fmt: skip
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}  # samples of a pixel that are its colour
UNSIGNED, FLOAT = 1, 3
SAMPLE_FORMATS = {2: "signed integers", 4: "samples of no stated kind", 5: "complex integers", 6: "complex numbers"}
PREMULTIPLIED, UNASSOCIATED = 1, 2


def read_tiff(data: bytes, max_pixels: int, *, linear: bool = False) -> Picture:
    """The first full-resolution page of a TIFF.

    Args:
        data: the file.
        max_pixels: larger pages are refused.
        linear: the samples must be floats, and are light of any size rather than values in [0, 1].

    Raises:
        ImageError: why it is refused.
        Exception: whatever tifffile makes of a damaged file.
    """
    import tifffile

    if data[8:10] == b"CR":  # Canon's CR2
        raise ImageError(RAW)
    _check_directories(data)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # what it finds is said in our sentence
    # The dialects of microscopes would change how pages are read.
    with tifffile.TiffFile(
        io.BytesIO(data), _multifile=False, _useframes=False, is_lsm=False, is_scanimage=False, is_ndpi=False
    ) as file:
        page = _photo(file)
        check_size(page.imagewidth, page.imagelength, max_pixels)
        _check_samples(page, linear)
        _check_storage(page, data, max_pixels)
        return _picture(page, linear)


def _check_directories(data: bytes) -> None:
    """Refuse more tag values than any photo has, before each of them becomes an object."""
    # Bytes and text stay one object, and what cannot be in the file is not read.
    counts = (count for _, kind, count in _entries(data) if kind not in (1, 2, 7) and count <= len(data))
    if (values := sum(counts)) > MAX_VALUES:
        raise ImageError(f"has {values} values in its tags, more than any photo.")


def _entries(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Tag, type and count of every entry of the directories, those of SubIFDs too."""
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    word, head, size = (order + "Q", order + "Q", 8) if big else (order + "I", order + "H", 4)
    waiting, seen = [_number(data, size, word)], set[int]()
    while waiting and len(seen) < 4 * MAX_PAGES:
        start = waiting.pop()
        if start in seen or not 8 <= start < len(data):
            continue
        seen.add(start)
        length, first, step = _number(data, start, head), start + struct.calcsize(head), 4 + 2 * size
        for at in range(first, min(first + length * step, len(data) - step + 1), step):
            tag, kind, count = struct.unpack_from(order + "HH" + word[1], data, at)
            yield tag, kind, count
            if tag == 330 and count <= MAX_PAGES:  # SubIFDs
                inside = at + 4 + size if count == 1 else _number(data, at + 4 + size, word)
                waiting += [_number(data, inside + size * i, word) for i in range(count)]
        waiting.append(_number(data, first + length * step, word))


def _number(data: bytes, at: int, kind: str) -> int:
    """A number of the file; 0, which is no place of a directory, beyond its end."""
    return struct.unpack_from(kind, data, at)[0] if at + struct.calcsize(kind) <= len(data) else 0


def _photo(file: TiffFile) -> TiffPage:
    """The first page that is neither a reduced copy nor a mask; the largest, where all of them say that they are."""
    pages = list(itertools.islice(_pages(file), MAX_PAGES))
    if any(map(_is_raw, pages)):
        raise ImageError(RAW)
    full = [page for page in pages if not _is_reduced(page)]
    return full[0] if full else max(pages, key=lambda page: page.imagewidth * page.imagelength)


def _pages(file: TiffFile) -> Iterator[TiffPage]:
    """Each page, followed by the pages below it."""
    from tifffile import TiffPage

    for page in file.pages:
        yield from (found for found in (page, *(page.pages or ())) if isinstance(found, TiffPage))


def _is_raw(page: TiffPage) -> bool:
    return (
        "DNGVersion" in page.tags
        or page.photometric in (32803, 34892)
        or page.compression in RAW_COMPRESSIONS
        or 33422 in page.tags  # CFAPattern of TIFF/EP
    )


def _is_reduced(page: TiffPage) -> bool:
    return bool(page.subfiletype & 0b101)  # bit 0: a thumbnail, bit 2: a mask; tifffile has the old tag here too


def _check_samples(page: TiffPage, linear: bool) -> None:
    """What the samples are, by their tags alone."""
    photometric, bits, kind = int(page.photometric), page.bitspersample, page.sampleformat
    if 262 not in page.tags:
        raise ImageError("does not say what its samples mean (PhotometricInterpretation).")
    if page.imagedepth != 1:
        raise ImageError("is a volume, not a picture.")
    if photometric not in COLOURS:
        raise ImageError(f"has colours of a kind that is not read (PhotometricInterpretation {_named(photometric)}).")
    if not isinstance(bits, int):
        raise ImageError(f"has samples of different depths (BitsPerSample {', '.join(map(str, bits))}).")
    if kind not in (UNSIGNED, FLOAT):
        raise ImageError(f"holds {SAMPLE_FORMATS.get(kind, kind)}: save it as unsigned integers or as floats in 0…1.")
    if kind == FLOAT and (bits not in (16, 24, 32, 64) or photometric not in (0, 1, 2)):
        raise ImageError(f"holds {bits}-bit floats as {_named(photometric)}, which is not read.")
    if kind == UNSIGNED and bits not in (*range(1, 17), 32):
        raise ImageError(f"has {bits} bits per sample; 1 to 16 and 32 are read.")
    if linear and kind != FLOAT:
        raise ImageError("holds integers, whose light nobody knows: linear light is stored as floats.")
    _check_channels(page, photometric)
    if photometric == 6 and page.compression != JPEG:
        raise ImageError("holds YCbCr without JPEG compression, which is not read: save it as RGB.")
    if photometric == 5 and page.tags.valueof(332, 1) != 1:  # InkSet
        raise ImageError("has inks other than CMYK.")


def _named(photometric: int) -> str:
    return f"{photometric}, {PHOTOMETRIC[photometric]}" if photometric in PHOTOMETRIC else str(photometric)


def _check_channels(page: TiffPage, photometric: int) -> None:
    samples, colours = page.samplesperpixel, COLOURS[photometric]
    if not colours <= samples <= MAX_SAMPLES:
        raise ImageError(f"has {samples} samples per pixel for {PHOTOMETRIC[photometric]}.")
    # Further samples of RGB are nobody's colour (infrared, depth); of grey they may be what the picture is about.
    if colours == 1 and samples > 1 and not _alpha_kind(page):
        raise ImageError(f"has {samples} samples per pixel without saying which are its colours.")


def _alpha_kind(page: TiffPage) -> int:
    """PREMULTIPLIED, UNASSOCIATED, or 0 where the sample after the colours is no alpha."""
    kinds = page.extrasamples
    return int(kinds[0]) if kinds and kinds[0] in (PREMULTIPLIED, UNASSOCIATED) else 0


def _check_storage(page: TiffPage, data: bytes, max_pixels: int) -> None:
    """How the samples are stored: nothing may decode into more than was announced, and nothing may be missing."""
    if page.compression not in COMPRESSIONS:
        known = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise ImageError(f"is compressed in a way that is not read ({int(page.compression)}); these are: {known}.")
    if page.planarconfig not in (1, 2):
        raise ImageError(f"has an unknown PlanarConfiguration ({page.planarconfig}).")
    if page.is_tiled:
        if page.tilewidth * page.tilelength > max(max_pixels, 1):
            raise ImageError(f"has tiles of {page.tilewidth}x{page.tilelength} pixels, more than a whole picture may.")
    elif page.rowsperstrip < 1:
        raise ImageError("has strips without rows.")
    needed = _segments(page)
    if needed > MAX_SEGMENTS or min(len(page.dataoffsets), len(page.databytecounts)) < needed:
        raise ImageError(f"lacks strips or tiles: {needed} are needed and {len(page.dataoffsets)} listed.")
    stored = list(zip(page.dataoffsets[:needed], page.databytecounts[:needed], strict=True))
    if any(offset < 8 or count < 1 or offset + count > len(data) for offset, count in stored):
        raise ValueError("a strip or tile lies outside of the file")
    if page.compression == JPEG and any(not _fits(data[start : start + size], page) for start, size in stored):
        raise ValueError("a JPEG inside of the file is larger than its strip or tile")


def _segments(page: TiffPage) -> int:
    """How many strips or tiles the picture has."""
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    if not page.is_tiled:
        return planes * -(-page.imagelength // page.rowsperstrip)
    return planes * -(-page.imagelength // page.tilelength) * -(-page.imagewidth // page.tilewidth)


def _fits(jpeg: bytes, page: TiffPage) -> bool:
    """Whether a JPEG's own frame header announces no more than one strip or tile."""
    if page.is_tiled:
        most = page.tilelength, page.tilewidth
    else:
        most = min(page.rowsperstrip, page.imagelength), page.imagewidth
    position = 2
    while position + 9 <= len(jpeg) and jpeg[position] == 0xFF:
        marker = jpeg[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header, not a table
            height, width = (int.from_bytes(jpeg[position + at : position + at + 2], "big") for at in (5, 7))
            # An encoder may fill up to whole blocks.
            return height <= most[0] + 16 and width <= most[1] + 16
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return False


def _picture(page: TiffPage, linear: bool) -> Picture:
    values = _samples(page)
    photometric, count = int(page.photometric), COLOURS[int(page.photometric)]
    if photometric == 3:
        colours = _palette(page)[values[..., 0].astype(np.uint16)]
    elif linear:
        colours = values[..., :count].astype(np.float32)
    else:
        colours = _unit(values[..., :count], page)
    if photometric == 0:
        colours = 1 - colours
    alpha = _unit(values[..., count : count + 1], page) if _alpha_kind(page) and not linear else None
    if alpha is not None and _alpha_kind(page) == PREMULTIPLIED:
        colours = np.divide(colours, alpha, out=np.zeros_like(colours), where=alpha > 0).clip(0, 1)
    # The colours of a palette have 16 bits, and dividing by alpha leaves no whole levels.
    eight_bit = page.bitspersample == 8 and photometric != 3 and _alpha_kind(page) != PREMULTIPLIED
    return Picture(colours, alpha, _profile(page), int(page.tags.valueof(274, 1)), eight_bit)


def _samples(page: TiffPage) -> np.ndarray:
    """All samples as stored (H, W, samples)."""
    stored = page.asarray(squeeze=False, maxworkers=1)
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        return np.moveaxis(stored[:, 0, :, :, 0], 0, -1)
    return stored[0, 0]


def _unit(values: np.ndarray, page: TiffPage) -> np.ndarray:
    """Samples over their full scale."""
    if page.sampleformat == FLOAT:
        return unit_floats(values)
    full = 2**page.bitspersample - 1
    # 32 bits have more digits than a float32.
    return values.astype(np.float32) / np.float32(full) if full < 2**24 else (values / full).astype(np.float32)


def _palette(page: TiffPage) -> np.ndarray:
    """The colours of a palette (entries, 3) in [0, 1]; some writers give it 8 bits where the format has 16."""
    table = page.colormap
    if table is None or table.shape != (3, 2**page.bitspersample):
        raise ImageError("has a palette without its colours.")
    return (table.T / (255 if table.max() < 256 else 65535)).astype(np.float32)


def _profile(page: TiffPage) -> bytes | None:
    profile = page.tags.valueof(34675)
    return profile if isinstance(profile, bytes) else None
