"""Diffraction against closed forms, panels against what is published of them."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from udc_defense.errors import SettingError
from udc_defense.optics import (
    APERTURE_STEP,
    FOCAL_LENGTH,
    LENS_DIAMETER,
    PANELS,
    PIXEL,
    PSF_RADIUS,
    fraunhofer,
    lens_aperture,
    random_psf,
    vary_psf,
)
from udc_defense.panel_file import get_panel, panel_psf


def load_figures() -> ModuleType:
    """The published tables, which live with the benchmark that prints them."""
    path = Path(__file__).parents[1] / "benchmarks" / "psf_figures.py"
    spec = importlib.util.spec_from_file_location("psf_figures", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FIGURES = load_figures()


def distance(side: int) -> Tensor:
    axis = torch.arange(side) - side // 2
    return torch.hypot(*torch.meshgrid(axis.float(), axis.float(), indexing="ij"))


def rosette(side: int = 41) -> Tensor:
    """A unit-sum PSF: a bright core and smooth lobes, different in each quadrant and channel."""
    axis = torch.arange(side, dtype=torch.float32) - side // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    psf = 0.02 * torch.exp(-(x**2 + y**2) / 2)
    for channel, (cx, cy) in enumerate(((9, 2), (-3, 10), (-8, -6))):
        psf = psf + torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 18) * torch.tensor(
            [0.004 if index == channel else 0.001 for index in range(3)]
        ).view(3, 1, 1)
    return psf / psf.sum((-2, -1), keepdim=True)


class TestFraunhofer:
    @pytest.mark.parametrize("wavelength", [0.465, 0.615])
    def test_slit_is_sinc_squared(self, wavelength: float) -> None:
        """A rectangle a x b gives sinc²(a u/λf) sinc²(b v/λf) (Goodman, eq. 4-29)."""
        step, wide, tall = 2.0, 120, 201
        aperture = torch.zeros(301, 301)
        aperture[50 : 50 + tall, 90 : 90 + wide] = 1
        size, pitch = 81, 0.5
        result = fraunhofer(
            aperture, step=step, wavelength=wavelength, focal_length=FOCAL_LENGTH, pitch=pitch, size=size
        )
        u = (torch.arange(size, dtype=torch.float64) - 40) * pitch / (wavelength * FOCAL_LENGTH)
        peak = (wide * tall * step**2) ** 2
        expected = peak * torch.sinc(tall * step * u)[:, None] ** 2 * torch.sinc(wide * step * u)[None] ** 2
        assert result.shape == (size, size) and result.dtype == torch.float64
        assert expected[40].min() < 1e-4 * peak  # the range holds zeros and side lobes
        assert (result - expected).abs().max() < 1e-3 * peak

    def test_energy_over_one_period_is_the_apertures(self) -> None:
        """Parseval: with N samples of pitch λf/(N·step), the mean of |F|² is the sum of |A|²."""
        count, step, wavelength = 48, 2.5, 0.53
        aperture = torch.rand(count, count, generator=torch.Generator().manual_seed(0))
        pitch = wavelength * FOCAL_LENGTH / (count * step)
        result = fraunhofer(
            aperture, step=step, wavelength=wavelength, focal_length=FOCAL_LENGTH, pitch=pitch, size=count
        )
        energy = aperture.double().square().sum() * step**4
        assert result.sum() / count**2 == pytest.approx(energy.item(), rel=1e-5)

    def test_moved_aperture_has_the_same_intensity(self) -> None:
        aperture = torch.zeros(60, 60)
        aperture[5:20, 8:15] = torch.rand(15, 7, generator=torch.Generator().manual_seed(1))
        both = [
            fraunhofer(shifted, step=2.5, wavelength=0.53, focal_length=FOCAL_LENGTH, pitch=2.0, size=31)
            for shifted in (aperture, aperture.roll((30, 25), dims=(0, 1)))
        ]
        assert (both[0] - both[1]).abs().max() < 1e-4 * both[0].max()


class TestLayouts:
    @pytest.mark.parametrize(
        ("name", "pitch", "ratio", "within"),
        [
            ("toled", 168, 0.21, 0.01),
            ("poled", 126, 0.265, 0.01),
        ],
    )
    def test_open_ratio(self, name: str, pitch: float, ratio: float, within: float) -> None:
        periods, count = 6, 6 * 101
        axis = (np.arange(count) + 0.5) / count * periods * pitch - 2.5 * pitch
        amplitude = get_panel(name).layout(*np.meshgrid(axis, axis))
        assert amplitude.min() >= 0 and amplitude.max() <= 1
        assert amplitude.mean() == pytest.approx(ratio, abs=within)

    def test_open_ratio_of_the_phone(self) -> None:
        opened, lens = lens_aperture(get_panel("axon20").layout), lens_aperture(lambda x, y: np.ones_like(x))
        assert opened.sum() / lens.sum() == pytest.approx(0.63, abs=0.03)

    def test_pupil_is_the_lens(self) -> None:
        area = lens_aperture(lambda x, y: np.ones_like(x)).sum().item() * APERTURE_STEP**2
        assert area == pytest.approx(math.pi * LENS_DIAMETER**2 / 4, rel=1e-3)


class TestPanels:
    @pytest.mark.parametrize("name", PANELS)
    def test_contract(self, name: str) -> None:
        psf = panel_psf(name)
        side = 2 * PSF_RADIUS + 1
        assert psf.shape == (3, side, side) == (3, 257, 257) and psf.dtype == torch.float32
        assert psf.min() >= 0
        torch.testing.assert_close(psf.double().sum((-2, -1)), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)
        assert (psf.flatten(1).argmax(dim=1) == side * side // 2).all()

    @pytest.mark.parametrize("name", PANELS)
    def test_real_aperture_gives_a_point_symmetric_psf(self, name: str) -> None:
        """|F(-u)| = |F(u)| for a real A."""
        psf = panel_psf(name)
        assert (psf - psf.flip((-2, -1))).abs().max() < 1e-5 * psf.max()

    def test_stripes_blur_across_themselves(self) -> None:
        """Orders of the 168 µm pitch lie λf/168 apart along the row, and nothing lies on the column."""
        psf = panel_psf("toled")
        row, column = psf[:, 128], psf[:, :, 128]
        for channel, wavelength in enumerate((0.615, 0.53, 0.465)):
            order = wavelength * FOCAL_LENGTH / 168 / PIXEL
            assert row[channel, 132:141].argmax() + 4 == pytest.approx(order, abs=0.7)
        assert (row[:, 132:160].sum(dim=1) > 30 * column[:, 132:160].sum(dim=1)).all()

    @pytest.mark.parametrize(("channel", "name"), [(0, "R"), (1, "G"), (2, "B")])
    @pytest.mark.parametrize("radius", [3.5, 7, 15, 30, 100])
    def test_energy_within_a_radius_is_near_the_phones(self, channel: int, name: str, radius: float) -> None:
        published = dict(zip(FIGURES.ENERGY_RADII, FIGURES.ENERGY[name], strict=True))[radius]
        ours = FIGURES.energy_within(panel_psf("axon20")[channel].numpy(), radius)
        assert ours == pytest.approx(published, abs=0.05)

    def test_radial_mean_is_near_the_phones(self) -> None:
        psf = panel_psf("axon20").mean(dim=0).numpy()
        for radius, published in zip(FIGURES.PROFILE_RADII, FIGURES.PROFILE, strict=True):
            if 4 <= radius <= 60:
                assert FIGURES.radial_mean(psf, radius) == pytest.approx(published, abs=0.5), radius

    def test_computed_once(self) -> None:
        assert panel_psf("toled") is panel_psf("toled")

    def test_unknown_panel(self) -> None:
        with pytest.raises(SettingError, match=r"^panel 'oled' is not one of axon20, toled, poled, and no file\.$"):
            get_panel("oled")


class TestVaryPsf:
    @pytest.mark.parametrize("name", PANELS)
    def test_identity(self, name: str) -> None:
        """The whole difference is a thousandth of the light, not only each pixel's."""
        psf = panel_psf(name)
        assert (vary_psf(psf) - psf).abs().sum((-2, -1)).max() < 1e-3

    @pytest.mark.parametrize(
        "change", [{"rotation": 13.0}, {"scale": 0.95}, {"scale": 1.05}, {"strength": 1.2}, {"strength": 0.0}]
    )
    def test_unit_sum(self, change: dict[str, float]) -> None:
        varied = vary_psf(panel_psf("axon20"), **change)
        assert varied.min() >= 0
        torch.testing.assert_close(varied.sum((-2, -1)), torch.ones(3), atol=1e-5, rtol=0)

    def test_quarter_turn(self) -> None:
        """Exact on the pixel grid; a PSF that a quarter turn does not change stays as it is."""
        psf = rosette()
        turned = vary_psf(psf, rotation=90.0)
        outside = distance(41) > 2.5
        quarter, back = (torch.rot90(psf, turns, dims=(-2, -1)) for turns in (1, -1))
        closest = min((turned - target)[:, outside].abs().max() for target in (quarter, back))
        assert closest < 1e-5 < 1e-4 < (psf - quarter)[:, outside].abs().max()
        symmetric = sum(torch.rot90(psf, turns, dims=(-2, -1)) for turns in range(4)) / 4
        torch.testing.assert_close(vary_psf(symmetric, rotation=90.0), symmetric, atol=1e-6, rtol=1e-4)

    def test_small_turns_add_up(self) -> None:
        psf = rosette()
        twice = vary_psf(vary_psf(psf, rotation=10.0), rotation=10.0)
        once = vary_psf(psf, rotation=20.0)
        assert (twice - once).abs().max() < 0.1 * (once - psf).abs().max()

    @pytest.mark.parametrize("rotation", [0.0, 30.0])
    def test_scale_moves_the_lobes_outwards(self, rotation: float) -> None:
        psf = torch.zeros(3, 81, 81)
        psf[:, 40, 40] = 0.7
        psf[:, 39:42, 59:62] = 0.3 / 9  # 20 pixels to the right
        for scale in (0.8, 1.2):
            lobe = vary_psf(psf, scale=scale, rotation=rotation)[0] * (distance(81) > 2.5)
            x, y = ((lobe.sum(dim=dim) * (torch.arange(81) - 40)).sum() / lobe.sum() for dim in (0, 1))
            assert math.hypot(x, y) == pytest.approx(20 * scale, abs=0.1)
            assert abs(math.degrees(math.atan2(y, x))) == pytest.approx(rotation, abs=0.5)
            assert lobe.sum() == pytest.approx(0.3, abs=1e-4)  # spread, not multiplied

    @pytest.mark.parametrize("strength", [0.0, 0.8, 1.2])
    def test_strength_weighs_the_lobes_against_the_core(self, strength: float) -> None:
        psf = rosette()
        core = distance(41) <= 2.5

        def ratio(kernel: Tensor) -> Tensor:
            return kernel[:, ~core].sum(dim=1) / kernel[:, core].sum(dim=1)

        torch.testing.assert_close(ratio(vary_psf(psf, strength=strength)), strength * ratio(psf), rtol=1e-4, atol=1e-7)

    def test_draws_follow_their_generator(self) -> None:
        psf = rosette()
        first, again, other = (random_psf(psf, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
        assert torch.equal(first, again) and not torch.equal(first, other)
        assert (first - psf).abs().sum((-2, -1)).max() < 0.5
