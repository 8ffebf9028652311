"""A display that nobody drew: its PSF, noise and gain are found from pairs of photos, or the pairs are refused."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from udc_defense.calibration.encoding import linear_to_srgb, srgb_to_linear
from udc_defense.calibration.pairs import Calibration, calibrate_pairs, calibration_steps, step_count
from udc_defense.errors import PanelError
from udc_defense.images import quantize, write_png
from udc_defense.imaging import capture, convolve, expose, inverse_tone_map, tone_map
from udc_defense.optics import Panel
from udc_defense.scenes import Pair, read_pairs

SIDE, REACH = 128, 6
FACTS = {"reach": REACH, "name": "phone"}


def drawn_scene(seed: int, side: int = SIDE) -> Tensor:
    """Light (1, 3, side, side): overlapping discs of any brightness and colour, with grain, and some bright lamps."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    scene = np.full((3, side, side), 0.2)
    for _ in range(120):
        cx, cy, radius = random.uniform(0, side), random.uniform(0, side), random.uniform(2, side / 5)
        scene[:, np.hypot(x - cx, y - cy) < radius] = random.uniform(0.02, 1.5, (3, 1))
    scene *= np.exp(random.normal(0, 0.15, scene.shape))
    for _ in range(4):
        cx, cy = random.integers(0, side, 2)
        scene[:, cy : cy + 2, cx : cx + 2] = 300.0
    return expose(torch.from_numpy(scene).float()[None])


@lru_cache(maxsize=1)
def hidden_psf() -> Tensor:
    """A core and a lopsided cross of lobes, another in each channel."""
    axis = torch.arange(-REACH, REACH + 1, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    psf = torch.stack([torch.exp(-((x - s) ** 2) / 10 - (y + 1) ** 2 / (4 + s)) for s in (1.0, 2.0, 3.0)])
    psf = psf * (1 + torch.cos(1.7 * x) * torch.cos(1.3 * y)) / psf.sum((-2, -1), keepdim=True)
    psf[:, REACH, REACH] += 1.0
    return psf / psf.sum((-2, -1), keepdim=True)


PHONE = Panel("hidden", "", None, (0.5, 0.6, 0.4), 4000.0, hidden_psf())


def photographed(seed: int) -> tuple[Tensor, Tensor]:
    """An 8-bit pair: capture and clean image, tone-mapped."""
    scene = drawn_scene(seed)
    return quantize(capture(scene, PHONE, generator=torch.Generator().manual_seed(seed))), quantize(tone_map(scene))


def write_pairs(folder: Path, pairs: list[tuple[Tensor, Tensor]], domain: str = "tonemapped") -> list[Pair]:
    for index, images in enumerate(pairs):
        for name, image in zip(("captures", "clean"), images, strict=True):
            (folder / name).mkdir(exist_ok=True)
            write_png(image, folder / name / f"{index}.png")
    return read_pairs(folder / "captures", folder / "clean", domain)  # type: ignore[arg-type]


def decibels(first: Tensor, second: Tensor, where: Tensor) -> float:
    return -10 * float(torch.log10((first - second)[where].square().mean()))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    pairs = write_pairs(tmp_path_factory.mktemp("pairs"), [photographed(seed) for seed in range(3)])
    return calibrate_pairs(pairs, **FACTS, source="drawn", licence="CC0-1.0")


class TestCalibratePairs:
    def test_predicts_a_capture_that_it_never_saw(self, found: Calibration) -> None:
        scene = drawn_scene(9)
        captured, _ = photographed(9)
        below = captured < tone_map(torch.tensor(PHONE.saturation)).view(3, 1, 1) - 2 / 255
        truth, ours = (tone_map(convolve(scene, psf)) for psf in (PHONE.psf, found.panel.psf))
        assert decibels(ours, truth, below) > 45
        assert decibels(ours, captured, below) > decibels(truth, captured, below) - 0.3

    def test_contract_of_the_psf(self, found: Calibration) -> None:
        psf = found.panel.psf
        assert psf.shape == (3, 2 * REACH + 1, 2 * REACH + 1) and psf.min() >= 0
        torch.testing.assert_close(psf.sum((-2, -1)), torch.ones(3), atol=1e-5, rtol=0)
        assert (psf - PHONE.psf).abs().sum((-2, -1)).max() < 0.12

    def test_noise_gain_and_saturation(self, found: Calibration) -> None:
        assert found.panel.electrons == pytest.approx(PHONE.electrons, rel=0.25)
        assert found.panel.read_noise == pytest.approx(PHONE.read_noise, rel=0.6)
        assert found.gains == pytest.approx((1, 1, 1), abs=0.01)
        ours, truth = (tone_map(torch.tensor(panel.saturation)) for panel in (found.panel, PHONE))
        torch.testing.assert_close(ours, truth, atol=1 / 255, rtol=0)  # a level of the file

    def test_says_how_far_to_trust_it(self, found: Calibration) -> None:
        assert found.predicted == pytest.approx(found.noise_alone, abs=0.5)
        assert found.residual.shape == (1, 3, SIDE, SIDE)
        assert abs(float(found.residual.mean()) - 0.5) < 0.02
        assert f"predicted to {found.predicted:.1f} dB" in found.panel.source
        assert found.panel.source.startswith("drawn Calibrated from 3 pair(s)") and found.panel.licence == "CC0-1.0"

    def test_a_wrong_psf_would_show(self, found: Calibration, tmp_path: Path) -> None:
        """The held-back figure is no constant: where another display took the last pair, it drops."""
        other = replace(PHONE, measured=hidden_psf().flip(-1).roll(2, -1))
        scene = drawn_scene(2)
        captured = quantize(capture(scene, other, generator=torch.Generator().manual_seed(0)))
        pairs = write_pairs(tmp_path, [photographed(0), photographed(1), (captured, quantize(tone_map(scene)))])
        worse = calibrate_pairs(pairs, **FACTS)
        assert worse.predicted < found.predicted - 5
        assert "much worse than the noise explains" in " ".join(worse.words)

    def test_light_loss_is_found(self, tmp_path: Path) -> None:
        """Linear 16-bit files of one exposure: the gain is what the display lets through."""
        share = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
        for name in ("captures", "clean"):
            (tmp_path / name).mkdir()
        for seed in range(2):
            scene = drawn_scene(seed).clamp_max(4.0)
            captured = share * inverse_tone_map(capture(scene, PHONE, generator=torch.Generator().manual_seed(seed)))
            for name, light in (("captures", captured), ("clean", scene)):
                np.save(tmp_path / name / f"{seed}.npy", light[0].permute(1, 2, 0).numpy())
        found = calibrate_pairs(read_pairs(tmp_path / "captures", tmp_path / "clean", "linear"), **FACTS)
        assert found.gains == pytest.approx((0.5, 0.4, 0.3), rel=0.02)
        assert (found.panel.psf - PHONE.psf).abs().sum((-2, -1)).max() < 0.15
        assert ", ".join(f"{gain:.3f}" for gain in found.gains) + " times as bright" in found.panel.source
        assert found.panel.transmission == pytest.approx(found.gains, rel=0.4)  # from the noise of two photos

    def test_one_pair_and_a_region(self, tmp_path: Path) -> None:
        """Outside of the region another display may stand: it does not count."""
        captured, clean = photographed(0)
        captured[..., :40, :] = captured[..., :40, :].flip(-1)
        pairs = write_pairs(tmp_path, [(captured, clean)])
        part = calibrate_pairs(pairs, **FACTS, region=(0, 40, SIDE, SIDE - 40))
        whole = calibrate_pairs(pairs, **FACTS)
        assert part.predicted > 35 > whole.predicted
        error, worse = ((c.panel.psf - PHONE.psf).abs().sum() for c in (part, whole))
        assert error < worse

    def test_progress_is_told(self, tmp_path: Path) -> None:
        pairs = write_pairs(tmp_path, [photographed(0)])
        steps = calibration_steps(pairs, name="phone", reach=2, region=None, fit_tone_curve=None, source="", licence="")
        assert list(steps) == list(range(1, step_count() + 1))


class TestToneCurve:
    @pytest.fixture
    def pairs(self, tmp_path: Path) -> list[Pair]:
        """Clean images in sRGB; captures through a camera's own curve and a gain per channel."""
        shots = []
        for seed in range(3):
            clean = quantize(linear_to_srgb((drawn_scene(seed) * 0.8).clamp(0, 1)))
            light = convolve(srgb_to_linear(clean), hidden_psf()) * torch.tensor([0.9, 0.8, 0.7]).view(3, 1, 1)
            noisy = light + 0.004 * torch.randn(light.shape, generator=torch.Generator().manual_seed(seed))
            shots.append((quantize(noisy.clamp(0, 1) ** 0.6), clean))
        return write_pairs(tmp_path, shots, "srgb")

    def test_is_fitted_for_srgb_and_said(self, pairs: list[Pair]) -> None:
        found = calibrate_pairs(pairs, **FACTS)
        fixed = calibrate_pairs(pairs, **FACTS, fit_tone_curve=False)
        assert "A tone curve and gain of the captures were fitted" in " ".join(found.words)
        assert "no tone curve was fitted" in " ".join(fixed.words)
        assert found.predicted > fixed.predicted + 3
        errors = [float((c.panel.psf - hidden_psf()).abs().sum((-2, -1)).max()) for c in (found, fixed)]
        assert errors[0] < 0.2 and errors[0] < errors[1]


class TestRefusals:
    @pytest.fixture
    def pair(self) -> tuple[Tensor, Tensor]:
        return photographed(0)

    def test_no_pair(self) -> None:
        with pytest.raises(PanelError, match=r"^no pair of photos"):
            calibrate_pairs([], **FACTS)

    @pytest.mark.parametrize("reach", [0, 401])
    def test_reach(self, reach: int, pair: tuple[Tensor, Tensor], tmp_path: Path) -> None:
        with pytest.raises(PanelError, match="is not of 3² to 801²"):
            calibrate_pairs(write_pairs(tmp_path, [pair]), name="phone", reach=reach)

    def test_small(self, pair: tuple[Tensor, Tensor], tmp_path: Path) -> None:
        small = (pair[0][..., :40], pair[1][..., :40])
        with pytest.raises(PanelError, match=rf"0: 40x{SIDE} pixels are too few"):
            calibrate_pairs(write_pairs(tmp_path, [small]), **FACTS)

    @pytest.mark.parametrize("region", [(-1, 0, 80, 80), (0, 0, 10, 80), (100, 0, 80, 80)])
    def test_region(self, region: tuple[int, int, int, int], pair: tuple[Tensor, Tensor], tmp_path: Path) -> None:
        with pytest.raises(PanelError, match=r"0: the region .* is not at least 64x64 pixels inside of 128x128\.$"):
            calibrate_pairs(write_pairs(tmp_path, [pair]), **FACTS, region=region)

    def test_another_scene(self, pair: tuple[Tensor, Tensor], tmp_path: Path) -> None:
        other = quantize(tone_map(drawn_scene(5)))
        with pytest.raises(PanelError, match=r"^0: capture and clean image (do not show the same scene|are off by)"):
            calibrate_pairs(write_pairs(tmp_path, [(pair[0], other)]), **FACTS)
