"""Linear light: Radiance, OpenEXR and TIFF of floats."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import OpenEXR
import pytest
import tifffile

from udc_defense.errors import ImageError
from udc_defense.formats.light import read_light

LIGHT = (np.random.default_rng(0).random((6, 9, 3)) * 100).astype(np.float32)
LIMIT = 10_000


def part(channels: dict[str, Any], name: str = "", **header: Any) -> OpenEXR.Part:
    return OpenEXR.Part(
        {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage} | header, channels, name
    )


@pytest.fixture
def exr(tmp_path: Path) -> Any:
    def write(*parts: OpenEXR.Part) -> bytes:
        with OpenEXR.File(list(parts)) as file:
            file.write(str(tmp_path / "a.exr"))
        return (tmp_path / "a.exr").read_bytes()

    return write


def rgb(dtype: str = "f4") -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(LIGHT[..., i].astype(dtype)) for i, name in enumerate("RGB")}


class TestOpenExr:
    @pytest.mark.parametrize("dtype", ["f2", "f4"])
    @pytest.mark.parametrize("compression", ["NO", "RLE", "ZIPS", "ZIP", "PIZ"])
    def test_values(self, exr: Any, dtype: str, compression: str) -> None:
        data = exr(part(rgb(dtype), compression=getattr(OpenEXR, f"{compression}_COMPRESSION")))
        np.testing.assert_array_equal(read_light(data, LIMIT), LIGHT.astype(dtype).astype("f4"))

    def test_further_channels_are_passed_over(self, exr: Any) -> None:
        data = exr(part(rgb() | {"A": LIGHT[..., 0] * 0, "Z": LIGHT[..., 1] * 0, "spec.R": LIGHT[..., 1] * 0}))
        np.testing.assert_array_equal(read_light(data, LIMIT), LIGHT)

    def test_luminance_alone(self, exr: Any) -> None:
        read = read_light(exr(part({"Y": np.ascontiguousarray(LIGHT[..., 0])})), LIMIT)
        np.testing.assert_array_equal(read, LIGHT[..., :1].repeat(3, -1))

    def test_first_part_with_colours(self, exr: Any) -> None:
        depth = part({"Z": np.ascontiguousarray(LIGHT[..., 0])}, "depth")
        read = read_light(exr(depth, part(rgb(), "beauty"), part({"R": LIGHT[..., 0] * 0}, "rest")), LIMIT)
        np.testing.assert_array_equal(read, LIGHT)

    def test_many_layers(self, exr: Any) -> None:
        data = exr(part({f"{i}": LIGHT[..., 0] * 1 for i in range(30)} | rgb()))
        np.testing.assert_array_equal(read_light(data, LIMIT), LIGHT)
        with pytest.raises(ImageError, match="more layers than are read"):
            read_light(data, 60)

    def test_infinite_light_stays(self, exr: Any) -> None:
        values = rgb()
        values["R"][0, 0] = np.inf
        assert read_light(exr(part(values)), LIMIT)[0, 0, 0] == np.inf

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            (lambda: part({"diffuse.R": LIGHT[..., 0] * 1}), "no channels R, G and B"),
            (lambda: part({name: (value * 1).astype(np.uint32) for name, value in rgb().items()}), "holds integers"),
            (
                lambda: part(rgb(), displayWindow=((0, 0), (20, 20))),
                "data window that is not its display window",
            ),
            (
                lambda: part(rgb(), chromaticities=(0.7347, 0.2653, 0.0, 1.0, 0.0001, -0.077, 0.32168, 0.33767)),
                "other primaries than Rec. 709",
            ),
        ],
        ids=["layer", "integers", "window", "ACES"],
    )
    def test_refusals(self, exr: Any, wrong: Any, reason: str) -> None:
        with pytest.raises(ImageError, match=reason):
            read_light(exr(wrong()), LIMIT)

    def test_size_is_checked_before_anything_is_decoded(self, exr: Any) -> None:
        data = exr(part(rgb()))
        with pytest.raises(ImageError, match="9x6 pixels, more than"):
            read_light(data, 53)
        window = np.array([0, 0, 8, 5], "<i4").tobytes()
        with pytest.raises(ImageError, match="60000x60000 pixels, more than"):
            read_light(data.replace(window, np.array([0, 0, 59_999, 59_999], "<i4").tobytes()), LIMIT)

    @pytest.mark.parametrize("kept", [4, 100, 300, -40])
    def test_truncated(self, exr: Any, kept: int, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(ImageError, match=r"damaged, its pixels cannot be decoded\.$"):
            read_light(exr(part(rgb()))[:kept], LIMIT)
        assert not capfd.readouterr().out


def radiance(*lines: bytes) -> bytes:
    done, data = cv2.imencode(".hdr", np.ascontiguousarray(2.0 ** (LIGHT // 20)[..., :1].repeat(3, -1)))
    assert done
    return data.tobytes().replace(b"#?RADIANCE\n", b"#?RADIANCE\n" + b"".join(line + b"\n" for line in lines), 1)


class TestRadiance:
    def test_exposure_is_taken_out(self) -> None:
        """Each line of it says what the light was multiplied by."""
        plain = read_light(radiance(), LIMIT)
        np.testing.assert_array_equal(read_light(radiance(b"EXPOSURE=2.0", b"EXPOSURE= 4"), LIMIT), plain / 8)

    @pytest.mark.parametrize("value", [b"", b"0", b"-1", b"nan", b"inf", b"much"])
    def test_exposure_that_is_none(self, value: bytes) -> None:
        with pytest.raises(ImageError, match="EXPOSURE"):
            read_light(radiance(b"EXPOSURE=" + value), LIMIT)

    def test_other_colours(self) -> None:
        with pytest.raises(ImageError, match="XYZ"):
            read_light(radiance().replace(b"32-bit_rle_rgbe", b"32-bit_rle_xyze"), LIMIT)


class TestTiff:
    @staticmethod
    def write(values: np.ndarray, photometric: str) -> bytes:
        file = io.BytesIO()
        tifffile.imwrite(file, values, photometric=photometric)
        return file.getvalue()

    def test_floats_of_any_size(self) -> None:
        np.testing.assert_array_equal(read_light(self.write(LIGHT, "rgb"), LIMIT), LIGHT)
        grey = read_light(self.write(LIGHT[..., 0], "minisblack"), LIMIT)
        np.testing.assert_array_equal(grey, LIGHT[..., :1].repeat(3, -1))

    def test_integers_are_no_light(self) -> None:
        with pytest.raises(ImageError, match="whose light nobody knows"):
            read_light(self.write(LIGHT.astype(np.uint8), "rgb"), LIMIT)
