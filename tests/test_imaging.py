"""Tone map, exposure, convolution and noise, each against arithmetic done another way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from udc_defense.errors import SettingError
from udc_defense.imaging import LUMINANCE, MAX_RADIANCE, capture, convolve, expose, inverse_tone_map, tone_map
from udc_defense.optics import FULL_WELL, PANELS, READ_NOISE
from udc_defense.panel_file import get_panel

DELTA = torch.ones(3, 1, 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_psf(*shape: int, seed: int = 0) -> Tensor:
    """Positive, lopsided, of unit sum per channel."""
    psf = torch.rand(*shape, generator=seeded(seed))
    return psf / psf.sum((-2, -1), keepdim=True)


def spatial(scene: Tensor, psf: Tensor) -> Tensor:
    """The convolution by its definition, over edges reflected by NumPy."""
    margin = psf.shape[-1] // 2
    padded = np.pad(scene.numpy(), ((0, 0), (0, 0), (margin, margin), (margin, margin)), mode="symmetric")
    kernel = psf.flip((-2, -1))[:, None].double()
    return torch.nn.functional.conv2d(torch.from_numpy(padded).double(), kernel, groups=3).float()


def luminance(scene: Tensor) -> Tensor:
    return torch.einsum("bchw,c->bhw", scene, torch.tensor(LUMINANCE)).flatten(1)


class TestToneMap:
    def test_known_values(self) -> None:
        radiance = torch.tensor([0.0, 0.25, 0.75, 12.25, 500.0], dtype=torch.float64)
        expected = torch.tensor([0.0, 0.5, 0.75, 0.98, 500 / 500.25], dtype=torch.float64)
        torch.testing.assert_close(tone_map(radiance), expected)
        torch.testing.assert_close(inverse_tone_map(expected), radiance)

    def test_round_trip_below_one(self) -> None:
        tones = torch.linspace(0, 0.999, 1000, dtype=torch.float64)
        torch.testing.assert_close(tone_map(inverse_tone_map(tones)), tones, atol=1e-14, rtol=0)
        radiance = torch.logspace(-6, 2.69, 1000, dtype=torch.float64)
        torch.testing.assert_close(inverse_tone_map(tone_map(radiance)), radiance, atol=0, rtol=1e-10)

    def test_every_level_of_a_file_survives(self) -> None:
        levels = torch.arange(255) / 255
        torch.testing.assert_close(tone_map(inverse_tone_map(levels)), levels, atol=2e-7, rtol=0)

    @pytest.mark.parametrize("tone", [1.0, 1.0 + 1e-6, 2.0, float("inf")])
    def test_finite_at_one_and_above(self, tone: float) -> None:
        assert inverse_tone_map(torch.tensor(tone, dtype=torch.float64)).item() == pytest.approx(MAX_RADIANCE)
        assert inverse_tone_map(torch.tensor(tone)).item() == pytest.approx(MAX_RADIANCE, rel=1e-3)

    def test_below_zero_is_black(self) -> None:
        assert inverse_tone_map(torch.tensor(-0.1)) == 0


class TestExpose:
    @pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
    def test_median_luminance(self, scale: float) -> None:
        scenes = torch.rand(3, 3, 15, 15, generator=seeded(0)) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1, 1) * scale
        exposed = expose(scenes)
        torch.testing.assert_close(luminance(exposed).median(dim=1).values, torch.full((3,), 0.2))
        ratio = exposed / scenes
        assert (ratio.flatten(1).std(dim=1) < 1e-4 * ratio.flatten(1).mean(dim=1)).all()  # one gain for a whole scene

    def test_black_scene(self) -> None:
        assert torch.equal(expose(torch.zeros(1, 3, 4, 4)), torch.zeros(1, 3, 4, 4))

    def test_black_at_its_median_keeps_its_scale(self) -> None:
        scene = torch.zeros(1, 3, 4, 4)
        scene[..., 0, 0] = 7
        assert torch.equal(expose(scene), scene)

    def test_surroundings_do_not_count(self) -> None:
        """The frame is exposed as it is alone, whatever lies around it."""
        frame = torch.rand(1, 3, 9, 11, generator=seeded(1))
        scene = torch.nn.functional.pad(frame, (4, 4, 4, 4), value=3000.0)
        exposed = expose(scene, margin=4)
        assert torch.equal(exposed[..., 4:-4, 4:-4], expose(frame))
        assert exposed[0, 0, 0, 0] == MAX_RADIANCE

    def test_lamps_are_clipped(self) -> None:
        scene = torch.full((1, 3, 4, 4), 0.4)
        scene[..., 0, 0] = 1e6
        exposed = expose(scene)
        assert exposed.max() == MAX_RADIANCE and exposed[0, 0, 1, 1] == pytest.approx(0.2)


class TestConvolve:
    @pytest.mark.parametrize("size", [(1, 1), (5, 8), (20, 17)])
    @pytest.mark.parametrize("side", [1, 9, 15])
    def test_delta_is_the_identity(self, size: tuple[int, int], side: int) -> None:
        scene = torch.rand(2, 3, *size, generator=seeded(0))
        psf = torch.zeros(3, side, side)
        psf[:, side // 2, side // 2] = 1
        torch.testing.assert_close(convolve(scene, psf), scene, atol=1e-6, rtol=0)

    @pytest.mark.parametrize(
        ("size", "side"), [((20, 17), 7), ((16, 16), 15), ((6, 9), 15), ((2, 3), 31), ((1, 1), 9), ((1, 12), 5)]
    )
    def test_definition(self, size: tuple[int, int], side: int) -> None:
        """Lopsided kernels tell convolution from correlation; some are larger than the image, even several times."""
        scene = torch.rand(2, 3, *size, generator=seeded(1))
        psf = random_psf(3, side, side)
        torch.testing.assert_close(convolve(scene, psf), spatial(scene, psf), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("margin", [1, 3, 7, 12])
    @pytest.mark.parametrize("side", [1, 7, 15, 41])
    def test_surroundings_flare_in_and_are_cut_off(self, margin: int, side: int) -> None:
        """As if the whole were convolved and the frame cut out, with a margin narrower or wider than the PSF."""
        scene = torch.rand(2, 3, 30, 33, generator=seeded(7)) * 10
        psf = random_psf(3, side, side)
        expected = spatial(scene, psf)[..., margin:-margin, margin:-margin]
        torch.testing.assert_close(convolve(scene, psf, margin=margin), expected, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("margin", [-1, 5, 6])
    def test_margin_that_does_not_fit(self, margin: int) -> None:
        with pytest.raises(SettingError, match=f"margin of {margin} pixels .* 12x10 pixels"):
            convolve(torch.ones(1, 3, 10, 12), DELTA, margin=margin)

    def test_one_psf_per_sample(self) -> None:
        scene = torch.rand(2, 3, 14, 11, generator=seeded(2))
        psfs = random_psf(2, 3, 5, 5, seed=3)
        expected = torch.cat([spatial(scene[i : i + 1], psfs[i]) for i in range(2)])
        torch.testing.assert_close(convolve(scene, psfs), expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("size", [(20, 17), (6, 9), (1, 1)])
    def test_symmetric_psf_keeps_all_light(self, size: tuple[int, int]) -> None:
        scene = torch.rand(1, 3, *size, generator=seeded(4)) * 100
        psf = random_psf(3, 15, 15)
        psf = (psf + psf.flip(-1) + psf.flip(-2) + psf.flip((-2, -1))) / 4
        torch.testing.assert_close(convolve(scene, psf).sum((-2, -1)), scene.sum((-2, -1)), rtol=1e-5, atol=1e-4)

    def test_flat_scene_stays_flat(self) -> None:
        scene = torch.full((1, 3, 5, 40), 0.7)
        torch.testing.assert_close(convolve(scene, random_psf(3, 31, 31)), scene, atol=1e-5, rtol=0)

    def test_has_a_gradient(self) -> None:
        """The adjoint of a symmetric PSF with reflected edges is itself."""
        psf = random_psf(3, 5, 5)
        psf = (psf + psf.flip(-1) + psf.flip(-2) + psf.flip((-2, -1))) / 4
        scene = torch.rand(1, 3, 9, 8, generator=seeded(5)).requires_grad_()
        weights = torch.rand(1, 3, 9, 8, generator=seeded(6))
        (gradient,) = torch.autograd.grad((convolve(scene, psf) * weights).sum(), scene)
        torch.testing.assert_close(gradient, convolve(weights, psf), atol=1e-5, rtol=0)


class TestCapture:
    @pytest.mark.parametrize("name", PANELS)
    def test_noise_depends_on_the_sample_alone(self, name: str) -> None:
        """A sample's own generator gives the same bits alone, in a batch, and at another place of the batch."""
        scenes = torch.rand(3, 3, 24, 19, generator=seeded(0)) * 3
        psf = random_psf(3, 9, 9)
        batch = capture(scenes, get_panel(name), psf=psf, generator=[seeded(seed) for seed in (5, 6, 7)])
        for index, seed in enumerate((5, 6, 7)):
            alone = capture(scenes[index : index + 1], get_panel(name), psf=psf, generator=[seeded(seed)])
            assert torch.equal(alone[0], batch[index])
        turned = capture(scenes.flip(0), get_panel(name), psf=psf, generator=[seeded(seed) for seed in (7, 6, 5)])
        assert torch.equal(turned.flip(0), batch)

    def test_seeds(self) -> None:
        scene = torch.rand(1, 3, 16, 16, generator=seeded(0))
        first, again, other = (
            capture(scene, get_panel("toled"), psf=DELTA, generator=seeded(seed)) for seed in (3, 3, 4)
        )
        assert torch.equal(first, again) and not torch.equal(first, other)
        one_in_list = capture(scene, get_panel("toled"), psf=DELTA, generator=[seeded(3)])
        assert torch.equal(first, one_in_list)

    def test_number_of_generators_must_fit(self) -> None:
        with pytest.raises(ValueError):
            capture(torch.rand(2, 3, 4, 4), get_panel("toled"), psf=DELTA, generator=[seeded(0)])

    @pytest.mark.parametrize("name", PANELS)
    def test_bounded(self, name: str) -> None:
        """From darkness, where read noise is negative half of the time, to lamps that fill the well."""
        scene = torch.rand(2, 3, 33, 20, generator=seeded(0))
        scene[0] *= 1e-3
        scene[1, :, ::4, ::4] = MAX_RADIANCE
        image = capture(scene, get_panel(name), generator=seeded(1))
        assert image.shape == scene.shape and image.dtype == torch.float32
        assert image.min() == 0 and image.max() < 1

    @pytest.mark.parametrize("name", PANELS)
    def test_full_well_is_the_brightest(self, name: str) -> None:
        panel = get_panel(name)
        image = capture(torch.full((1, 3, 4, 4), MAX_RADIANCE), panel, psf=DELTA, generator=seeded(0))
        for channel, transmission in enumerate(panel.transmission):
            saturated = FULL_WELL / (panel.light * transmission)
            expected = saturated / (saturated + 0.25)
            torch.testing.assert_close(image[0, channel], torch.full((4, 4), expected), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("loss", [1.0, 0.2])
    def test_light_loss_changes_the_noise_and_not_the_mean(self, loss: float) -> None:
        """N draws of e electrons: mean e, variance e + σ², and the gain gives e back as radiance."""
        panel = replace(get_panel("toled"), transmission=(loss, loss / 2, loss / 4), light=4000.0)
        draws = 1500
        scene = torch.rand(1, 3, 6, 6, generator=seeded(0)) * 1.5 + 1.0
        psf = random_psf(3, 5, 5)
        images = capture(scene.expand(draws, -1, -1, -1), panel, psf=psf, generator=seeded(1))
        clean = convolve(scene, psf)[0].double()
        light = inverse_tone_map(images.double())
        electrons = panel.light * torch.tensor(panel.transmission, dtype=torch.float64).view(3, 1, 1)
        variance = (clean * electrons + READ_NOISE**2) / electrons**2
        deviation = (light.mean(dim=0) - clean) / (variance / draws).sqrt()
        assert deviation.abs().max() < 5 and deviation.mean().abs() < 5 / deviation.numel() ** 0.5
        assert (light.mean(dim=0) - clean).abs().max() < 0.01
        # The variance of a variance is 2/N of its square; averaged over a channel's pixels it is known to 1 %.
        assert ((light.var(dim=0) / variance).mean((-2, -1)) - 1).abs().max() < 0.04

    def test_many_draws_approach_the_capture_without_noise(self) -> None:
        panel = get_panel("axon20")
        scene = torch.rand(1, 3, 8, 8, generator=seeded(2)) * 2 + 0.2
        images = capture(scene.expand(800, -1, -1, -1), panel, psf=DELTA, generator=seeded(3))
        assert (images[0] - tone_map(scene[0])).abs().max() > 0.01  # one draw is noisy
        torch.testing.assert_close(images.mean(dim=0), tone_map(scene[0]), atol=3e-3, rtol=0)

    def test_dark_pixels_show_read_noise_only(self) -> None:
        panel = replace(get_panel("toled"), transmission=(0.2, 0.2, 0.2))
        image = capture(torch.zeros(1, 3, 64, 64), panel, psf=DELTA, generator=seeded(0))
        electrons = inverse_tone_map(image.double()) * panel.light * 0.2
        assert (image == 0).double().mean() == pytest.approx(0.5, abs=0.02)
        assert electrons.square().mean().sqrt() == pytest.approx(READ_NOISE / 2**0.5, rel=0.03)

    def test_default_psf_is_the_panels(self) -> None:
        from udc_defense.panel_file import panel_psf

        scene = torch.rand(1, 3, 12, 12, generator=seeded(0))
        panel = get_panel("toled")
        given = capture(scene, panel, psf=panel_psf("toled"), generator=seeded(1))
        assert torch.equal(capture(scene, panel, generator=seeded(1)), given)

    def test_surroundings_leave_the_noise_alone(self) -> None:
        """A mirrored margin changes nothing, noise included; a dark one takes its flare from the edge."""
        scene = torch.rand(1, 3, 40, 36, generator=seeded(0)) + 0.5
        panel = get_panel("axon20")
        psf = random_psf(3, 9, 9)
        plain = capture(scene, panel, psf=psf, generator=seeded(1))
        around = torch.nn.functional.pad(scene, (6, 6, 6, 6))
        dark = capture(around, panel, psf=psf, margin=6, generator=seeded(1))
        mirrored = torch.from_numpy(np.pad(scene.numpy(), ((0, 0), (0, 0), (6, 6), (6, 6)), mode="symmetric"))
        same = capture(mirrored, panel, psf=psf, margin=6, generator=seeded(1))
        assert plain.shape == dark.shape == same.shape
        torch.testing.assert_close(same, plain, atol=1e-3, rtol=0)
        assert dark[..., 0, :].mean() < 0.9 * plain[..., 0, :].mean()

    def test_each_panel_has_its_own_full_well_and_read_noise(self) -> None:
        panel = replace(get_panel("toled"), full_well=(500.0, 1000.0, 2000.0), read_noise=0.0)
        image = capture(torch.full((1, 3, 3, 3), MAX_RADIANCE), panel, psf=DELTA, generator=seeded(0))
        saturation = torch.tensor(panel.saturation)
        torch.testing.assert_close(image, tone_map(saturation).view(1, 3, 1, 1).expand_as(image))
        dark = capture(torch.zeros(1, 3, 8, 8), panel, psf=DELTA, generator=seeded(0))
        assert (dark == 0).all()
