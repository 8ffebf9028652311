"""The table of TIFF: each combination that cameras and scientific tools write is the ramp, or refused with a reason."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms
from tiff_writer import Page, packed, tiff

from udc_defense.errors import ImageError
from udc_defense.images import read_image

HEIGHT, WIDTH = 8, 48
STEP = np.linspace(0, 1, WIDTH)
GREY = np.broadcast_to(STEP, (HEIGHT, WIDTH)).copy()
RGB = np.stack([GREY, GREY[:, ::-1], 0.25 + GREY / 2], axis=-1)
BLACK_IS_ZERO, WHITE_IS_ZERO, COLOURS, PALETTE, MASK, INKS, YCBCR, LAB = 1, 0, 2, 3, 4, 5, 6, 8


def pixels(data: bytes) -> np.ndarray:
    """(H, W, 3), read."""
    return read_image(data)[0].permute(1, 2, 0).numpy()


def show(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(data)
    message = str(caught.value)
    assert message.startswith("the image: ") and message.endswith(".") and "\n" not in message
    return message


def levels_of(values: np.ndarray, bits: int) -> np.ndarray:
    return (values * (2**bits - 1)).round().astype(np.uint64)


def page(values: np.ndarray, bits: int, photometric: int, *, planar: int = 1, order: str = "<", **more: Any) -> Page:
    """Unsigned samples (H, W) or (H, W, S) in [0, 1] as a page of two strips a plane."""
    levels = levels_of(values.reshape(*values.shape[:2], -1), bits)
    samples = levels.shape[2]
    planes = [levels] if planar == 1 else [levels[..., i : i + 1] for i in range(samples)]
    strips = [packed(half.reshape(len(half), -1), bits, order) for plane in planes for half in np.split(plane, 2)]
    tags = {256: values.shape[1], 257: len(values), 258: [bits] * samples, 259: 1, 262: photometric, 277: samples}
    return Page(tags | {278: len(values) // 2, 284: planar} | more.pop("tags", {}), strips, **more)


def written(values: np.ndarray, **options: Any) -> bytes:
    """By tifffile, for what needs a codec."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tifffile.imwrite(file, values, **options)
    return file.getvalue()


class TestIntegers:
    """Packed or not, of any depth, order and size of pointers: over their full scale."""

    @pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
    @pytest.mark.parametrize("order", ["<", ">"], ids=["II", "MM"])
    @pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 16, 32])
    def test_grey(self, bits: int, order: str, big: bool) -> None:
        stored = levels_of(GREY, bits) / (2**bits - 1)
        read = pixels(tiff(page(GREY, bits, BLACK_IS_ZERO, order=order), order=order, big=big))
        np.testing.assert_allclose(read, show(stored), atol=1e-7)
        read = pixels(tiff(page(GREY, bits, WHITE_IS_ZERO, order=order), order=order, big=big))
        np.testing.assert_allclose(read, 1 - show(stored), atol=1e-7)

    @pytest.mark.parametrize("planar", [1, 2], ids=["contiguous", "planar"])
    @pytest.mark.parametrize("order", ["<", ">"], ids=["II", "MM"])
    @pytest.mark.parametrize("bits", [2, 4, 7, 8, 9, 10, 12, 14, 15, 16, 32])
    def test_rgb(self, bits: int, order: str, planar: int) -> None:
        stored = levels_of(RGB, bits) / (2**bits - 1)
        data = tiff(page(RGB, bits, COLOURS, order=order, planar=planar), order=order)
        np.testing.assert_allclose(pixels(data), stored, atol=1e-7)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
    @pytest.mark.parametrize("scale", [255, 65535], ids=["8-bit table", "16-bit table"])
    def test_palette(self, bits: int, scale: int) -> None:
        table = np.random.default_rng(0).random((3, 2**bits))
        table[:, :2] = [[1, 0], [0, 1], [0.5, 1]]
        stored = (table * scale).round()
        data = tiff(page(GREY, bits, PALETTE, tags={320: stored.astype(int).ravel().tolist()}))
        np.testing.assert_allclose(pixels(data), (stored / scale).T[levels_of(GREY, bits)], atol=1e-6)

    @pytest.mark.parametrize("bits", [1, 8, 12, 16])
    def test_bits_in_reverse(self, bits: int) -> None:
        """FillOrder 2."""
        plain = page(GREY, bits, BLACK_IS_ZERO)
        mirror = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
        turned = Page(plain.tags | {266: 2}, [strip.translate(mirror) for strip in plain.segments])
        np.testing.assert_array_equal(pixels(tiff(turned)), pixels(tiff(plain)))

    @pytest.mark.parametrize("bits", [4, 8, 12, 16, 32])
    def test_inks(self, bits: int) -> None:
        inks = np.concatenate([RGB, GREY[..., None] / 2], axis=-1)
        stored = levels_of(inks, bits) / (2**bits - 1)
        expected = (1 - stored[..., :3]) * (1 - stored[..., 3:])
        for planar in (1, 2):
            np.testing.assert_allclose(pixels(tiff(page(inks, bits, INKS, planar=planar))), expected, atol=1e-6)


class TestFloats:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
    @pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb"])
    def test_unit_range(self, kind: str, order: str, photometric: str) -> None:
        values = (RGB if photometric == "rgb" else GREY).astype(kind)
        expected = values.astype(np.float64) if photometric == "rgb" else show(values.astype(np.float64))
        expected = 1 - expected if photometric == "miniswhite" else expected
        read = pixels(written(values, byteorder=order, photometric=photometric))
        np.testing.assert_allclose(read, expected, atol=1e-7)

    def test_24_bits(self) -> None:
        values = GREY.astype("<f4")
        # Sign, 7 bits of exponent, 16 of mantissa: half of these numbers' precision is kept.
        words = values.view("<u4")
        exponent = np.where(words == 0, 0, (words >> 23) - 127 + 63)
        packed24 = (exponent << 16 | (words >> 7 & 0xFFFF)).astype("<u4")
        strip = packed24.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
        tags = {256: WIDTH, 257: HEIGHT, 258: 24, 259: 1, 262: 1, 277: 1, 278: HEIGHT, 339: 3}
        np.testing.assert_allclose(pixels(tiff(Page(tags, [strip]))), show(GREY), atol=2e-5)

    @pytest.mark.parametrize("compression", ["zlib", "lzw"])
    def test_predicted(self, compression: str) -> None:
        data = written(RGB.astype("f4"), photometric="rgb", compression=compression, predictor=3)
        np.testing.assert_allclose(pixels(data), RGB, atol=1e-7)

    @pytest.mark.parametrize(("low", "high"), [(0.0, 255.0), (-0.5, 0.5), (0.0, 1.001), (np.nan, np.nan), (0, np.inf)])
    def test_outside_of_the_unit_range(self, low: float, high: float) -> None:
        values = np.full((4, 4), low, np.float32)
        values[0] = high
        assert "not in 0…1" in refusal(written(values, photometric="minisblack"))


class TestAlpha:
    ALPHA = np.linspace(0, 1, HEIGHT)[:, None] * np.ones((1, WIDTH))
    ASSOCIATED, UNASSOCIATED, UNSPECIFIED = 1, 2, 0

    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("planar", [1, 2])
    @pytest.mark.parametrize("kind", [UNASSOCIATED, ASSOCIATED])
    def test_transparent_is_mid_grey(self, bits: int, planar: int, kind: int) -> None:
        alpha = levels_of(self.ALPHA, bits) / (2**bits - 1)
        for colours, photometric in ((RGB, COLOURS), (GREY[..., None], BLACK_IS_ZERO)):
            stored = colours * alpha[..., None] if kind == self.ASSOCIATED else colours
            values = np.concatenate([stored, alpha[..., None]], axis=-1)
            data = tiff(page(values, bits, photometric, planar=planar, tags={338: kind}))
            expected = np.broadcast_to(colours, RGB.shape) * alpha[..., None] + 0.5 * (1 - alpha[..., None])
            np.testing.assert_allclose(pixels(data), expected, atol=0.6 / (2**bits - 1) + 1e-6)

    @pytest.mark.parametrize("extra", [1, 2])
    @pytest.mark.parametrize("stated", [True, False])
    def test_further_samples_of_rgb_are_passed_over(self, extra: int, stated: bool) -> None:
        values = np.concatenate([RGB, np.full((HEIGHT, WIDTH, extra), 0.1)], axis=-1)
        data = tiff(page(values, 16, COLOURS, tags={338: [0] * extra} if stated else {}))
        np.testing.assert_allclose(pixels(data), RGB, atol=1e-5)

    def test_samples_of_grey_are_not_guessed_at(self) -> None:
        assert "without saying which are its colours" in refusal(tiff(page(RGB, 8, BLACK_IS_ZERO, tags={338: [0, 0]})))


class TestStorage:
    """Compressions, by libtiff where Pillow writes them, and by tifffile."""

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits",
                                             "lzma", "zstd"])  # fmt: skip
    @pytest.mark.parametrize("predictor", [1, 2])
    def test_lossless(self, compression: str, predictor: int) -> None:
        levels = levels_of(RGB, 8).astype(np.uint8)
        file = io.BytesIO()
        tags = {317: predictor} if predictor == 2 and compression in ("tiff_lzw", "tiff_adobe_deflate") else {}
        Image.fromarray(levels).save(file, "TIFF", compression=compression, tiffinfo=tags)
        np.testing.assert_array_equal((pixels(file.getvalue()) * 255).round(), levels)

    @pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
    def test_fax(self, compression: str) -> None:
        levels = np.random.default_rng(0).random((40, 72)) < 0.3
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "TIFF", compression=compression)
        np.testing.assert_array_equal(pixels(file.getvalue())[..., 0] > 0.5, levels)

    @pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr", "CMYK"])
    def test_jpeg(self, mode: str) -> None:
        smooth = Image.fromarray(levels_of(np.kron(RGB, np.ones((4, 4, 1))), 8).astype(np.uint8)).convert(mode)
        file = io.BytesIO()
        smooth.save(file, "TIFF", compression="jpeg", quality=98)
        expected = np.asarray(smooth.convert("RGB"), dtype=np.float64) / 255
        assert np.abs(pixels(file.getvalue()) - expected).mean() < 0.01

    @pytest.mark.parametrize("bits", [8, 16, 32])
    @pytest.mark.parametrize("predictor", [1, 2])
    @pytest.mark.parametrize("planar", ["contig", "separate"])
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("tile", [None, (16, 32)], ids=["strips", "tiles"])
    def test_layouts(self, bits: int, predictor: int, planar: str, order: str, tile: tuple[int, int] | None) -> None:
        levels = levels_of(RGB, bits).astype(f"u{bits // 8}")
        stored = levels if planar == "contig" else np.moveaxis(levels, -1, 0)
        options = {"tile": tile} if tile else {"rowsperstrip": 3}
        data = written(stored, photometric="rgb", planarconfig=planar, compression="zlib", predictor=predictor,
                       byteorder=order, **options)  # fmt: skip
        np.testing.assert_allclose(pixels(data), levels / (2**bits - 1), atol=1e-7)

    def test_without_a_strip_count_it_is_one_strip(self) -> None:
        whole = page(GREY, 8, BLACK_IS_ZERO)
        del whole.tags[278]
        data = tiff(Page(whole.tags, [b"".join(whole.segments)]))
        np.testing.assert_allclose(pixels(data), show(levels_of(GREY, 8) / 255), atol=1e-7)


class TestPages:
    """A thumbnail is not the photo."""

    PHOTO = page(RGB, 16, COLOURS)

    @staticmethod
    def small(kind: int = 1, **more: Any) -> Page:
        return page(np.full((4, 6, 3), 0.3), 8, COLOURS, tags={254: kind}, **more)

    def read(self, *pages: Page) -> np.ndarray:
        return pixels(tiff(*pages))

    def test_photo_below_a_thumbnail(self) -> None:
        np.testing.assert_allclose(self.read(self.small(below=[self.PHOTO])), RGB, atol=1e-5)

    def test_photo_after_a_thumbnail(self) -> None:
        np.testing.assert_allclose(self.read(self.small(), self.small(4), self.PHOTO), RGB, atol=1e-5)

    def test_old_tag_of_a_thumbnail(self) -> None:
        old = page(np.full((4, 6, 3), 0.3), 8, COLOURS, tags={255: 2})
        np.testing.assert_allclose(self.read(old, self.PHOTO), RGB, atol=1e-5)

    def test_thumbnail_and_further_pages_behind_the_photo(self) -> None:
        np.testing.assert_allclose(self.read(self.PHOTO, self.small(), self.small(0)), RGB, atol=1e-5)

    def test_all_say_they_are_reduced(self) -> None:
        large = page(RGB, 16, COLOURS, tags={254: 1})
        np.testing.assert_allclose(self.read(self.small(), large), RGB, atol=1e-5)


def cfa() -> Page:
    return page(GREY, 16, 32803, tags={254: 0, 33421: [2, 2], 33422: bytes([0, 1, 1, 2])})


RAW = {
    "dng": tiff(Page(TestPages.small().tags | {50706: bytes([1, 4, 0, 0])}, TestPages.small().segments, [cfa()])),
    "nef": tiff(TestPages.small(below=[cfa()])),
    "linear dng": tiff(page(RGB, 16, 34892, tags={50706: bytes([1, 4, 0, 0])})),
    "bare filter array": tiff(cfa()),
    "cr2": b"II*\0\x10\0\0\0CR\2\0" + bytes(4) + tiff(TestPages.small())[8:],
    "sony": tiff(page(GREY, 16, BLACK_IS_ZERO, tags={259: 32767})),
    "raf": b"FUJIFILMCCD-RAW 0201FF" + bytes(200),
    "orf": b"IIRO\x08\0\0\0" + bytes(200),
    "rw2": b"IIU\0\x18\0\0\0" + bytes(200),
    "cr3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(200),
}

SIGNED = {339: 2}
REFUSED = {
    "signed": (page(GREY, 16, BLACK_IS_ZERO, tags={339: 2}), "signed integers"),
    "complex integers": (page(GREY, 32, BLACK_IS_ZERO, tags={339: 5}), "complex"),
    "complex": (page(GREY / 2, 64, BLACK_IS_ZERO, tags={339: 6}), "complex"),
    "void": (page(GREY, 16, BLACK_IS_ZERO, tags={339: 4}), "no stated kind"),
    "64 bits": (page(GREY / 2, 64, BLACK_IS_ZERO), "64 bits per sample"),
    "24 bits": (page(GREY, 24, BLACK_IS_ZERO), "24 bits per sample"),
    "float palette": (page(GREY, 32, PALETTE, tags={339: 3}), "floats as 3, palette"),
    "different depths": (page(RGB, 8, COLOURS, tags={258: [5, 6, 5]}), "5, 6, 5"),
    "mask": (page(GREY, 1, MASK), "4, transparency mask"),
    "CIELab": (page(RGB, 8, LAB), "8, CIELab"),
    "ICCLab": (page(RGB, 8, 9), "9, ICCLab"),
    "LogLuv": (page(RGB, 16, 32845), "32845, LogLuv"),
    "unknown colours": (page(RGB, 8, 999), "PhotometricInterpretation 999"),
    "YCbCr": (page(RGB, 8, YCBCR, tags={530: [1, 1]}), "YCbCr without JPEG"),
    "other inks": (page(np.concatenate([RGB, RGB[..., :1]], -1), 8, INKS, tags={332: 2}), "inks other than CMYK"),
    "two colours of three": (page(RGB[..., :2], 8, COLOURS), "2 samples per pixel for RGB"),
    "twelve bands": (page(np.zeros((HEIGHT, WIDTH, 12)), 8, COLOURS), "12 samples per pixel"),
    "palette of 32 bits": (page(GREY, 32, PALETTE, tags={320: [0] * 768}), "palette without its colours"),
    "palette without colours": (page(GREY, 8, PALETTE), "palette without its colours"),
    "JPEG 2000 inside": (page(GREY, 8, BLACK_IS_ZERO, tags={259: 34712}), "34712"),
    "old JPEG": (page(RGB, 8, YCBCR, tags={259: 6}), "compress"),
    "unknown compression": (page(GREY, 8, BLACK_IS_ZERO, tags={259: 12345}), "12345"),
    "volume": (page(GREY, 8, BLACK_IS_ZERO, tags={32997: 4}), "volume"),
    "missing strips": (page(GREY, 8, BLACK_IS_ZERO, tags={278: 1}), "lacks strips"),
}


class TestRefusals:
    @pytest.mark.parametrize("kind", RAW)
    def test_raw_files_are_to_be_developed(self, kind: str) -> None:
        message = refusal(RAW[kind])
        assert "develop it first" in message and "not an image in one of" not in message

    @pytest.mark.parametrize("kind", REFUSED)
    def test_reason(self, kind: str) -> None:
        wrong, reason = REFUSED[kind]
        assert reason in refusal(tiff(wrong))

    def test_meaning_that_is_not_stated(self) -> None:
        bare = page(GREY, 8, BLACK_IS_ZERO)
        del bare.tags[262]
        assert "does not say what its samples mean" in refusal(tiff(bare))

    def test_strip_outside_of_the_file(self) -> None:
        data = tiff(page(GREY, 8, BLACK_IS_ZERO, tags={273: [8, 10**6]}))
        assert "damaged or truncated" in refusal(data)

    def test_size_is_checked_before_anything_is_decoded(self) -> None:
        large = page(GREY, 8, BLACK_IS_ZERO, tags={256: 60_000, 257: 60_000})
        assert "60000x60000" in refusal(tiff(large))

    def test_tiles_larger_than_any_picture(self) -> None:
        tiles = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: 65_520, 323: 65_520}
        assert "tiles of 65520x65520" in refusal(tiff(Page(tiles, [b"\0" * 20], tiled=True)))

    def test_jpeg_inside_that_is_larger_than_its_strip(self) -> None:
        file = io.BytesIO()
        Image.new("L", (64, 64)).save(file, "JPEG")
        jpeg = bytearray(file.getvalue())
        frame = jpeg.index(b"\xff\xc0")
        jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
        tags = {256: 64, 257: 64, 258: 8, 259: 7, 262: 1, 277: 1, 278: 64}
        assert "damaged" in refusal(tiff(Page(tags, [bytes(jpeg)])))

    def test_directories_that_claim_the_same_values_again_and_again(self) -> None:
        """Each of 60 tags would become a million objects."""
        filler = bytes(4_000_000)
        first = Page({256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 278: 8}, [filler])
        data = bytearray(tiff(first))
        tags = b"".join(struct.pack("<HHII", 40_000 + i, 4, 1_000_000, 8) for i in range(60))
        start = len(data)
        data += struct.pack("<H", 60) + tags + bytes(4)
        struct.pack_into("<I", data, 4, start)
        assert "values in its tags" in refusal(bytes(data))


class TestProfiles:
    def test_profile_of_a_tiff(self) -> None:
        """Display P3, at 16 bits."""
        from udc_defense.formats.colour import coded_profile

        patches = np.array([[[200, 60, 60], [60, 200, 60], [60, 60, 200]]]) / 255
        data = tiff(page(np.repeat(patches, 2, axis=0), 16, COLOURS, tags={34675: coded_profile(12, 13)}))
        expected = [[217, 42, 52], [0, 203, 11], [60, 60, 208]]
        np.testing.assert_allclose(pixels(data)[0] * 255, expected, atol=0.6)

    def test_broken_profile_is_none(self) -> None:
        data = tiff(page(RGB, 16, COLOURS, tags={34675: b"garbage of some length, but no profile" * 4}))
        np.testing.assert_allclose(pixels(data), RGB, atol=1e-5)

    def test_profile_of_srgb_changes_no_level(self) -> None:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        with_profile = pixels(tiff(page(RGB, 16, COLOURS, tags={34675: profile})))
        np.testing.assert_array_equal(with_profile, pixels(tiff(page(RGB, 16, COLOURS))))


def test_what_opencv_writes() -> None:
    import cv2

    for levels in (levels_of(RGB, 16).astype(np.uint16), levels_of(RGB, 8).astype(np.uint8), RGB.astype(np.float32)):
        done, data = cv2.imencode(".tiff", levels[..., ::-1])
        assert done
        full = 1 if levels.dtype.kind == "f" else np.iinfo(levels.dtype).max
        np.testing.assert_allclose(pixels(data.tobytes()), levels / full, atol=1e-7)
        assert read_image(data.tobytes()).dtype == torch.float32
