"""The only door for untrusted images: path, bytes or PIL image <-> float tensor (1, 3, H, W) in [0, 1].

Pillow decodes the usual formats; `formats/` has what it would read wrong, cut to 8 bits or give up.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from udc_defense.errors import ImageError
from udc_defense.formats import heif, png, signatures, tiff
from udc_defense.formats.colour import adobe_rgb, to_srgb
from udc_defense.formats.content import read_content
from udc_defense.formats.opencv import decode_bytes
from udc_defense.formats.picture import Picture, check_size, unit_floats
from udc_defense.output import write_file

MAX_PIXELS = 16_000_000
MAX_BYTES = 1 << 30  # of a file
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "AVIF")  # of Pillow
NAMES = "PNG, JPEG, WEBP, BMP, TIFF, GIF, AVIF, HEIC"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif"}
BACKDROP = 0.5  # transparent pixels are composited over mid grey: hidden colours never show
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")


def read_image(source: Path | str | bytes | Image.Image, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Any image a stranger brings, upright, as sRGB.

    Honours EXIF orientation, colour profiles, 16-bit samples, palettes and transparency; an animation gives its first
    frame, a TIFF its first full-resolution page. The size is checked in the header, before a pixel is decoded.

    Args:
        source: a path, the bytes of a file, or an open PIL image.
        max_pixels: larger images are refused.

    Returns:
        float32 (1, 3, H, W) in [0, 1].

    Raises:
        ImageError: one sentence that says what is wrong with the image.
    """
    name = "the image" if isinstance(source, (bytes, Image.Image)) else str(source)
    data = None if isinstance(source, Image.Image) else read_file(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, for our own cap is lower, and of odd metadata
            picture = _of_pil(source, max_pixels) if data is None else _of_file(data, max_pixels)  # type: ignore[arg-type]
            return _to_tensor(picture)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error.__cause__
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: more pixels than the {max_pixels / 1e6:g} MP allowed.") from error
    except Exception as error:  # a damaged file makes the decoders raise whatever they like
        raise ImageError(f"{name}: damaged or truncated, it cannot be decoded.") from error


def read_file(path: Path | str | bytes) -> bytes:
    """The content of a file; bytes are one already.

    Raises:
        ImageError: it cannot be read, or is no regular file.
    """
    if isinstance(path, bytes):
        return path
    try:
        return read_content(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error


def _of_file(data: bytes, max_pixels: int) -> Picture:
    """By what the content is, whatever the file is called."""
    signatures.refuse(data)
    if data.startswith(tiff.MAGIC):
        return tiff.read_tiff(data, max_pixels)
    if signatures.is_heic(data):
        return heif.read_heic(data, max_pixels)
    profile = None
    if data.startswith(png.SIGNATURE):
        profile, data = png.profile(data), png.essential(data)
    elif heif.brands(data):
        profile = heif.profile(data)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if signatures.is_known(data):
            raise  # damaged
        raise ImageError(f"not an image in one of the formats {NAMES}.") from error
    return _of_pil(image, max_pixels, data, profile)


def _of_pil(image: Image.Image, max_pixels: int, data: bytes | None = None, profile: bytes | None = None) -> Picture:
    """An open image, its file where there is one, and the profile of a file that embeds none."""
    check_size(*image.size, max_pixels)
    profile = image.info.get("icc_profile") or profile or (adobe_rgb() if _says_adobe_rgb(image) else None)
    image.seek(0)
    image.load()  # truncated data fail here
    deep = None if data is None else _decode_deep(image, data)
    colours, alpha = _split(deep) if deep is not None else _samples(image)
    eight_bit = deep is None and image.mode not in ("F", "I", *SIXTEEN_BIT)
    return Picture(colours, alpha, profile, _orientation(image), eight_bit)


def _says_adobe_rgb(image: Image.Image) -> bool:
    """Whether EXIF says so; cameras that are set to Adobe RGB often embed no profile (DCF 2.0, 3.2.3.2)."""
    try:
        return (
            image.format in ("JPEG", "MPO") and image.getexif().get_ifd(0xA005).get(1) == "R03"
        )  # the interoperability index
    except Exception:  # whatever a broken tag block raises, it must not cost the photo
        return False


def _to_tensor(picture: Picture) -> Tensor:
    rgb = to_srgb(picture.colours, picture.profile, eight_bit=picture.eight_bit)
    if picture.alpha is not None:
        rgb = rgb * picture.alpha + BACKDROP * (1.0 - picture.alpha)
    array = np.ascontiguousarray(_rotate(rgb, picture.orientation), dtype=np.float32).clip(0.0, 1.0)
    return torch.from_numpy(array).permute(2, 0, 1)[None].contiguous()


def _split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours and alpha of (H, W, 1…4): the second of 2 channels and the fourth of 4 is alpha."""
    if values.shape[2] in (2, 4):
        return values[..., :-1], values[..., -1:]
    return values, None


def _samples(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours and alpha of an image as Pillow decodes it."""
    if image.mode == "F":
        return unit_floats(np.asarray(image))[..., None], None
    if image.mode == "I" or image.mode in SIXTEEN_BIT:
        return _sixteen_bit_grey(image)
    if image.mode == "LAB":
        raise ImageError("has CIELab colours, which are not read: convert it to RGB.")
    if image.has_transparency_data:
        mode = "LA" if image.mode in ("L", "LA") else "RGBA"
        return _split(np.asarray(image.convert(mode), dtype=np.float32) / 255.0)
    mode = image.mode if image.mode in ("L", "CMYK") else "RGB"
    values = np.asarray(image.convert(mode), dtype=np.float32) / 255.0
    return values.reshape(*values.shape[:2], -1), None


def _sixteen_bit_grey(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    array = np.asarray(image, dtype=np.float32)[..., None]
    low, high = array.min(), array.max()
    if low < 0 or high > 65535:  # mode I has 32 bits, of which Pillow itself writes 16
        raise ImageError(f"holds whole numbers from {low:.0f} to {high:.0f}, not in 0…65535.")
    hidden = image.info.get("transparency")  # one value stands for transparent
    return array / 65535.0, None if hidden is None else (array != hidden).astype(np.float32)


def _decode_deep(image: Image.Image, data: bytes) -> np.ndarray | None:
    """What Pillow would silently cut to 8 bits, as (H, W, C) in [0, 1]; None for any other."""
    if image.format == "AVIF":
        return heif.decode_deep_avif(data)
    if image.format != "PNG" or data[24:25] != b"\x10" or image.mode in ("I", *SIXTEEN_BIT):  # bit depth
        return None
    array = decode_bytes(data)
    if array is None or array.dtype != np.uint16:
        return None
    values = array.reshape(*array.shape[:2], -1).astype(np.float32) / 65535.0
    return values[..., [2, 1, 0, 3][: values.shape[2]]] if values.shape[2] > 1 else values


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1…8; 1 where there is none."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # whatever a broken tag block raises, it must not cost the photo
        return 1


def _rotate(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image (H, W, 3) upright as ImageOps.exif_transpose does, at any depth."""
    if orientation in (2, 4, 5, 7):
        array = array[:, ::-1]
    turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.rot90(array, turns)


def quantize(image: Tensor, bits: int = 8) -> Tensor:
    """Clamp to [0, 1] and round to the grid of an 8- or 16-bit file."""
    levels = 2**bits - 1
    return (image.clamp(0, 1) * levels).round() / levels


def quantize_towards(image: Tensor, anchor: Tensor) -> Tensor:
    """Put an attacked image on the 8-bit grid by rounding each value towards `anchor`, which lies on the grid.

    No perturbation grows: what held |δ| ≤ ε or an L2 bound before, holds it in the file.
    """
    levels = 255
    delta = (image.clamp(0, 1) - anchor) * levels
    whole = torch.trunc(delta + 1e-4 * delta.sign())  # float32 may put a whole step 1e-5 short
    return (anchor * levels + whole).round() / levels


def to_pil(image: Tensor) -> Image.Image:
    """(1, 3, H, W) or (3, H, W) in [0, 1] as an 8-bit PIL image."""
    array = (quantize(_single(image)) * 255).round().to(torch.uint8)
    return Image.fromarray(array.permute(1, 2, 0).cpu().numpy(), mode="RGB")


def write_png(image: Tensor, path: Path | str, *, bits: int = 8) -> None:
    """Write (1, 3, H, W) in [0, 1] as a lossless PNG of 8 or 16 bit, atomically.

    Raises:
        ImageError: it cannot be encoded.
        OutputError: the file cannot be written.
    """
    import cv2

    if bits not in (8, 16):
        raise ImageError(f"{bits} bits per channel: a PNG has 8 or 16.")
    levels = (quantize(_single(image), bits) * (2**bits - 1)).round().permute(1, 2, 0).cpu().numpy()
    done, data = cv2.imencode(".png", levels[..., ::-1].astype(np.uint8 if bits == 8 else np.uint16))
    if not done:
        raise ImageError(f"{path}: the image cannot be encoded.")
    write_file(path, data.tobytes())


def _single(image: Tensor) -> Tensor:
    return (image[0] if image.dim() == 4 else image).detach().float()
