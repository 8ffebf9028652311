"""The door for untrusted images: what it reads, what it refuses, and what it writes."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile

from udc_defense.errors import ImageError, OutputError
from udc_defense.images import quantize, quantize_towards, read_image, to_pil, write_png
from udc_defense.output import write_file

ORIENTATION = 0x0112
# What a viewer does to the stored rows for each value of the EXIF tag (EXIF 2.32, 4.6.4 A).
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def pixels(image: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) as (H, W, 3)."""
    return image[0].permute(1, 2, 0).numpy()


def random_levels(bits: int, shape: tuple[int, ...] = (5, 7, 3)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**bits, shape).astype(np.uint8 if bits == 8 else np.uint16)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def deep_png(levels: np.ndarray, *extra: bytes) -> bytes:
    """A 16-bit PNG of (H, W, 1…4), written by hand so that no library's idea of depth is in the way."""
    height, width, channels = levels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep_tiff(levels: np.ndarray, orientation: int) -> bytes:
    """An uncompressed 16-bit RGB TIFF of (H, W, 3)."""
    height, width, _ = levels.shape
    data = levels.astype("<u2").tobytes()
    tags = {256: width, 257: height, 259: 1, 262: 2, 273: 14, ORIENTATION: orientation, 277: 3, 278: height}
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in (tags | {279: len(data)}).items()}
    entries[258] = struct.pack("<HHII", 258, 3, 3, 8)  # the three depths lie at byte 8
    entries[ORIENTATION] = struct.pack("<HHIHH", ORIENTATION, 3, 1, orientation, 0)
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return b"II*\0" + struct.pack("<I", 14 + len(data)) + struct.pack("<HHH", 16, 16, 16) + data + directory


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def exif_chunk(orientation: int) -> bytes:
    return chunk(b"eXIf", exif(orientation).tobytes().removeprefix(b"Exif\0\0"))


def bilevel_png(width: int, height: int) -> bytes:
    """A few kilobytes that decode to width x height pixels."""
    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def refusal(source: Path | str | bytes | Image.Image, **options: int) -> str:
    """The message of the refusal, which must be one sentence."""
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    message = str(caught.value)
    assert message.endswith(".") and not message.endswith("..") and "\n" not in message
    return message


class TestSize:
    def test_large_image_is_refused_from_its_header(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "bomb.png"
        path.write_bytes(bilevel_png(12_000, 12_000))
        assert path.stat().st_size < 50_000
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("pixels were decoded"))
        message = refusal(path)
        assert "12000x12000" in message and "16 MP" in message and str(path) in message

    def test_image_beyond_pillows_own_limit(self) -> None:
        assert "16 MP" in refusal(bilevel_png(20_000, 20_000))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
    def test_cap_is_the_number_of_pixels(self, kind: str) -> None:
        data = encode(Image.new("RGB", (12, 10)), kind)
        assert read_image(data, max_pixels=120).shape == (1, 3, 10, 12)
        assert "12x10" in refusal(data, max_pixels=119)

    def test_cap_holds_for_an_open_image(self) -> None:
        assert "12x10" in refusal(Image.new("RGB", (12, 10)), max_pixels=119)

    def test_image_without_pixels(self) -> None:
        assert "no pixels" in refusal(Image.new("RGB", (0, 4)))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
    def test_one_pixel(self, kind: str) -> None:
        image = read_image(encode(Image.new("RGB", (1, 1), (255, 255, 255)), kind))
        assert image.shape == (1, 3, 1, 1) and image.dtype == torch.float32
        assert image.min() > 0.98


class TestOrientation:
    @pytest.mark.parametrize("orientation", UPRIGHT)
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
    def test_eight_bit(self, orientation: int, kind: str) -> None:
        levels = random_levels(8)
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(Image.fromarray(levels), kind, exif=exif(orientation), **options)
        np.testing.assert_allclose(pixels(read_image(data)) * 255, UPRIGHT[orientation](levels), atol=1e-3)

    @pytest.mark.parametrize("orientation", UPRIGHT)
    def test_jpeg(self, orientation: int) -> None:
        y, x = np.mgrid[0:16, 0:24]
        levels = np.stack([x * 10, y * 15, 255 - x * 5 - y * 5], axis=-1).astype(np.uint8)
        data = encode(Image.fromarray(levels), "JPEG", quality=100, subsampling=0, exif=exif(orientation))
        np.testing.assert_allclose(pixels(read_image(data)) * 255, UPRIGHT[orientation](levels), atol=6)

    @pytest.mark.parametrize("orientation", UPRIGHT)
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_sixteen_bit_png(self, orientation: int, channels: int) -> None:
        levels = random_levels(16, (5, 7, channels))
        levels[..., 3:] = 65535
        read = pixels(read_image(deep_png(levels, exif_chunk(orientation)))) * 65535
        colour = np.broadcast_to(levels[..., :3], (5, 7, 3))
        np.testing.assert_allclose(read, UPRIGHT[orientation](colour), atol=0.02)

    @pytest.mark.parametrize("orientation", UPRIGHT)
    def test_sixteen_bit_tiff(self, orientation: int) -> None:
        """Pillow and OpenCV both turn a TIFF themselves: turned once more it would lie on its side."""
        levels = random_levels(16)
        read = pixels(read_image(deep_tiff(levels, orientation))) * 65535
        np.testing.assert_allclose(read, UPRIGHT[orientation](levels), atol=0.02)
        grey = encode(Image.fromarray(levels[..., 0]), "TIFF", exif=exif(orientation))
        read = pixels(read_image(grey)) * 65535
        np.testing.assert_allclose(read[..., 1], UPRIGHT[orientation](levels[..., 0]), atol=0.02)

    def test_open_image(self) -> None:
        levels = random_levels(8)
        image = Image.open(io.BytesIO(encode(Image.fromarray(levels), "PNG", exif=exif(6))))
        np.testing.assert_allclose(pixels(read_image(image)) * 255, UPRIGHT[6](levels), atol=1e-3)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_damaged_tags_do_not_cost_the_photo(self, kind: str) -> None:
        data = encode(Image.new("RGB", (7, 5)), kind, exif=b"Exif\0\0garbage, not a tag block")
        assert read_image(data).shape == (1, 3, 5, 7)

    def test_value_out_of_range_is_no_turn(self) -> None:
        levels = random_levels(8)
        data = encode(Image.fromarray(levels), "PNG", exif=exif(9))
        np.testing.assert_allclose(pixels(read_image(data)) * 255, levels, atol=1e-3)


class TestTransparency:
    """Transparent pixels are mid grey: the colour that lies under them was not meant to be seen."""

    def test_rgba(self) -> None:
        levels = np.array([[[255, 0, 0, 0], [255, 0, 0, 255], [255, 0, 0, 51]]], np.uint8)
        expected = [[[0.5, 0.5, 0.5], [1, 0, 0], [0.6, 0.4, 0.4]]]
        for source in (Image.fromarray(levels), encode(Image.fromarray(levels), "PNG")):
            np.testing.assert_allclose(pixels(read_image(source)), expected, atol=1e-6)

    def test_grey_with_alpha(self) -> None:
        image = Image.fromarray(np.array([[[255, 0], [255, 255]]], np.uint8), mode="LA")
        np.testing.assert_allclose(pixels(read_image(encode(image, "PNG")))[0, :, 0], [0.5, 1.0], atol=1e-6)

    def test_sixteen_bit_alpha(self) -> None:
        rgba = np.array([[[1001, 20003, 65535, 0], [1001, 20003, 65535, 65535], [1001, 20003, 65535, 13107]]])
        alpha = np.array([0, 1, 0.2])[:, None]
        expected = alpha * np.array([1001, 20003, 65535]) / 65535 + 0.5 * (1 - alpha)
        np.testing.assert_allclose(pixels(read_image(deep_png(rgba)))[0], expected, atol=1e-6)
        grey = pixels(read_image(deep_png(rgba[..., [1, 3]])))[0]
        np.testing.assert_allclose(grey, np.repeat(expected[:, 1:2], 3, axis=1), atol=1e-6)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_transparent_colour_of_a_sixteen_bit_png(self, channels: int) -> None:
        """The tRNS chunk names one colour as transparent, here that of the first pixel."""
        levels = np.full((1, 2, channels), 5003)
        levels[0, 0] = 60001
        data = deep_png(levels, chunk(b"tRNS", struct.pack(f">{channels}H", *levels[0, 0])))
        read = pixels(read_image(data))
        np.testing.assert_allclose(read[0], [[0.5] * 3, [5003 / 65535] * 3], atol=1e-6)

    def test_palette(self) -> None:
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        data = encode(image, "PNG", transparency=b"\x00\xff\x33")
        expected = [[[0.5, 0.5, 0.5], [0, 1, 0], [0.4, 0.4, 0.6]]]
        np.testing.assert_allclose(pixels(read_image(data)), expected, atol=1e-6)

    def test_gif(self) -> None:
        image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
        image.putpalette([255, 0, 0, 0, 255, 0])
        np.testing.assert_allclose(pixels(read_image(encode(image, "GIF", transparency=0)))[0, 0], 0.5)


class TestDepth:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_sixteen_bit_png_keeps_every_level(self, channels: int) -> None:
        levels = random_levels(16, (16, 16, channels))
        levels[..., 3:] = 65535
        assert (levels % 257 != 0).any()  # or 8 bits would do
        read = pixels(read_image(deep_png(levels))) * 65535
        np.testing.assert_array_equal(read.round(), np.broadcast_to(levels[..., :3], (16, 16, 3)))

    def test_grey_of_an_open_image(self) -> None:
        levels = random_levels(16, (4, 6))
        read = pixels(read_image(Image.fromarray(levels)))
        np.testing.assert_array_equal((read[..., 2] * 65535).round(), levels)

    def test_floats_of_an_open_image(self) -> None:
        levels = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
        np.testing.assert_array_equal(pixels(read_image(Image.fromarray(levels)))[..., 1], levels)
        for wrong in (levels * 255, levels - 0.5, np.full_like(levels, np.nan)):
            assert "not in 0…1" in refusal(Image.fromarray(wrong))

    def test_whole_numbers_of_an_open_image(self) -> None:
        """Mode I has 32 bits, of which Pillow itself uses 16."""
        levels = random_levels(16, (4, 6)).astype(np.int32)
        np.testing.assert_array_equal((pixels(read_image(Image.fromarray(levels)))[..., 1] * 65535).round(), levels)
        for wrong in (levels - 70_000, levels * 100_000):
            assert "not in 0…65535" in refusal(Image.fromarray(wrong))

    def test_round_trip_of_sixteen_bit(self, tmp_path: Path) -> None:
        image = torch.rand(1, 3, 33, 21, generator=torch.Generator().manual_seed(0))
        write_png(image, tmp_path / "deep.png", bits=16)
        read = read_image(tmp_path / "deep.png")
        assert (read - image).abs().max() <= 0.5 / 65535 + 1e-7
        assert torch.equal(read, quantize(image, 16))

    def test_round_trip_of_eight_bit(self, tmp_path: Path) -> None:
        image = quantize(torch.rand(1, 3, 33, 21, generator=torch.Generator().manual_seed(1)))
        write_png(image, str(tmp_path / "made" / "flat.png"))
        assert torch.equal(read_image(str(tmp_path / "made" / "flat.png")), image)

    @pytest.mark.parametrize("bits", [8, 16])
    def test_written_file_is_rgb_and_clamped(self, tmp_path: Path, bits: int) -> None:
        image = torch.tensor([1.5, 0.2, -0.5]).view(3, 1, 1)
        write_png(image, tmp_path / "one.png", bits=bits)
        assert Image.open(tmp_path / "one.png").getpixel((0, 0)) == (255, 51, 0)
        stored = cv2.imread(str(tmp_path / "one.png"), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == (np.uint8 if bits == 8 else np.uint16)

    def test_other_depths_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"^12 bits .*\.$"):
            write_png(torch.zeros(1, 3, 2, 2), tmp_path / "x.png", bits=12)

    def test_to_pil(self) -> None:
        levels = random_levels(8)
        image = to_pil(torch.from_numpy(levels).permute(2, 0, 1)[None] / 255)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), levels)


def cmyk_profile() -> bytes:
    """An ICC profile of a press whose coloured inks are invisible: the Lab lightness is 100 less the black ink."""
    nodes = b"".join(bytes([0 if black else 255, 128, 128]) for _ in range(8) for black in (0, 1))
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + nodes + ramp * 3
    header = struct.pack(">I4sI4s4s4s", 132 + 12 + len(table), bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return header + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


class TestCmyk:
    def test_profile_decides(self) -> None:
        """Lab lightness 50 is sRGB 119; without the profile the cyan would show."""
        levels = np.array([[255, 0, 0, 0]] * 16 + [[255, 0, 0, 128]] * 16, np.uint8)
        image = Image.fromarray(np.broadcast_to(levels, (16, 32, 4)).copy(), mode="CMYK")
        read = pixels(read_image(encode(image, "JPEG", quality=100, subsampling=0, icc_profile=cmyk_profile()))) * 255
        np.testing.assert_allclose(read[:, 4], 255, atol=3)
        np.testing.assert_allclose(read[:, 28], 119, atol=4)

    @pytest.mark.parametrize(
        "profile",
        [None, b"garbage", cmyk_profile()[:200], ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()],
        ids=["none", "garbage", "truncated", "of another mode"],
    )
    def test_without_a_usable_profile_inks_are_complements(self, profile: bytes | None) -> None:
        image = Image.new("CMYK", (16, 16), (255, 0, 0, 51))
        read = pixels(read_image(encode(image, "JPEG", quality=100, icc_profile=profile)))
        np.testing.assert_allclose(read[8, 8], [0, 0.8, 0.8], atol=0.02)


class TestFormats:
    def test_first_frame_of_a_gif(self) -> None:
        frames = [Image.new("RGB", (6, 4), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
        data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(pixels(read_image(data))[2, 3], [1, 0, 0], atol=0.01)
        opened = Image.open(io.BytesIO(data))
        opened.seek(2)
        np.testing.assert_allclose(pixels(read_image(opened))[2, 3], [1, 0, 0], atol=0.01)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
    def test_modes_of_open_images(self, mode: str) -> None:
        image = read_image(Image.new(mode, (3, 2)))
        assert image.shape == (1, 3, 2, 3) and image.dtype == torch.float32
        assert image.min() >= 0 and image.max() <= 1

    def test_bytes_path_and_string_agree(self, tmp_path: Path) -> None:
        data = encode(Image.fromarray(random_levels(8)), "PNG")
        path = tmp_path / "photo.png"
        path.write_bytes(data)
        assert torch.equal(read_image(path), read_image(data)) and torch.equal(read_image(str(path)), read_image(data))


def damaged(data: bytes) -> bytes:
    """The middle of a file overwritten."""
    middle = len(data) // 2
    return data[:middle] + bytes(value ^ 0xFF for value in data[middle : middle + 8]) + data[middle + 8 :]


def lying_png() -> bytes:
    """A sound 16-bit PNG whose pixel chunk claims 3 GB."""
    data = deep_png(random_levels(16))
    start = data.index(b"IDAT") - 4
    return data[:start] + struct.pack(">I", 3_000_000_000) + data[start + 4 :]


PHOTO = Image.fromarray(random_levels(8, (40, 50, 3)))
UNREADABLE = {
    "empty": b"",
    "text": b"This is not an image.\n" * 20,
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>',
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "signature only": b"\x89PNG\r\n\x1a\n",
    "truncated png": encode(PHOTO, "PNG")[:3000],
    "truncated jpeg": encode(PHOTO, "JPEG")[:900],
    "truncated gif": encode(PHOTO, "GIF")[:900],
    "truncated webp": encode(PHOTO, "WEBP", lossless=True)[:3000],
    "truncated bmp": encode(PHOTO, "BMP")[:3000],
    "truncated tiff": encode(PHOTO, "TIFF")[:3000],
    "truncated 16-bit png": deep_png(random_levels(16, (40, 50, 3)))[:6000],
    "truncated 16-bit grey png": deep_png(random_levels(16, (40, 50, 1)))[:2000],
    "truncated 16-bit tiff": deep_tiff(random_levels(16, (40, 50, 3)), 1)[:6000],
    "damaged png": damaged(encode(PHOTO, "PNG")),
    "damaged 16-bit png": damaged(deep_png(random_levels(16, (40, 50, 3)))),
    "png with a chunk beyond its end": lying_png(),
}


class TestRefusals:
    @pytest.mark.parametrize("case", UNREADABLE)
    def test_unreadable_file(self, case: str, tmp_path: Path) -> None:
        path = tmp_path / f"{case}.png"
        path.write_bytes(UNREADABLE[case])
        assert refusal(path).startswith(f"{path}: ")
        assert refusal(UNREADABLE[case]).startswith("the image: ")

    def test_formats_outside_the_list(self) -> None:
        assert "PNG, JPEG, WEBP, BMP, TIFF, GIF, AVIF, HEIC" in refusal(encode(PHOTO, "PPM"))

    @pytest.mark.parametrize(
        ("beginning", "words"),
        [
            (b"\x76\x2f\x31\x01", "linear light"),
            (b"#?RADIANCE\n", "linear light"),
            (b"\x93NUMPY", "in pairs only"),
            (b"8BPS", "Photoshop"),
            (b"%PDF-1.7", "PDF"),
            (b"\xff\x0a", "JPEG XL"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        ],
    )
    def test_known_files_that_are_no_photos(self, beginning: bytes, words: str) -> None:
        assert words in refusal(beginning + bytes(300))

    def test_lab_is_not_guessed_at(self) -> None:
        assert "CIELab" in refusal(Image.new("LAB", (3, 2)))

    def test_pipe_and_device(self, tmp_path: Path) -> None:
        """Reading would wait for ever, or never end."""
        os.mkfifo(tmp_path / "photo.png")
        for path in (tmp_path / "photo.png", Path("/dev/zero")):
            assert refusal(path) == f"{path}: cannot be read (it is no regular file)."

    def test_file_larger_than_any_photo(self, tmp_path: Path) -> None:
        with open(tmp_path / "photo.png", "wb") as file:
            file.truncate(2 << 30)
        assert "2147483648 bytes, more than the 1073741824 allowed" in refusal(tmp_path / "photo.png")

    def test_missing_file(self, tmp_path: Path) -> None:
        assert refusal(tmp_path / "none.png") == f"{tmp_path / 'none.png'}: cannot be read (No such file or directory)."

    def test_folder(self, tmp_path: Path) -> None:
        assert refusal(tmp_path) == f"{tmp_path}: cannot be read (Is a directory)."

    def test_name_that_no_file_can_have(self) -> None:
        assert "null" in refusal("a\0b.png")

    def test_closed_image(self) -> None:
        image = Image.open(io.BytesIO(encode(PHOTO, "PNG")))
        image.close()
        refusal(image)


class TestQuantize:
    @pytest.mark.parametrize("bits", [8, 16])
    def test_nearest_level(self, bits: int) -> None:
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2
        levels = 2**bits - 1
        result = quantize(image, bits)
        expected = (image.double().clamp(0, 1) * levels).round()
        assert ((result.double() * levels - expected).abs() < 0.01).float().mean() > 0.999  # ties may go either way
        assert (result - image.clamp(0, 1)).abs().max() <= 0.5 / levels + 1e-7
        assert torch.equal(quantize(result, bits), result)

    @pytest.mark.parametrize("steps", [0.3, 1.0, 2.6, 4.0, 7.98, 8.0, 8.02, 16.0])
    def test_towards_keeps_the_bound(self, steps: float) -> None:
        generator = torch.Generator().manual_seed(int(100 * steps))
        anchor = torch.randint(0, 256, (2, 3, 64, 64), generator=generator) / 255
        eps = steps / 255
        delta = (torch.rand(anchor.shape, generator=generator) * 2.4 - 1.2).clamp(-1, 1) * eps  # many at the bound
        attacked = anchor + delta
        result = quantize_towards(attacked, anchor)
        levels = result * 255
        assert (levels - levels.round()).abs().max() < 1e-4
        assert result.min() >= 0 and result.max() <= 1
        kept = (result - anchor).abs()
        assert kept.max() <= eps + 5e-7
        assert (kept <= (attacked.clamp(0, 1) - anchor).abs() + 5e-7).all()  # so that no L2 norm grows either
        assert ((attacked.clamp(0, 1) - result).abs() < 1 / 255 + 1e-6).all()  # less than one level is given up

    @pytest.mark.parametrize("eps", range(1, 17))
    def test_towards_gives_up_nothing_of_a_whole_number_of_levels(self, eps: int) -> None:
        """In float32 anchor + 8/255 - anchor can be a hair short of 8 levels: it must not become 7."""
        anchor = torch.arange(eps, 256 - eps) / 255
        for sign in (-1, 1):
            moved = quantize_towards(anchor + sign * (eps / 255), anchor)
            assert torch.equal(((moved - anchor) * 255).round(), torch.full_like(anchor, sign * eps))

    def test_towards_survives_the_file(self, tmp_path: Path) -> None:
        generator = torch.Generator().manual_seed(5)
        anchor = torch.randint(0, 256, (1, 3, 32, 32), generator=generator) / 255
        eps = 5.5 / 255
        attacked = anchor + (torch.rand(anchor.shape, generator=generator) * 2 - 1) * eps
        result = quantize_towards(attacked, anchor)
        write_png(result, tmp_path / "attacked.png")
        read = read_image(tmp_path / "attacked.png")
        assert torch.allclose(read, result, atol=1e-6) and (read - anchor).abs().max() <= eps + 5e-7


class TestWriteFile:
    def test_replaces(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "folder" / "file"
        for data in (b"old", b"new"):
            write_file(path, data)
            assert path.read_bytes() == data
        assert [item.name for item in path.parent.iterdir()] == ["file"]

    def test_full_disk_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")

        def fill(self: Path, data: bytes) -> int:
            with open(self, "wb") as file:
                file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_bytes", fill)
        with pytest.raises(OutputError) as caught:
            write_file(path, b"a new content")
        assert str(caught.value) == f"{path}: cannot be written (No space left on device)."
        assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]

    def test_interruption_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_file(path, b"new")
        assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("name", ["file/below.png", "folder", "x" * 300, "nul\0"])
    def test_place_that_cannot_be_written(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_bytes(b"old")
        (tmp_path / "folder").mkdir()
        with pytest.raises(OutputError) as caught:
            write_png(torch.zeros(1, 3, 2, 2), tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: cannot be written (") and message.endswith(").")
        assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder"]

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
    def test_folder_without_permission(self, tmp_path: Path) -> None:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
        with pytest.raises(OutputError, match="Permission denied"):
            write_file(folder / "file", b"new")
