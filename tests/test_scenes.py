"""Panoramas, photos, crop lists and paired folders."""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor

from udc_defense.errors import ImageError, SceneError
from udc_defense.images import quantize, write_png
from udc_defense.imaging import LUMINANCE, MAX_RADIANCE, inverse_tone_map, tone_map
from udc_defense.scenes import (
    PHOTO_WHITE,
    Crop,
    Pair,
    centre_crop,
    clean_image,
    perspective,
    read_crops,
    read_pairs,
    read_panorama,
    scene_from_photo,
)

CROPS = Path(__file__).parents[2] / "shared" / "data" / "crops.csv"
HEADER = "split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive\n"


def random_image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def directions(height: int, width: int) -> Tensor:
    """Unit vectors (3, H, W), x right, y up, z ahead, of an equirectangular panorama's pixels."""
    longitude = ((torch.arange(width) + 0.5) / width - 0.5) * 2 * math.pi
    latitude = (0.5 - (torch.arange(height) + 0.5) / height) * math.pi
    latitude, longitude = torch.meshgrid(latitude, longitude, indexing="ij")
    return torch.stack(
        [latitude.cos() * longitude.sin(), latitude.sin(), latitude.cos() * longitude.cos()],
    )


def write_panorama(path: Path, light: Tensor) -> Path:
    """(3, H, W) as a Radiance file."""
    assert cv2.imwrite(str(path), np.ascontiguousarray(light.permute(1, 2, 0).numpy()[..., ::-1]))
    return path


def write_light(path: Path, light: Tensor) -> Path:
    """(3, H, W) as a file of the kind that its name says."""
    pixels = np.ascontiguousarray(light.permute(1, 2, 0).numpy())
    if path.suffix == ".exr":
        with OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION}, {"RGB": pixels}) as file:
            file.write(str(path))
    elif path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb")
    elif path.suffix == ".npy":
        np.save(path, pixels)
    else:
        write_panorama(path, light)
    return path


@pytest.fixture
def panorama_file(tmp_path: Path) -> Path:
    return write_panorama(tmp_path / "street.hdr", random_image(3, 32, 64) * 40 + 0.5)


class TestReadPanorama:
    def test_values(self, panorama_file: Path) -> None:
        light = read_panorama(panorama_file)
        expected = random_image(3, 32, 64) * 40 + 0.5
        assert light.shape == (1, 3, 32, 64) and light.dtype == torch.float32
        # Radiance shares one exponent among the channels: 1/256 of the brightest, which is below 64 here.
        assert (light[0] - expected).abs().max() <= 64 / 256
        assert (light[0] - expected).abs().mean() < 0.1  # and no channel in another's place

    def test_lamps_keep_their_light(self, tmp_path: Path) -> None:
        light = torch.full((3, 8, 16), 0.1)
        light[:, 2, 3] = 30_000
        assert read_panorama(write_panorama(tmp_path / "sun.hdr", light)).max() == pytest.approx(30_000, rel=0.01)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(SceneError) as caught:
            read_panorama(tmp_path / "none.hdr")
        assert str(caught.value) == f"{tmp_path / 'none.hdr'}: cannot be read (No such file or directory)."

    @pytest.mark.parametrize("name", ["", "nul\0.hdr"])
    def test_folder_or_impossible_name(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(SceneError, match="cannot be read"):
            read_panorama(tmp_path / name)

    @pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(50)])
    def test_not_radiance(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "x.hdr"
        path.write_bytes(data)
        with pytest.raises(SceneError, match="not a Radiance .hdr file"):
            read_panorama(path)

    @pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
    def test_truncated(self, panorama_file: Path, kept: float) -> None:
        data = panorama_file.read_bytes()
        start = data.index(b"+X 64\n") + 6
        panorama_file.write_bytes(data[: start + int(kept * (len(data) - start))])
        with pytest.raises(SceneError, match="damaged"):
            read_panorama(panorama_file)

    @pytest.mark.parametrize("size", [b"-Y 32", b"+Y 32 +X 64", b"-Y -32 +X 64", b"-Y many +X 64"])
    def test_header_without_a_size(self, panorama_file: Path, size: bytes) -> None:
        panorama_file.write_bytes(panorama_file.read_bytes().replace(b"-Y 32 +X 64", size))
        with pytest.raises(SceneError, match="header"):
            read_panorama(panorama_file)

    def test_no_pixels(self, panorama_file: Path) -> None:
        panorama_file.write_bytes(panorama_file.read_bytes().replace(b"-Y 32 +X 64", b"-Y 0 +X 64"))
        with pytest.raises(SceneError, match="has no pixels"):
            read_panorama(panorama_file)

    @pytest.mark.parametrize("comment", [b"", b"-Y 32 +X 64\n"], ids=["plain", "with a comment that says otherwise"])
    def test_too_large_by_its_header(
        self, panorama_file: Path, comment: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = panorama_file.read_bytes().replace(b"-Y 32 +X 64", b"-Y 9000 +X 18000")
        panorama_file.write_bytes(data.replace(b"\n", b"\n" + comment, 1))
        monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("pixels were decoded"))
        with pytest.raises(SceneError, match="18000x9000 pixels, more than the 64 MP allowed"):
            read_panorama(panorama_file)

    def test_open_exr(self, tmp_path: Path) -> None:
        light = random_image(3, 8, 16) * 40
        light[0, 0, 0], light[1, 0, 1] = math.inf, math.nan
        read = read_panorama(write_light(tmp_path / "street.exr", light))
        assert read[0, 0, 0, 0] == 1e6 and read[0, 1, 0, 1] == 0
        assert torch.equal(read[0, :, 1:], light[:, 1:])


class TestPerspective:
    @pytest.mark.parametrize(
        ("yaw", "pitch", "fov"),
        [(0, 0, 60), (35, 20, 80), (-120, -35, 45), (180, 0, 80), (-180, 10, 90), (172, -5, 70), (90, 75, 60)],
    )
    def test_light_that_is_linear_in_its_direction(self, yaw: float, pitch: float, fov: float) -> None:
        """Light 2 + v·d is smooth everywhere, across the seam too, and known along each ray of the view."""
        slopes = torch.tensor([[0.9, 0.3, -0.4], [-0.2, 0.8, 0.5], [0.1, -0.6, 0.7]])
        panorama = 2 + torch.einsum("cd,dhw->chw", slopes, directions(256, 512))[None]
        size = 48
        y, p = math.radians(yaw), math.radians(pitch)
        ahead = torch.tensor([math.cos(p) * math.sin(y), math.sin(p), math.cos(p) * math.cos(y)])
        right = torch.tensor([math.cos(y), 0.0, -math.sin(y)])
        up = torch.linalg.cross(ahead, right)
        axis = ((torch.arange(size) + 0.5) / size * 2 - 1) * math.tan(math.radians(fov) / 2)
        rays = ahead + axis[None, :, None] * right - axis[:, None, None] * up
        expected = 2 + torch.nn.functional.normalize(rays, dim=-1) @ slopes.T
        view = perspective(panorama, yaw=yaw, pitch=pitch, fov=fov, size=size)
        assert view.shape == (1, 3, size, size)
        torch.testing.assert_close(view[0].permute(1, 2, 0), expected, atol=2e-3, rtol=0)

    @pytest.mark.parametrize(("column", "row"), [(64, 32), (0, 20), (127, 40), (100, 33)])
    def test_bright_spot_lands_at_the_centre(self, column: int, row: int) -> None:
        panorama = torch.zeros(1, 3, 64, 128)
        panorama[..., row, column] = 50
        yaw, pitch = ((column + 0.5) / 128 - 0.5) * 360, 90 - (row + 0.5) / 64 * 180
        view = perspective(panorama, yaw=yaw, pitch=pitch, fov=40, size=65)[0, 1]
        assert view[32, 32] == pytest.approx(50, rel=1e-3) and view.argmax() == 32 * 65 + 32

    def test_yaw_turns_right_and_pitch_up(self) -> None:
        panorama = torch.zeros(1, 3, 180, 360)
        panorama[..., 84:86, 189:191] = 50  # 10° right of the centre, 5° above
        view = perspective(panorama, yaw=0, pitch=0, fov=40, size=65)[0, 0]
        row, column = divmod(int(view.argmax()), 65)
        half = math.tan(math.radians(20))
        assert column == pytest.approx(32 + 32.5 * math.tan(math.radians(10)) / half, abs=1.5)
        assert row == pytest.approx(32 - 32.5 * math.tan(math.radians(5)) / half, abs=1.5)

    def test_seam_is_continuous(self) -> None:
        panorama = 2 + directions(64, 128)[None]
        left, right = (perspective(panorama, yaw=yaw, pitch=0, fov=40, size=64) for yaw in (-180, 180))
        torch.testing.assert_close(left, right, atol=1e-4, rtol=0)
        steps = right[0, 0].diff(dim=-1).abs()
        assert steps.max() < 2 * steps.median()

    @pytest.mark.parametrize("margin", [1, 40])
    def test_surroundings_lie_on_the_frames_grid(self, margin: int) -> None:
        panorama = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
        frame = perspective(panorama, yaw=20, pitch=5, fov=70, size=48)
        whole = perspective(panorama, yaw=20, pitch=5, fov=70, size=48, margin=margin)
        assert whole.shape == (1, 3, 48 + 2 * margin, 48 + 2 * margin)
        torch.testing.assert_close(whole[..., margin:-margin, margin:-margin], frame, atol=1e-6, rtol=0)
        # The same view asked for as a larger frame: half its side is the tangent of half its field of view.
        wider = 2 * math.degrees(math.atan(math.tan(math.radians(35)) * (48 + 2 * margin) / 48))
        other = perspective(panorama, yaw=20, pitch=5, fov=wider, size=48 + 2 * margin)
        torch.testing.assert_close(whole, other, atol=1e-3, rtol=0)

    @pytest.mark.parametrize("fov", [0, -10, 180, 400, math.nan])
    def test_field_of_view_out_of_range(self, fov: float) -> None:
        with pytest.raises(SceneError, match=rf"field of view {fov} .*180 degrees\.$"):
            perspective(torch.ones(1, 3, 8, 16), yaw=0, pitch=0, fov=fov)


class TestSceneFromPhoto:
    def test_clean_image_is_the_photo(self) -> None:
        photo = quantize(random_image(2, 3, 40, 50))
        assert photo.max() > PHOTO_WHITE
        photo[..., :4, :4] = 0
        clean = clean_image(scene_from_photo(photo))
        torch.testing.assert_close(clean, photo.clamp(max=PHOTO_WHITE), atol=1e-6, rtol=0)

    def test_white_paper_is_a_surface(self) -> None:
        photo = torch.full((1, 3, 64, 64), 0.5)
        photo[..., 10:40, 10:40] = 1.0
        scene = scene_from_photo(photo)
        assert scene.max() == pytest.approx(12.25, rel=1e-4)
        assert scene[0, 0, 20, 20] == scene.max()

    @pytest.mark.parametrize("tone", [1.0, 254 / 255])
    def test_small_clipped_areas_are_lamps(self, tone: float) -> None:
        photo = torch.full((2, 3, 64, 64), 0.3)
        photo[0, :, 10:12, 10:12] = tone  # 4 of 4096 pixels
        photo[0, :, 50, 50:54] = tone
        photo[1, :, 30, 30] = tone
        scene = scene_from_photo(photo)
        lamps = photo == photo.max()
        assert lamps.sum() == 27 and (scene[lamps] == MAX_RADIANCE).all()
        torch.testing.assert_close(scene[~lamps], inverse_tone_map(photo)[~lamps])

    def test_a_glint_on_white_cloth_is_no_lamp(self) -> None:
        photo = torch.full((1, 3, 64, 64), 0.8)
        photo[0, :, 10:12, 10:12] = 1.0
        assert scene_from_photo(photo).max() < 13

    def test_one_pixel_more_than_a_lamp(self) -> None:
        photo = torch.full((1, 3, 64, 64), 0.3)
        photo[0, :, range(5), range(5)] = 1.0  # corners that touch are one area
        assert scene_from_photo(photo).max() < 13

    def test_saturated_colour_is_no_lamp(self) -> None:
        photo = torch.full((1, 3, 64, 64), 0.5)
        photo[0, :2, 5, 5] = 1.0
        assert scene_from_photo(photo).max() < 13

    def test_one_pixel(self) -> None:
        torch.testing.assert_close(scene_from_photo(torch.full((1, 3, 1, 1), 0.5)), torch.full((1, 3, 1, 1), 0.25))


class TestCentreCrop:
    def test_plain(self) -> None:
        photo = random_image(1, 3, 300, 1001)
        assert torch.equal(centre_crop(photo), photo[..., 22:278, 372:628])

    def test_halved_where_both_sides_stay_large_enough(self) -> None:
        photo = random_image(1, 3, 520, 600)
        halved = photo.unflatten(3, (300, 2)).unflatten(2, (260, 2)).mean(dim=(3, 5))
        torch.testing.assert_close(centre_crop(photo), halved[..., 2:258, 22:278])

    def test_exact_size_is_kept(self) -> None:
        photo = random_image(1, 3, 256, 256)
        assert torch.equal(centre_crop(photo), photo)

    def test_margin_is_mirrored_beyond_the_photo(self) -> None:
        photo = random_image(1, 3, 300, 1001)
        crop = centre_crop(photo, margin=40)
        mirrored = np.pad(photo.numpy(), ((0, 0), (0, 0), (40, 40), (40, 40)), mode="symmetric")
        assert torch.equal(crop, torch.from_numpy(mirrored)[..., 22 : 22 + 336, 372 : 372 + 336])

    def test_too_small(self) -> None:
        with pytest.raises(SceneError, match="400x255 pixels is smaller than the 256x256 crop"):
            centre_crop(torch.zeros(1, 3, 255, 400))


def write_crops(folder: Path, text: str) -> Path:
    path = folder / "crops.csv"
    path.write_text(text, encoding="utf-8")
    return path


class TestReadCrops:
    ROWS = HEADER + (
        "val,hdr/street.hdr,perspective,-90,5.5,80,,1\nval,cat.png,box,,,,centre256,0\nheldout,dog.png,box,,,,,\n"
    )

    def test_rows(self, tmp_path: Path) -> None:
        path = write_crops(tmp_path, self.ROWS)
        view, cat, dog = read_crops(path)
        assert view == Crop("val", "hdr/street.hdr", "perspective", -90.0, 5.5, 80.0, adaptive=True)
        assert view.name == "hdr/street.hdr@-90,5.5,80" and cat.name == "cat.png"
        assert not cat.adaptive and not dog.adaptive
        assert read_crops(path, "val") == [view, cat] and read_crops(path, "heldout") == [dog]

    @pytest.mark.parametrize("column", ["split", "path", "kind", "yaw_deg", "pitch_deg", "fov_deg"])
    def test_missing_column(self, tmp_path: Path, column: str) -> None:
        path = write_crops(tmp_path, self.ROWS.replace(column, "other", 1))
        with pytest.raises(SceneError, match=rf"crops\.csv, line 2: .*'{column}'"):
            read_crops(path)

    @pytest.mark.parametrize("row", ["val,a,fisheye,0,0,80,,", "val,a", "val"])
    def test_unknown_kind(self, tmp_path: Path, row: str) -> None:
        with pytest.raises(SceneError, match="line 2: kind .* is neither 'perspective' nor 'box'"):
            read_crops(write_crops(tmp_path, HEADER + row + "\n"))

    @pytest.mark.parametrize("angle", ["left", "nan", "inf"])
    def test_angle_that_is_no_number(self, tmp_path: Path, angle: str) -> None:
        with pytest.raises(SceneError, match=f"line 2: .*{angle}"):
            read_crops(write_crops(tmp_path, HEADER + f"val,a.hdr,perspective,{angle},0,80,,\n"))

    @pytest.mark.parametrize("name", ["none.csv", ""])
    def test_missing_file(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(SceneError, match="cannot be read as a crop list"):
            read_crops(tmp_path / name)

    def test_binary_file(self, tmp_path: Path) -> None:
        (tmp_path / "crops.csv").write_bytes(b"\xff\xfe\x00\x9d")
        with pytest.raises(SceneError, match="cannot be read as a crop list"):
            read_crops(tmp_path / "crops.csv")

    def test_empty_split(self, tmp_path: Path) -> None:
        with pytest.raises(SceneError, match="no row of the split 'test'"):
            read_crops(write_crops(tmp_path, self.ROWS), "test")
        for text in ("", HEADER):
            with pytest.raises(SceneError, match=r"has no row\.$"):
                read_crops(write_crops(tmp_path, text))

    @pytest.mark.skipif(not CROPS.is_file(), reason="the crop list is not on this machine")
    def test_published_list(self) -> None:
        assert len(read_crops(CROPS, "val")) == 36 and len(read_crops(CROPS, "heldout")) == 44
        assert all(sum(crop.adaptive for crop in read_crops(CROPS, split)) == 8 for split in ("val", "heldout"))

    def test_scene_of_a_view_is_exposed(self, panorama_file: Path) -> None:
        crop = Crop("val", panorama_file.name, "perspective", 30, 0, 70, adaptive=False)
        scene = crop.scene(panorama_file.parent)
        luminance = torch.einsum("bchw,c->bhw", scene, torch.tensor(LUMINANCE))
        assert scene.shape == (1, 3, 256, 256) and luminance.median() == pytest.approx(0.2, rel=1e-3)

    def test_scene_of_a_photo_keeps_its_tones(self, tmp_path: Path) -> None:
        photo = random_image(1, 3, 260, 270) * 0.9
        write_png(photo, tmp_path / "cat.png", bits=16)
        scene = Crop("val", "cat.png", "box", 0, 0, 0, adaptive=False).scene(str(tmp_path))
        torch.testing.assert_close(tone_map(scene), centre_crop(photo), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("kind", ["perspective", "box"])
    def test_surroundings_leave_the_frame_as_it_is(self, kind: str, panorama_file: Path, tmp_path: Path) -> None:
        photo = random_image(1, 3, 300, 400)
        photo[..., 140:147, 200:207] = 1.0  # a lamp by the frame's size, or by the photo's
        write_png(photo, tmp_path / "cat.png", bits=16)
        folder, name = (panorama_file.parent, panorama_file.name) if kind == "perspective" else (tmp_path, "cat.png")
        crop = Crop("val", name, kind, 30, 0, 70, adaptive=False)
        whole = crop.scene(folder, margin=30)
        assert whole.shape == (1, 3, 316, 316)
        torch.testing.assert_close(whole[..., 30:-30, 30:-30], crop.scene(folder), atol=1e-6, rtol=1e-6)

    def test_scene_that_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(SceneError, match="none.hdr"):
            Crop("val", "none.hdr", "perspective", 0, 0, 70, adaptive=False).scene(tmp_path)
        with pytest.raises(ImageError, match="none.png"):
            Crop("val", "none.png", "box", 0, 0, 0, adaptive=False).scene(tmp_path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    captures, clean = tmp_path / "captures", tmp_path / "clean"
    captures.mkdir()
    clean.mkdir()
    return captures, clean


def save_array(path: Path, image: Tensor) -> None:
    np.save(path, image[0].permute(1, 2, 0).numpy())


class TestReadPairs:
    @pytest.mark.parametrize("kind", ["png", "deep png", "npy"])
    def test_kinds(self, folders: tuple[Path, Path], kind: str) -> None:
        images = [random_image(1, 3, 6, 9, seed=seed) for seed in (0, 1)]
        for folder, image in zip(folders, images, strict=True):
            if kind == "npy":
                save_array(folder / "b.npy", image)
            else:
                write_png(image, folder / "b.png", bits=8 if kind == "png" else 16)
        (pair,) = read_pairs(*folders)
        assert pair.name == "b"
        step = {"png": 0.5 / 255, "deep png": 0.5 / 65535, "npy": 0}[kind]
        for read, image in zip(pair.load(), images, strict=True):
            assert read.shape == (1, 3, 6, 9) and read.dtype == torch.float32
            assert (read - image).abs().max() <= step + 1e-7

    def test_order_and_hidden_files(self, folders: tuple[Path, Path]) -> None:
        for folder in folders:
            for name in ("c", "a", "b"):
                write_png(torch.zeros(1, 3, 2, 2), folder / f"{name}.png")
        (folders[0] / ".DS_Store").write_bytes(b"")
        (folders[1] / "folder").mkdir()
        assert [pair.name for pair in read_pairs(str(folders[0]), str(folders[1]))] == ["a", "b", "c"]

    def test_kinds_may_differ(self, folders: tuple[Path, Path]) -> None:
        write_png(torch.zeros(1, 3, 2, 2), folders[0] / "a.png")
        save_array(folders[1] / "a.npy", torch.zeros(1, 3, 2, 2))
        capture, clean = read_pairs(*folders)[0].load()
        assert torch.equal(capture, clean)

    def test_domains(self, folders: tuple[Path, Path]) -> None:
        radiance = torch.tensor([0.0, 0.25, 0.75, 2.25, 500.0, 9000.0]).repeat(3, 1)[None, :, None]
        for folder in folders:
            save_array(folder / "a.npy", radiance)
        expected = torch.tensor([0.0, 0.5, 0.75, 0.9, 500 / 500.25, 500 / 500.25])
        torch.testing.assert_close(read_pairs(*folders, domain="linear")[0].load()[0][0, 1, 0], expected)
        for domain in ("tonemapped", "srgb"):
            with pytest.raises(SceneError, match=r"a\.npy: holds floating-point values from 0 to 9000, not in 0…1\.$"):
                read_pairs(*folders, domain=domain)[0].load()
            save_array(folders[0] / "b.npy", radiance[..., :4] / 3)
            save_array(folders[1] / "b.npy", radiance[..., :4] / 3)
            assert torch.equal(read_pairs(*folders, domain=domain)[1].load()[1], radiance[..., :4] / 3)

    @pytest.mark.parametrize("domain", ["tonemapped", "srgb"])
    @pytest.mark.parametrize("kind", ["u1", "u2", "u4", ">u2"])
    def test_integers_count_by_their_full_scale(self, folders: tuple[Path, Path], kind: str, domain: str) -> None:
        """A pair has the same values as floats, as PNG and as integers."""
        image = quantize(random_image(1, 3, 6, 9))
        full = np.iinfo(kind).max
        np.save(folders[0] / "a.npy", (image[0].permute(1, 2, 0).double().numpy() * full).round().astype(kind))
        write_png(image, folders[1] / "a.png")
        capture, clean = read_pairs(*folders, domain=domain)[0].load()
        torch.testing.assert_close(capture, clean, atol=2e-7, rtol=0)

    @pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u8"])
    def test_integers_without_a_white_are_refused(self, folders: tuple[Path, Path], kind: str) -> None:
        for folder in folders:
            np.save(folder / "a.npy", np.ones((4, 4, 3), kind))
        with pytest.raises(SceneError, match=r"a\.npy: holds u?int\d+, whose white nobody knows"):
            read_pairs(*folders)[0].load()

    @pytest.mark.parametrize("value", [-0.01, 1.01, 255.0])
    def test_floats_outside_of_the_unit_range_are_refused(self, folders: tuple[Path, Path], value: float) -> None:
        for folder in folders:
            np.save(folder / "a.npy", np.full((4, 4, 3), value))
        with pytest.raises(SceneError, match=r"a\.npy: holds floating-point values .* not in 0…1\.$"):
            read_pairs(*folders)[0].load()
        assert read_pairs(*folders, domain="linear")[0].load()[0].isfinite().all()

    @pytest.mark.parametrize("kind", ["u1.npy", "u2.npy", "png", "tif"])
    def test_integers_are_no_light(self, folders: tuple[Path, Path], kind: str) -> None:
        for folder in folders:
            if kind.endswith("npy"):
                np.save(folder / "a.npy", np.ones((4, 4, 3), kind[:2]))
            else:
                Image.new("RGB", (4, 4)).save(folder / f"a.{kind}")
        with pytest.raises(SceneError, match=r"a\.\w+: (holds .*whose light nobody knows|not a Radiance .hdr file)"):
            read_pairs(*folders, domain="linear")[0].load()

    @pytest.mark.parametrize("kind", ["exr", "hdr", "tif", "npy"])
    def test_light_of_any_file_is_the_same(self, folders: tuple[Path, Path], kind: str) -> None:
        radiance = 2.0 ** torch.randint(-4, 8, (1, 3, 6, 9), generator=torch.Generator().manual_seed(0)).float()
        radiance[:, 1:] = radiance[:, :1]  # Radiance shares one exponent among the channels
        save_array(folders[0] / "a.npy", radiance)
        write_light(folders[1] / f"a.{kind}", radiance[0])
        capture, clean = read_pairs(*folders, domain="linear")[0].load()
        assert torch.equal(capture, clean) and torch.equal(capture, tone_map(radiance))
        if kind in ("exr", "hdr"):
            with pytest.raises(ImageError, match="holds linear light"):
                read_pairs(folders[1], folders[1])[0].load()

    def test_light_that_is_no_number(self, folders: tuple[Path, Path]) -> None:
        for folder in folders:
            write_light(folder / "a.exr", torch.full((3, 4, 4), math.nan))
        with pytest.raises(SceneError, match=r"a\.exr: holds values that are no numbers\.$"):
            read_pairs(*folders, domain="linear")[0].load()

    @pytest.mark.parametrize("index", [0, 1])
    def test_two_files_of_one_name_are_not_chosen_from(self, folders: tuple[Path, Path], index: int) -> None:
        for folder in folders:
            write_png(torch.zeros(1, 3, 2, 2), folder / "a.png")
        save_array(folders[index] / "a.npy", torch.zeros(1, 3, 2, 2))
        with pytest.raises(SceneError, match=rf"{folders[index].name}: a\.npy and a\.png are two files of one name"):
            read_pairs(*folders)

    def test_files_beside_the_pictures(self, folders: tuple[Path, Path]) -> None:
        for folder in folders:
            write_png(torch.zeros(1, 3, 2, 2), folder / "a.png")
        (folders[0] / "a.json").write_text("{}")
        (folders[0] / "README.txt").write_text("How these were taken.")
        (folders[1] / "Thumbs.db").write_bytes(b"")
        assert [pair.name for pair in read_pairs(*folders)] == ["a"]

    def test_pipe(self, folders: tuple[Path, Path]) -> None:
        os.mkfifo(folders[0] / "a.npy")
        save_array(folders[1] / "a.npy", torch.zeros(1, 3, 2, 2))
        assert read_pairs(folders[1], folders[1])[0].load()[0].shape == (1, 3, 2, 2)
        with pytest.raises(SceneError, match="'a' is in one only"):
            read_pairs(*folders)
        with pytest.raises(SceneError, match=r"a\.npy: is no regular file\.$"):
            Pair("a", folders[0] / "a.npy", folders[1] / "a.npy", "srgb").load()

    def test_unknown_domain(self, folders: tuple[Path, Path]) -> None:
        with pytest.raises(SceneError, match="'log' is not tonemapped, srgb or linear"):
            read_pairs(*folders, domain="log")

    @pytest.mark.parametrize("index", [0, 1])
    def test_missing_partner(self, folders: tuple[Path, Path], index: int) -> None:
        for folder in folders:
            write_png(torch.zeros(1, 3, 2, 2), folder / "a.png")
        write_png(torch.zeros(1, 3, 2, 2), folders[index] / "lonely.png")
        with pytest.raises(SceneError, match="'lonely' is in one only"):
            read_pairs(*folders)

    def test_empty_and_missing_folders(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        with pytest.raises(SceneError, match=r"no image\.$"):
            read_pairs(*folders)
        with pytest.raises(SceneError, match=r"none: cannot be read as a folder \(No such file or directory\)\.$"):
            read_pairs(tmp_path / "none", folders[1])

    def test_size_mismatch(self, folders: tuple[Path, Path]) -> None:
        write_png(torch.zeros(1, 3, 4, 6), folders[0] / "a.png")
        write_png(torch.zeros(1, 3, 6, 4), folders[1] / "a.png")
        with pytest.raises(SceneError, match="a: capture 6x4 and clean image 4x6 differ in size"):
            read_pairs(*folders)[0].load()

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((4, 4)),
            np.zeros((4, 4, 4)),
            np.zeros((0, 4, 3)),
            np.full((2, 2, 3), np.nan),
            np.full((2, 2, 3), "a"),
            np.full((2, 2, 3), 1j),
        ],
        ids=["grey", "four channels", "no pixels", "nan", "text", "complex"],
    )
    def test_array_that_is_no_image(self, folders: tuple[Path, Path], array: np.ndarray) -> None:
        for folder in folders:
            np.save(folder / "a.npy", array)
        with pytest.raises(SceneError, match=r"a\.npy: holds .* \(H, W, 3\)\.$"):
            read_pairs(*folders)[0].load()

    @pytest.mark.parametrize("case", ["empty", "text", "truncated", "pickled", "archive", "terabyte"])
    def test_file_that_is_no_array(self, folders: tuple[Path, Path], case: str) -> None:
        path = folders[0] / "a.npy"
        np.save(path, np.zeros((2, 2, 3), np.float32))
        write_png(torch.zeros(1, 3, 2, 2), folders[1] / "a.png")
        if case == "pickled":
            np.save(path, np.array([[["a", None, {}]]], dtype=object))
        elif case == "archive":
            with open(path, "wb") as file:
                np.savez(file, image=np.zeros((2, 2, 3)))
        elif case == "terabyte":
            with open(path, "wb") as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**5, 3)}
                np.lib.format.write_array_header_1_0(file, header)
        else:
            path.write_bytes({"empty": b"", "text": b"no array", "truncated": path.read_bytes()[:-4]}[case])
        with pytest.raises(SceneError, match=r"a\.npy: cannot be read as a NumPy array\.$"):
            read_pairs(*folders)[0].load()
