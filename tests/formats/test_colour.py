"""Colours of a profile become sRGB, whatever the file and its depth."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin
from png_writer import chunk, png

from udc_defense.errors import ImageError
from udc_defense.formats.colour import adobe_rgb, coded_profile, matrix_profile, to_srgb
from udc_defense.images import read_image

P3 = coded_profile(12, 13)
PATCHES = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])
IN_SRGB = np.array([[217, 42, 52], [0, 203, 11], [60, 60, 208]])
# Wide enough for the blocks of JPEG and AVIF.
FLAT = np.repeat(np.repeat(PATCHES[None], 16, axis=1), 16, axis=0).astype(np.uint8)


def patches(source: bytes | Image.Image) -> np.ndarray:
    """The centre of each patch, in 255ths."""
    return read_image(source)[0].permute(1, 2, 0).numpy()[8, 8::16] * 255


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# A profile rounds its matrix to 1/65536 of light, which is 1/5000 of a dark value of sRGB.
ROUNDED = 48 / 65535


def by_formula(colours: np.ndarray) -> np.ndarray:
    """Display P3 to sRGB by their definitions: the curve is sRGB's, the primaries differ."""
    to_xyz = np.array([[0.4865709, 0.2656677, 0.1982173], [0.2289746, 0.6917385, 0.0792869], [0, 0.0451134, 1.0439444]])
    from_xyz = np.array([[3.2409699, -1.5373832, -0.4986108], [-0.9692436, 1.8759675, 0.0415551],
                         [0.0556301, -0.2039770, 1.0569715]])  # fmt: skip
    light = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    light = (light @ to_xyz.T @ from_xyz.T).clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


class TestProfilesOfFiles:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
    def test_display_p3_of_8_bits(self, kind: str) -> None:
        options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0},
                   "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(kind, {})  # fmt: skip
        data = encode(Image.fromarray(FLAT), kind, icc_profile=P3, **options)
        np.testing.assert_allclose(patches(data), IN_SRGB, atol={"JPEG": 2.5, "AVIF": 8}.get(kind, 0.55))

    def test_open_image(self) -> None:
        opened = Image.open(io.BytesIO(encode(Image.fromarray(FLAT), "PNG", icc_profile=P3)))
        np.testing.assert_allclose(patches(opened), IN_SRGB, atol=0.55)

    def test_display_p3_of_16_bits(self) -> None:
        """Every level counts: the usual shortcut of Little CMS would be off by a thousand of them."""
        levels = np.random.default_rng(0).integers(0, 65536, (40, 40, 3))
        data = png(levels, chunk(b"iCCP", b"P3\0\0" + zlib.compress(P3)))
        read = read_image(data)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(read, by_formula(levels / 65535), atol=ROUNDED)

    def test_every_level_of_8_bits(self) -> None:
        """Within half a level, and on average within a fiftieth."""
        levels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        read = read_image(encode(Image.fromarray(levels), "PNG", icc_profile=P3))[0].permute(1, 2, 0).numpy()
        wrong = np.abs(read - by_formula(levels / 255)) * 255
        assert wrong.max() < 0.6 and wrong.mean() < 0.02

    def test_transparency_is_mid_grey_of_srgb(self) -> None:
        rgba = np.concatenate([FLAT, np.full((16, 48, 1), 102, np.uint8)], axis=-1)
        data = encode(Image.fromarray(rgba), "PNG", icc_profile=P3)
        np.testing.assert_allclose(patches(data), 0.4 * IN_SRGB + 0.6 * 127.5, atol=0.3)

    def test_palette(self) -> None:
        image = Image.fromarray(np.arange(48, dtype=np.uint8)[None].repeat(16, 0) // 16, mode="P")
        image.putpalette(PATCHES.ravel().tolist())
        np.testing.assert_allclose(patches(encode(image, "PNG", icc_profile=P3)), IN_SRGB, atol=0.55)

    def test_grey_of_an_rgb_profile(self) -> None:
        image = Image.new("L", (16, 16), 120)
        read = read_image(encode(image, "PNG", icc_profile=P3))[0, :, 8, 8] * 255
        np.testing.assert_allclose(read, [120] * 3, atol=0.5)

    @pytest.mark.parametrize("mode", ["L", "LA"])
    def test_profile_of_grey(self, mode: str) -> None:
        """Light that is stored as it is: 0.2 of it is 0.48 of sRGB."""
        import imagecodecs

        linear = imagecodecs.cms_profile("gray", gamma=1.0)
        image = Image.new("L", (16, 16), 51).convert(mode)
        read = read_image(encode(image, "PNG", icc_profile=linear))[0, :, 8, 8]
        np.testing.assert_allclose(read, [1.055 * 0.2 ** (1 / 2.4) - 0.055] * 3, atol=0.002)

    def test_profile_of_srgb_changes_no_level(self) -> None:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        with_profile = read_image(encode(Image.fromarray(levels), "PNG", icc_profile=profile))
        assert (with_profile == read_image(Image.fromarray(levels))).all()

    @pytest.mark.parametrize("profile", [b"garbage", P3[:300], P3[:16] + b"Lab " + P3[20:], P3[:128] + bytes(400)])
    def test_broken_profile_is_none(self, profile: bytes) -> None:
        np.testing.assert_allclose(patches(encode(Image.fromarray(FLAT), "PNG", icc_profile=profile)), PATCHES)

    @pytest.mark.parametrize("index", ["R03", "R98", None])
    def test_adobe_rgb_of_a_camera(self, index: str | None) -> None:
        """Cameras say it in the tag of interoperability and embed no profile."""
        tags = Image.Exif()
        tags[0x0112] = 1
        if index:
            interoperability = TiffImagePlugin.ImageFileDirectory_v2()
            interoperability[1] = index
            tags[0x8769] = {0xA001: 65535, 0xA005: dict(interoperability)}
        data = encode(Image.fromarray(FLAT), "JPEG", quality=100, subsampling=0, exif=tags)
        expected = to_srgb(FLAT / np.float32(255), adobe_rgb())[8, 8::16] * 255 if index == "R03" else PATCHES
        np.testing.assert_allclose(patches(data), expected, atol=2.5)


class TestCodePoints:
    """What AVIF and PNG say of their colours where they have no profile."""

    @pytest.mark.parametrize("bits", [8, 10, 12])
    def test_avif(self, bits: int) -> None:
        import imagecodecs

        full = 2**bits - 1
        levels = (FLAT / 255 * full).round().astype(np.uint8 if bits == 8 else np.uint16)
        data = imagecodecs.avif_encode(levels, level=100, bitspersample=bits, pixelformat="444")
        plain = data.replace(b"colrnclx\0\2\0\2", b"colrnclx\0\1\0\x0d")
        np.testing.assert_allclose(patches(plain), levels[8, 8::16] / full * 255, atol=1e-3)
        coded = data.replace(b"colrnclx\0\2\0\2", b"colrnclx\0\x0c\0\x0d")
        assert coded != data
        np.testing.assert_allclose(patches(coded), IN_SRGB, atol=0.6)

    @pytest.mark.parametrize("bits", [8, 16])
    def test_png(self, bits: int) -> None:
        levels = FLAT.astype(int) * (257 if bits == 16 else 1)
        data = png(levels, chunk(b"cICP", bytes([12, 13, 0, 1])), bits=bits)
        np.testing.assert_allclose(patches(data), IN_SRGB, atol=0.55)

    @pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
    def test_high_dynamic_range_is_refused(self, transfer: int, name: str) -> None:
        with pytest.raises(ImageError, match=rf"high dynamic range \({name}\).*\.$"):
            read_image(png(FLAT, chunk(b"cICP", bytes([9, transfer, 0, 1])), bits=8))


def chromaticities(*points: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(point * 100_000) for point in points)))


class TestGammaOfPng:
    SRGB = chromaticities(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
    WIDE = chromaticities(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)

    @staticmethod
    def gamma(value: float) -> bytes:
        return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))

    def test_what_most_programs_write_is_srgb(self) -> None:
        np.testing.assert_allclose(patches(png(FLAT, self.gamma(0.45455), self.SRGB, bits=8)), PATCHES, atol=1e-4)

    def test_light_as_it_is(self) -> None:
        light = (PATCHES / 255).astype(np.float64)
        expected = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255
        np.testing.assert_allclose(patches(png(FLAT, self.gamma(1), bits=8)), expected, atol=0.1)

    def test_primaries(self) -> None:
        data = png(FLAT, self.gamma(0.45455), self.WIDE, bits=8)
        np.testing.assert_allclose(patches(data), IN_SRGB, atol=0.55)

    def test_the_chunk_srgb_stands_above(self) -> None:
        data = png(FLAT, self.gamma(1), self.WIDE, chunk(b"sRGB", b"\0"), bits=8)
        np.testing.assert_allclose(patches(data), PATCHES, atol=1e-4)

    @pytest.mark.parametrize("content", [b"", b"\0\0\0\0", b"\xff\xff\xff\xff", b"12345"])
    def test_nonsense_is_passed_over(self, content: bytes) -> None:
        data = png(FLAT, chunk(b"gAMA", content), chunk(b"cHRM", bytes(32)), bits=8)
        np.testing.assert_allclose(patches(data), PATCHES, atol=1e-4)


def test_formula_of_a_power() -> None:
    profile = matrix_profile((0.64, 0.33, 0.3, 0.6, 0.15, 0.06), (0.3127, 0.329), 1.0)
    grey = np.linspace(0, 1, 64, dtype=np.float32)[None, :, None].repeat(3, -1)
    expected = np.where(grey <= 0.0031308, grey * 12.92, 1.055 * grey ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(to_srgb(grey, profile), expected, atol=2e-4)


def test_large_pictures_are_converted_band_by_band() -> None:
    colours = np.random.default_rng(0).random((1100, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(to_srgb(colours, P3), by_formula(colours), atol=ROUNDED)
