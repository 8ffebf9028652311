"""AVIF, which Pillow brings, and HEIC, which an extra brings."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from udc_defense.errors import ImageError
from udc_defense.images import read_image

RAMP = np.stack([np.linspace(0, 1, 64)[None].repeat(48, 0)] * 3, axis=-1)
EIGHT = (RAMP * 255).round().astype(np.uint8)


def pixels(data: bytes) -> np.ndarray:
    return read_image(data)[0].permute(1, 2, 0).numpy()


def avif(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "AVIF", quality=100, subsampling="4:4:4", **options)
    return file.getvalue()


class TestAvif:
    def test_ramp(self) -> None:
        np.testing.assert_allclose(pixels(avif(Image.fromarray(EIGHT))), EIGHT / 255, atol=1.5 / 255)

    def test_orientation(self) -> None:
        tags = Image.Exif()
        tags[0x0112] = 6
        turned = pixels(avif(Image.fromarray(EIGHT), exif=tags))
        np.testing.assert_allclose(turned, np.rot90(EIGHT, -1) / 255, atol=1.5 / 255)

    def test_transparency(self) -> None:
        rgba = np.dstack([EIGHT, np.full(EIGHT.shape[:2], 51, np.uint8)])
        np.testing.assert_allclose(pixels(avif(Image.fromarray(rgba))), 0.2 * EIGHT / 255 + 0.4, atol=1 / 255)

    @pytest.mark.parametrize("bits", [10, 12])
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_every_level_of_more_than_8_bits(self, bits: int, channels: int) -> None:
        import imagecodecs

        levels = np.random.default_rng(0).integers(0, 2**bits, (16, 24, channels)).astype(np.uint16)
        levels[..., 3:] = 2**bits - 1
        data = imagecodecs.avif_encode(
            levels if channels > 1 else levels[..., 0], level=100, bitspersample=bits,
            pixelformat="444" if channels > 1 else "400",
        )  # fmt: skip
        stored = np.broadcast_to(levels[..., :3], (16, 24, 3))
        np.testing.assert_allclose(pixels(data) * (2**bits - 1), stored, atol=0.01)

    def test_size_is_checked(self) -> None:
        with pytest.raises(ImageError, match="64x48 pixels, more than"):
            read_image(avif(Image.fromarray(EIGHT)), max_pixels=1000)


class TestHeic:
    @pytest.fixture
    def library(self) -> object:
        return pytest.importorskip("pillow_heif", reason="the extra heif is not installed")

    @staticmethod
    def encode(library: object, levels: np.ndarray, mode: str, **options: object) -> bytes:
        file, size = io.BytesIO(), (levels.shape[1], levels.shape[0])
        heif = library.from_bytes(mode=mode, size=size, data=levels.tobytes())  # type: ignore[attr-defined]
        heif.save(file, quality=-1, matrix_coefficients=0, chroma=444, **options)
        return file.getvalue()

    def test_ramp(self, library: object) -> None:
        np.testing.assert_allclose(pixels(self.encode(library, EIGHT, "RGB")), EIGHT / 255, atol=1e-6)

    def test_ten_bits(self, library: object) -> None:
        levels = (RAMP * 65535).astype(np.uint16)
        data = self.encode(library, levels, "RGB;16")
        np.testing.assert_allclose(pixels(data), np.floor(RAMP * 65535 / 64) / 1023, atol=1e-4)

    def test_transparency(self, library: object) -> None:
        rgba = np.dstack([EIGHT, np.full(EIGHT.shape[:2], 51, np.uint8)])
        np.testing.assert_allclose(pixels(self.encode(library, rgba, "RGBA")), 0.2 * EIGHT / 255 + 0.4, atol=2 / 255)

    def test_profile_and_orientation(self, library: object) -> None:
        """As phones write them: Display P3, turned."""
        from udc_defense.formats.colour import coded_profile

        flat = np.full((48, 64, 3), (200, 60, 60), np.uint8)
        flat[:, 32:] = (60, 60, 200)
        tags = Image.Exif()
        tags[0x0112] = 6
        read = pixels(self.encode(library, flat, "RGB", icc_profile=coded_profile(12, 13), exif=tags.tobytes())) * 255
        assert read.shape == (64, 48, 3)
        np.testing.assert_allclose(read[8, 24], (217, 42, 52), atol=0.6)
        np.testing.assert_allclose(read[56, 24], (60, 60, 208), atol=0.6)

    def test_size_is_checked(self, library: object) -> None:
        with pytest.raises(ImageError, match="64x48 pixels, more than"):
            read_image(self.encode(library, EIGHT, "RGB"), max_pixels=1000)

    def test_truncated(self, library: object) -> None:
        with pytest.raises(ImageError, match="damaged or truncated"):
            read_image(self.encode(library, EIGHT, "RGB")[:-200])

    def test_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        for brand in (b"heic", b"mif1", b"heix"):
            data = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(100)
            with pytest.raises(ImageError, match=r'the image: is HEIC.*pip install "udc-defense\[heif\]"\.$'):
                read_image(data)
