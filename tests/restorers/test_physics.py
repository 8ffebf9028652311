"""Filters that know the display, against closed forms; and the restorers made of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from restorer_contract import RestorerContract, picture, randomised
from torch import Tensor

from udc_defense.checkpoints.load import load_restorer
from udc_defense.imaging import KNEE, MAX_RADIANCE, inverse_tone_map, tone_map
from udc_defense.metrics import psnr
from udc_defense.optics import PANELS
from udc_defense.panel_file import get_panel
from udc_defense.restorers import Restorer
from udc_defense.restorers.physics import (
    blurred,
    clipped_share,
    halved_psf,
    signed_light,
    signed_tone_map,
    transfer_function,
    wiener,
)
from udc_defense.restorers.richardson_lucy import RichardsonLucyRestorer
from udc_defense.restorers.wiener import WienerRestorer
from udc_defense.restorers.wiener_unet import WienerUNet


def scene(*shape: int) -> Tensor:
    """Smooth light between 0.1 and 2, float64."""
    coarse = torch.nn.functional.interpolate(picture(1, 3, 9, 9).double(), size=shape, mode="bicubic")
    return 0.1 + 1.9 * coarse.clamp(0, 1)


def convolved(image: Tensor, psf: Tensor) -> Tensor:
    """Circular convolution by sums of shifted images, (1, 3, H, W) with (3, K, K)."""
    reach = psf.shape[-1] // 2
    padded = F.pad(image, (reach,) * 4, mode="circular")
    return F.conv2d(padded, psf.flip((-2, -1))[:, None], groups=3)


def small_psf(name: str) -> Tensor:
    """The inner 31² of a panel's PSF, float64, of unit sum."""
    inner = get_panel(name).psf[:, 113:144, 113:144].double()
    return inner / inner.sum((-2, -1), keepdim=True)


class TestWienerFilter:
    @pytest.mark.parametrize("name", PANELS)
    def test_it_solves_the_tikhonov_problem_of_a_periodic_scene(self, name: str) -> None:
        """x/(1+λ) minimises |k∗x − y|² + λ|x|²: its gradient, by plain sums, vanishes."""
        psf, weight = small_psf(name), torch.full((3, 1, 1), 0.02, dtype=torch.float64)
        captured = convolved(scene(40, 36), psf) + 0.01 * torch.randn(1, 3, 40, 36, dtype=torch.float64)
        (found,) = wiener(captured, psf, [weight], circular=True)
        estimate = found / (1 + weight)
        gradient = convolved(convolved(estimate, psf) - captured, psf.flip((-2, -1))) + weight * estimate
        assert gradient.abs().max() < 1e-12

    def test_without_noise_and_regularisation_it_inverts_the_display(self) -> None:
        psf, light = get_panel("axon20").psf.double(), scene(300, 270)
        spectrum = torch.fft.rfft2(light) * transfer_function(psf, (300, 270))
        captured = torch.fft.irfft2(spectrum, s=(300, 270))
        assert psnr(tone_map(captured).float(), tone_map(light).float()).item() < 50
        (found,) = wiener(captured, psf, [torch.full((3, 1, 1), 1e-12, dtype=torch.float64)], circular=True)
        error = (tone_map(found) - tone_map(light)).square().mean()
        assert -10 * torch.log10(error) > 60

    def test_gradients_are_those_of_finite_differences(self) -> None:
        psf = small_psf("toled")[:, 11:20, 11:20]
        psf = psf / psf.sum((-2, -1), keepdim=True)
        weight = torch.full((3, 1, 1), 0.1, dtype=torch.float64)

        def restored(image: Tensor) -> Tensor:
            return signed_tone_map(wiener(signed_light(image), psf, [weight])[0])

        image = 0.1 + 0.7 * picture(1, 3, 5, 4).double()
        assert torch.autograd.gradcheck(restored, image.requires_grad_(True))

    def test_per_image_optics_give_what_each_alone_gives(self) -> None:
        psfs = torch.stack([small_psf(name) for name in ("axon20", "poled")])
        weights = torch.tensor([0.01, 0.1], dtype=torch.float64).view(2, 1, 1, 1).expand(2, 3, 1, 1)
        images = torch.cat([scene(30, 20), scene(30, 20).flip(-1)])
        (together,) = wiener(images, psfs, [weights])
        for index in range(2):
            (alone,) = wiener(images[index : index + 1], psfs[index], [weights[index]])
            torch.testing.assert_close(together[index : index + 1], alone)


def test_channels_one_by_one_are_those_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large images are filtered channel by channel, to bound memory."""
    psf, image = small_psf("axon20"), scene(50, 41)
    whole = blurred(image, psf)
    monkeypatch.setattr("udc_defense.restorers.physics.LARGE", 10)
    torch.testing.assert_close(blurred(image, psf), whole)


def test_correlation_is_the_adjoint_of_convolution() -> None:
    psf = small_psf("poled")
    zero = torch.zeros(1, 3, 60, 60, dtype=torch.float64)
    a, b = zero.clone(), zero.clone()  # far from the edges, where reflection would mix
    a[..., 24:36, 24:36], b[..., 24:36, 24:36] = scene(12, 12), scene(12, 12).flip(-1)
    torch.testing.assert_close((blurred(a, psf) * b).sum(), (a * blurred(b, psf, transposed=True)).sum())


@pytest.mark.parametrize("side", [3, 5, 31])
def test_the_halved_psf_blurs_blocks_as_the_whole_one_blurs_pixels(side: int) -> None:
    psf = torch.rand(3, side, side, dtype=torch.float64)
    psf = psf / psf.sum((-2, -1), keepdim=True)
    blocks = scene(24, 20)
    pixels = F.interpolate(blocks, scale_factor=2)
    torch.testing.assert_close(convolved(blocks, halved_psf(psf)), F.avg_pool2d(convolved(pixels, psf), 2))


def test_signed_light_is_the_inverse_tone_map_and_goes_on() -> None:
    tones = torch.linspace(0, 0.999, 50)
    torch.testing.assert_close(signed_light(tones), inverse_tone_map(tones))
    torch.testing.assert_close(signed_light(-tones), -signed_light(tones))
    torch.testing.assert_close(signed_tone_map(signed_light(tones)), tones)
    beyond = signed_light(torch.tensor([1.0, 1.1]))
    assert beyond[0] > MAX_RADIANCE and beyond[1] > beyond[0]


def test_what_is_clipped_is_seen_with_a_ramp() -> None:
    saturation = torch.full((3, 1, 1), 6.0)
    at = 6.0 / (6.0 + KNEE)
    tones = torch.tensor([at, at - 0.003, at - 0.02, 1.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    share = clipped_share(tones, saturation)[0, 0, 0]
    assert share[0] == 1 and 0 < share[1] < 1 and share[2] == 0 and share[3] == 1


def small_network() -> WienerUNet:
    return WienerUNet([4, 8, 8], [1, 1, 1], [1, 1], [4, 8], [1, 1], [1])


class TestWienerUNet(RestorerContract):
    brightest = 0.9

    def network(self) -> Restorer:
        return randomised(small_network())

    def test_a_bound_network_shares_weights_and_leaves_the_blind_one_alone(self) -> None:
        blind = randomised(small_network())
        image = picture(1, 3, 40, 40)
        before, bound = blind(image), blind.for_panel(get_panel("axon20"))
        assert not torch.equal(bound(image), before) and torch.equal(blind(image), before)
        assert torch.equal(bound.for_panel(None)(image), before)
        assert all(a is b for a, b in zip(bound.parameters(), blind.parameters(), strict=True))
        assert "psf" not in bound.state_dict()

    def test_where_nothing_is_clipped_the_lights_do_not_matter(self) -> None:
        bound, image = randomised(small_network()).for_panel(get_panel("toled")), 0.5 * picture(1, 3, 32, 32)
        before = bound(image)
        with torch.no_grad():
            bound.lights.head.weight.add_(1.0)
        assert torch.equal(bound(image), before)
        assert not torch.equal(bound(image + 0.5), before)


class TestWiener(RestorerContract):
    brightest = 0.9

    def network(self) -> Restorer:
        return WienerRestorer().for_panel(get_panel("axon20")).eval()

    def test_nothing_is_clamped(self) -> None:
        """The result is the tone map of light: below 1 by nature, and negative where the filter overshoots."""
        with torch.no_grad():
            restored = self.network()(4 * picture(1, 3, 32, 32) - 1.5)
        assert restored.min() < 0 and restored.max() < 1

    def test_a_network_comes_back_from_its_folder(self) -> None:  # type: ignore[override]
        """It has no weights: its name is enough."""
        image = 0.9 * picture(1, 3, 19, 33)
        assert torch.equal(load_restorer("wiener", panel=get_panel("axon20"))(image), self.network()(image))
        torch.testing.assert_close(load_restorer("wiener")(image), image, atol=1e-5, rtol=0)

    test_a_large_image_goes_through_in_tiles = None  # it is filtered whole


class TestRichardsonLucy(RestorerContract):
    brightest = 0.9

    def network(self) -> Restorer:
        return RichardsonLucyRestorer().for_panel(get_panel("axon20")).eval()

    def test_nothing_is_clamped(self) -> None:
        """Light is positive: that is what the method knows."""
        with torch.no_grad():
            restored = self.network()(4 * picture(1, 3, 32, 32) - 1.5)
        assert restored.min() > 0 and restored.max() < 1

    def test_the_gradient_reaches_every_value_of_the_input(self) -> None:
        image = picture(1, 3, 21, 18).clamp(0.01, 0.99).requires_grad_(True)
        self.network()(image).square().sum().backward()
        assert image.grad is not None and image.grad.isfinite().all() and (image.grad != 0).all()

    def test_a_network_comes_back_from_its_folder(self) -> None:  # type: ignore[override]
        image = 0.9 * picture(1, 3, 19, 33)
        assert torch.equal(load_restorer("richardson_lucy", panel=get_panel("axon20"))(image), self.network()(image))
        torch.testing.assert_close(load_restorer("richardson_lucy")(image), image.clamp_min(4e-4), atol=1e-5, rtol=0)

    test_a_large_image_goes_through_in_tiles = None  # it is iterated whole

    def test_each_iteration_explains_the_capture_better(self) -> None:
        """Without clipping and noise the likelihood of counted light never falls."""
        panel, light = get_panel("axon20"), scene(40, 40).float()
        captured = tone_map(blurred(light, panel.psf))

        def likelihood(iterations: int) -> float:
            estimate = inverse_tone_map(RichardsonLucyRestorer(iterations).for_panel(panel)(captured))
            expected = blurred(estimate, panel.psf)
            return (inverse_tone_map(captured) * expected.log() - expected).sum().item()

        values = [likelihood(count) for count in (1, 2, 4, 8)]
        assert values == sorted(values)
