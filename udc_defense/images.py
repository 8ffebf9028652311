"""The only door for untrusted images: path, bytes or PIL image <-> float tensor (1, 3, H, W) in [0, 1].

Pillow decodes and enforces the formats; OpenCV reads 16-bit RGB PNG and Radiance, which Pillow cannot.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from udc_defense.errors import ImageError

MAX_PIXELS = 16_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
BACKDROP = 0.5  # transparent pixels are composited over mid grey: hidden colours never show
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I", "I;16N")


def read_image(source: Path | str | bytes | Image.Image, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Any image a stranger brings, upright, as RGB.

    Honours EXIF orientation, ICC profiles of CMYK files, 16-bit samples, palettes and transparency; an animation gives
    its first frame. The size is checked in the header, before a pixel is decoded.

    Args:
        source: a path, the bytes of a file, or an open PIL image.
        max_pixels: larger images are refused.

    Returns:
        float32 (1, 3, H, W) in [0, 1].

    Raises:
        ImageError: one sentence that says what is wrong with the image.
    """
    name = "the image" if isinstance(source, (bytes, Image.Image)) else str(source)
    data = None if isinstance(source, Image.Image) else _read_bytes(source, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, for our own cap is lower, and of odd metadata
            image = source if isinstance(source, Image.Image) else Image.open(io.BytesIO(data or b""), formats=FORMATS)
            _check_size(image, name, max_pixels)
            return _to_tensor(image, data)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: more pixels than the {max_pixels / 1e6:g} MP allowed.") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image in one of the formats {', '.join(FORMATS)}.") from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, ImageCms.PyCMSError) as error:
        raise ImageError(f"{name}: damaged or truncated, it cannot be decoded.") from error


def _read_bytes(source: Path | str | bytes, name: str) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: has no pixels.")
    if width * height > max_pixels:
        raise ImageError(f"{name}: {width}x{height} pixels, more than the {max_pixels / 1e6:g} MP allowed.")


def _to_tensor(image: Image.Image, data: bytes | None) -> Tensor:
    image.seek(0)
    image.load()  # truncated data fail here; a TIFF turns upright and loses its tag, as OpenCV turns it
    if image.mode in SIXTEEN_BIT:
        rgb = _sixteen_bit_grey(image)
    else:
        deep = None if data is None else _decode_deep(image, data)
        rgb = _eight_bit(image) if deep is None else deep
    rgb = _rotate(rgb, _orientation(image))
    array = np.ascontiguousarray(rgb, dtype=np.float32).clip(0.0, 1.0)
    return torch.from_numpy(array).permute(2, 0, 1)[None].contiguous()


def _sixteen_bit_grey(image: Image.Image) -> np.ndarray:
    array = np.asarray(image, dtype=np.float32)
    grey = array / 65535.0
    if (hidden := image.info.get("transparency")) is not None:  # one value stands for transparent
        grey[array == hidden] = BACKDROP
    return np.repeat(grey[..., None], 3, axis=-1)


def _eight_bit(image: Image.Image) -> np.ndarray:
    """8-bit modes to RGB in [0, 1]; alpha over grey; CMYK through its profile."""
    if image.mode == "CMYK":
        image = _through_profile(image)
    if image.has_transparency_data:
        array = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255.0
        return _over_grey(array)
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0


def _through_profile(image: Image.Image) -> Image.Image:
    """CMYK to sRGB by the file's own profile; the image as it is where that is missing or broken."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    except (KeyError, OSError, ImageCms.PyCMSError):
        return image


def _over_grey(rgba: np.ndarray) -> np.ndarray:
    return rgba[..., :3] * rgba[..., 3:] + BACKDROP * (1.0 - rgba[..., 3:])


def _decode_deep(image: Image.Image, data: bytes) -> np.ndarray | None:
    """16-bit colour PNGs and TIFFs, which Pillow would silently cut to 8 bit, as RGB in [0, 1]; None for any other."""
    if image.format == "PNG" and data[24:25] == b"\x10":  # bit depth, in the header chunk
        _check_chunks(data)
    elif image.format != "TIFF" or 16 not in getattr(image, "tag_v2", {}).get(258, ()):  # bits per sample
        return None
    array = decode_bytes(data)
    if array is None or array.dtype != np.uint16:
        return None
    deep = array.astype(np.float32) / 65535.0
    if deep.ndim == 2:
        return np.repeat(deep[..., None], 3, axis=-1)
    if deep.shape[2] == 4:
        return _over_grey(deep[..., [2, 1, 0, 3]])
    return deep[..., ::-1]


def _check_chunks(data: bytes) -> None:
    """OpenCV allocates what a PNG chunk claims as its length, gigabytes for a few hundred damaged bytes."""
    position = 8
    while data[position + 4 : position + 8] not in (b"IEND", b""):
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    if position > len(data):
        raise ValueError("a chunk is longer than the file")


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


def decode_bytes(data: bytes) -> np.ndarray | None:
    """OpenCV's decoding at full depth, channels as stored (BGR); None where it cannot."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # read when OpenCV is first imported
    import cv2

    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None


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
        ImageError: the file cannot be written.
    """
    import cv2

    if bits not in (8, 16):
        raise ImageError(f"{bits} bits per channel: a PNG has 8 or 16.")
    levels = (quantize(_single(image), bits) * (2**bits - 1)).round().permute(1, 2, 0).cpu().numpy()
    done, data = cv2.imencode(".png", levels[..., ::-1].astype(np.uint8 if bits == 8 else np.uint16))
    if not done:
        raise ImageError(f"{path}: the image cannot be encoded.")
    write_file(path, data.tobytes())


def write_file(path: Path | str, data: bytes) -> None:
    """Write a file in one step: a full disk or a kill leaves the old file, never half a new one."""
    path = Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}).") from error
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink()


def _single(image: Tensor) -> Tensor:
    return (image[0] if image.dim() == 4 else image).detach().float()
