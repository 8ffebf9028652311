"""TIFF files written byte by byte, so that no library's idea of a tag is in the way."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

SHORT, LONG, UNDEFINED, LONG8, IFD = 3, 4, 7, 16, 13
CODES = {1: "B", 2: "B", SHORT: "H", LONG: "I", UNDEFINED: "B", LONG8: "Q", IFD: "I"}


@dataclass
class Page:
    """A directory: its tags as {code: value, or values}, its strips or tiles, and the directories below it."""

    tags: dict[int, int | list[int] | bytes]
    segments: list[bytes]
    below: list[Page] = field(default_factory=list)
    tiled: bool = False


def tiff(*pages: Page, order: str = "<", big: bool = False) -> bytes:
    """The file of some pages."""
    magic = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    file = bytearray(magic + (struct.pack(order + "HHQ", 8, 0, 0) if big else bytes(4)))
    place = 8 if big else 4  # of the pointer to the next directory
    for page in pages:
        start, place_of_next = _append(file, page, order, big)
        struct.pack_into(order + ("Q" if big else "I"), file, place, start)
        place = place_of_next
    return bytes(file)


def _append(file: bytearray, page: Page, order: str, big: bool) -> tuple[int, int]:
    word, head, size = ("Q", "Q", 8) if big else ("I", "H", 4)
    offsets = []
    for segment in page.segments:
        offsets.append(len(file))
        file += segment
    tags = {324: offsets, 325: [len(segment) for segment in page.segments]} if page.tiled else {
        273: offsets, 279: [len(segment) for segment in page.segments]}  # fmt: skip
    tags |= page.tags
    if page.below:
        tags[330] = [_append(file, below, order, big)[0] for below in page.below]
    entries = b""
    for code in sorted(tags):
        kind, values = _values(code, tags[code])
        content = struct.pack(order + str(len(values)) + CODES[kind], *values)
        if len(content) > size:
            where, content = len(file), content
            file += content
            content = struct.pack(order + word, where)
        entries += struct.pack(order + "HH" + word, code, kind, len(values)) + content.ljust(size, b"\0")
    start = len(file)
    file += struct.pack(order + head, len(tags)) + entries
    place_of_next = len(file)
    file += bytes(size)
    return start, place_of_next


def _values(code: int, value: int | list[int] | bytes) -> tuple[int, list[int]]:
    if isinstance(value, bytes):
        return UNDEFINED, list(value)
    values = value if isinstance(value, list) else [value]
    return LONG if code in (256, 257, 273, 278, 279, 322, 323, 324, 325, 330) or max(values) > 65535 else SHORT, values


def packed(levels: np.ndarray, bits: int, order: str = "<") -> bytes:
    """(rows, samples) of `bits` each, most significant bit first, every row beginning on a byte."""
    if bits in (8, 16, 32, 64):
        return levels.astype(f"{order}u{bits // 8}").tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits(
        (levels.astype(np.int64)[..., None] >> shifts & 1).reshape(len(levels), -1).astype(np.uint8), axis=1
    ).tobytes()
