"""Colours of a profile -> sRGB, by Little CMS.

What has more than 8 bits is converted in floating point: the library's way for 16 bits goes through a coarse table, off
by up to 16 of 255 levels for a wide-gamut profile. Its way for 8 bits is off by half a level at most, and 25 times as
fast.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from udc_defense.errors import ImageError

ROWS = 512  # converted at a time, which bounds the memory
SPACES = {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4}  # as a profile's header names them: numbers of channels
NAMES = {1: "gray", 3: "rgb", 4: "cmyk"}
INK = 100  # of a floating-point CMYK is full
AS_SRGB = 0.25 / 255  # a profile that moves no colour by more is sRGB under another name

# Code points of ITU-T H.273, which AVIF, HEIC and PNG have in place of a profile. x and y of red, green and blue:
PRIMARIES = {
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060),  # BT.709, which are those of sRGB
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
D65 = (0.3127, 0.3290)
GAMMA = {4: 2.2, 5: 2.8, 8: 1.0}  # transfer functions that are powers; all the others count as sRGB's
HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}


def to_srgb(colours: np.ndarray, profile: bytes | None, *, eight_bit: bool = False) -> np.ndarray:
    """Grey, RGB or CMYK (H, W, 1, 3 or 4) in [0, 1], whole 255ths if `eight_bit`, as sRGB (H, W, 3), float32.

    What has no profile, or one that is broken or of another kind of colours, counts as sRGB; inks as complements.
    """
    channels = _channels(profile)
    if channels == 3 and colours.shape[-1] == 1:  # phones put an RGB profile into grey files
        colours = np.repeat(colours, 3, axis=-1)
    if profile is None or channels != colours.shape[-1] or _is_srgb(profile):
        return _plain(colours)
    converted = np.empty((*colours.shape[:2], 3), np.float32)
    for top in range(0, len(colours), ROWS):
        band = _converted(colours[top : top + ROWS], profile, eight_bit)
        if band is None:
            return _plain(colours)
        converted[top : top + ROWS] = band
    return converted


def _plain(colours: np.ndarray) -> np.ndarray:
    if colours.shape[-1] == 4:
        return (1 - colours[..., :3]) * (1 - colours[..., 3:])
    return np.repeat(colours, 3, axis=-1) if colours.shape[-1] == 1 else colours


def _channels(profile: bytes | None) -> int | None:
    """How many channels the colours of a profile have; None where that is not said or not known here."""
    return SPACES.get(profile[16:20]) if profile else None


def _converted(colours: np.ndarray, profile: bytes, eight_bit: bool = False) -> np.ndarray | None:
    """Through the profile; None where it is broken."""
    import imagecodecs

    space, srgb = NAMES[colours.shape[-1]], imagecodecs.cms_profile("srgb")
    kind: type[np.generic] = np.uint16 if eight_bit else np.float32
    full = 65535 if eight_bit else 1
    values = (colours * 255).round().astype(np.uint8) if eight_bit else colours * (INK if space == "cmyk" else 1)
    try:
        result = imagecodecs.cms_transform(
            np.ascontiguousarray(values), profile, srgb, colorspace=space, outcolorspace="rgb", outdtype=kind
        )
    except (RuntimeError, ValueError):  # CmsError is a RuntimeError
        return None
    # What sRGB cannot show is cut off; a broken curve may give what is no number.
    return np.nan_to_num((result.reshape(*colours.shape[:2], 3) / np.float32(full)).clip(0, 1))


@lru_cache(maxsize=4)
def _is_srgb(profile: bytes) -> bool:
    """Whether a profile of RGB leaves a grid of colours as it is, so that 8-bit levels need not become fractions."""
    if _channels(profile) != 3:
        return False
    axis = np.linspace(0, 1, 9, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(27, 27, 3)
    converted = _converted(grid, profile)
    return converted is not None and bool(np.abs(converted - grid).max() < AS_SRGB)


def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """An ICC profile for two code points of ITU-T H.273; None where they mean sRGB or nothing that is known here.

    Raises:
        ImageError: the transfer function is one of high dynamic range, whose values are no photo's.
    """
    if transfer in HIGH_DYNAMIC_RANGE:
        kind = HIGH_DYNAMIC_RANGE[transfer]
        raise ImageError(f"is a picture of high dynamic range ({kind}): export it for ordinary displays first.")
    if primaries not in PRIMARIES or (primaries == 1 and transfer not in GAMMA):
        return None
    return matrix_profile(PRIMARIES[primaries], D65, GAMMA.get(transfer))


def adobe_rgb() -> bytes:
    """The ICC profile of Adobe RGB (1998)."""
    return matrix_profile((0.64, 0.33, 0.21, 0.71, 0.15, 0.06), D65, 563 / 256)


def matrix_profile(primaries: tuple[float, ...], white: tuple[float, ...], gamma: float | None) -> bytes:
    """An ICC profile of RGB colours.

    Args:
        primaries: x and y of red, green and blue.
        white: x and y.
        gamma: light is value ** gamma; None is the curve of sRGB.
    """
    import imagecodecs

    value = np.linspace(0, 1, 4096)
    if gamma is None:
        light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    else:
        light = value**gamma
    x_y_1 = np.concatenate([np.reshape(primaries, (3, 2)), np.ones((3, 1))], axis=1)
    curve = (light * 65535).round().astype(np.uint16)
    return imagecodecs.cms_profile(
        "rgb", whitepoint=[*white, 1.0], primaries=x_y_1.ravel().tolist(), transferfunction=curve
    )
