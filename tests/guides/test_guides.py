"""Guides against closed forms: a Gaussian prior, numpy's FFT, finite differences."""

from __future__ import annotations

import functools
import json
import math
import shutil
import weakref
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from gaussian_prior import DEVIATION, MEAN, SCHEDULER, SIGNAL, GaussianNetwork, gaussian, gaussian_diffusion, picture
from tiny_networks import lively_unet
from tiny_networks import purifier as purifier_of
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from udc_defense.checkpoints.files import CHECKSUMS, WEIGHTS, write_checksums
from udc_defense.checkpoints.load import load_guide, load_purifier, named_guide
from udc_defense.defense import Defense
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.guides import GUIDES, Guide
from udc_defense.guides.base import gradient_of
from udc_defense.guides.encoder import GuideEncoder
from udc_defense.guides.feature import Feature
from udc_defense.guides.frequency import Frequency
from udc_defense.guides.mse import Mse
from udc_defense.guides.ssim import Ssim
from udc_defense.metrics import ssim
from udc_defense.noise import seeded
from udc_defense.pipeline import _Purifier
from udc_defense.purifiers import SAMPLERS
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.threats import threat

SIZES = [(8, 8), (7, 5), (6, 9), (1, 1), (1, 6), (5, 1), (2, 2)]
# At which each does something that can be measured and does not overshoot on the small network.
STRENGTH = {"feature": 1.0, "frequency": 0.7, "mse": 2.0, "ssim": 0.05}


def encoder(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Smooth, so that finite differences of what it guides are exact."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, stride=2, padding=1))
    generator = seeded(8)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return layers.to(dtype).eval().requires_grad_(False)


def made(name: str, dtype: torch.dtype = torch.float32) -> Guide:
    return Feature(encoder(dtype)) if name == "feature" else GUIDES.get(name)()


@functools.cache
def unet(dtype: torch.dtype) -> UNet2DModel:
    """One for all: its biases are of the global generator. No default, which the cache would take for another call."""
    return lively_unet().to(dtype)


def guided(name: str, strength: float, dtype: torch.dtype = torch.float32, **options: Any) -> DiffusionPurifier:
    return purifier_of(unet(dtype), SCHEDULER, guide=made(name, dtype), guidance=strength, **options)


class TestEvery:
    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    @pytest.mark.parametrize("name", GUIDES.names())
    def test_strength_0_is_no_guide_bit_for_bit(self, name: str, sampler: str) -> None:
        image, options = picture(2, 3, 9, 7, dtype=torch.float32), {"sampler": sampler, "noise_level": 6}
        plain = purifier_of(unet(torch.float32), SCHEDULER, **options)(image, generator=seeded(1))
        assert torch.equal(guided(name, 0, **options)(image, generator=seeded(1)), plain)
        assert not torch.equal(guided(name, STRENGTH[name], **options)(image, generator=seeded(1)), plain)

    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    def test_no_guide_is_no_guide_whatever_the_strength(self, sampler: str) -> None:
        image = picture(1, 3, 9, 7, dtype=torch.float32)
        plain, strong = (
            purifier_of(unet(torch.float32), SCHEDULER, sampler=sampler, noise_level=6, guidance=guidance)
            for guidance in (0.0, 3.0)
        )
        assert torch.equal(plain(image, generator=seeded(1)), strong(image, generator=seeded(1)))

    @pytest.mark.parametrize("name", GUIDES.names())
    def test_without_noise_nothing_is_guided(self, name: str) -> None:
        image = picture(1, 3, 9, 7)
        assert torch.equal(guided(name, STRENGTH[name], noise_level=0)(image), image)

    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    @pytest.mark.parametrize("name", GUIDES.names())
    def test_a_sample_does_not_depend_on_its_batch_mates(self, name: str, sampler: str) -> None:
        image = picture(3, 3, 12, 12)
        purifier = guided(name, STRENGTH[name], torch.float64, sampler=sampler, noise_level=5)
        together = purifier(image, generator=[seeded(i) for i in range(3)])
        for i in range(3):
            alone = purifier(image[i : i + 1], generator=[seeded(i)])
            assert torch.allclose(together[i : i + 1], alone, atol=1e-12, rtol=0)

    @pytest.mark.parametrize("name", GUIDES.names())
    def test_only_the_generators_are_asked_for_noise(self, name: str) -> None:
        image, purifier = (
            picture(1, 3, 8, 8),
            guided(name, STRENGTH[name], torch.float64, sampler="ddpm", noise_level=4),
        )
        state = torch.get_rng_state()
        first, again = (purifier(image, generator=seeded(2)) for _ in range(2))
        assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("name", GUIDES.names())
    def test_any_size(self, name: str, size: tuple[int, int]) -> None:
        image = picture(2, 3, *size, dtype=torch.float32)
        purified = guided(name, STRENGTH[name], noise_level=5)(image, generator=seeded(0))
        assert purified.shape == image.shape and purified.dtype == torch.float32 and bool(purified.isfinite().all())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("name", GUIDES.names())
    def test_the_dtype_stays(self, name: str, dtype: torch.dtype) -> None:
        """To the precision of half; the schedule is float64 for all."""
        guide, diffusion = made(name), gaussian_diffusion()
        image, x, epsilon = (picture(1, 3, 12, 12, seed=i) - 0.5 for i in range(3))
        exact, found = (
            guide(diffusion, x.to(d), 99, epsilon.to(d), guide.reference(image.to(d)), strength=STRENGTH[name])
            for d in (torch.float64, dtype)
        )
        assert found.dtype == dtype
        assert torch.allclose(found.double(), exact, atol=0.05 * float(exact.abs().max()))

    @pytest.mark.parametrize("name", GUIDES.names())
    def test_it_works_in_the_pipelines_purifier_in_half_precision(self, name: str) -> None:
        image = picture(1, 3, 8, 8, dtype=torch.float32)
        purifier = _Purifier(unet(torch.bfloat16), SCHEDULER, noise_level=5, guide=made(name), guidance=0.05)
        purified = purifier(image, generator=seeded(0))
        assert purified.dtype == torch.float32 and bool(purified.isfinite().all()) and purifier.timestep == 4

    @pytest.mark.parametrize("name", GUIDES.names())
    def test_it_acts_on_the_whole_image_not_on_tiles(self, name: str) -> None:
        """The Gaussian network is local, so that tiles change nothing, unless the guide saw them."""
        image, options = picture(1, 3, 50, 40), {"guide": made(name), "guidance": STRENGTH[name]}
        whole, tiled = gaussian("ddim", 20, **options), gaussian("ddim", 20, **options)
        tiled.tile_size, tiled.tile_overlap = 16, 4
        assert torch.allclose(whole(image, generator=seeded(0)), tiled(image, generator=seeded(0)), atol=1e-10)

    @pytest.mark.parametrize("name", ["feature", "mse", "ssim"])
    def test_a_strength_means_the_same_on_every_size(self, name: str) -> None:
        """An image four times over, as far as borders allow."""

        class Pixels(nn.Module):
            def forward(self, image: Tensor) -> Tensor:
                return image[:, :, ::2, ::2].tanh()

        guide = Feature(Pixels()) if name == "feature" else made(name)
        image, x, epsilon = (picture(1, 3, 48, 48, seed=i) for i in range(3))
        edits = []
        for n in (1, 2):
            noise, reference = epsilon.repeat(1, 1, n, n), guide.reference(image.repeat(1, 1, n, n))
            edited = guide(gaussian_diffusion(), x.repeat(1, 1, n, n), 50, noise, reference, strength=1)
            edits.append(edited - noise)
        small, large = edits
        share = 1.0 if name != "ssim" else 38**2 / 86**2 * 4  # of the windows that fit
        window = (..., slice(16, 32), slice(16, 32))
        assert torch.allclose(large[window], small[window] * share, rtol=1e-9)

    @pytest.mark.parametrize("name", GUIDES.names())
    def test_results_need_no_gradient_where_the_input_needs_none(self, name: str) -> None:
        image, purifier = picture(1, 3, 8, 8, dtype=torch.float32), guided(name, STRENGTH[name], noise_level=5)
        recorded = purifier(image, generator=seeded(0))
        with torch.no_grad():
            unrecorded = purifier(image.clone().requires_grad_(True), generator=seeded(0))
        assert not recorded.requires_grad and not unrecorded.requires_grad
        assert torch.equal(recorded, unrecorded)

    @pytest.mark.parametrize("name", GUIDES.names())
    def test_the_surrogate_of_fewer_steps_keeps_it(self, name: str) -> None:
        image = picture(1, 3, 8, 8, dtype=torch.float32)
        defense = Defense(nn.Identity(), guided(name, STRENGTH[name], sampler="ddpm", noise_level=8))
        seen = threat(defense, "surrogate", seeded(0), frozen=True)
        fewer = seen.defense.purifier
        assert isinstance(fewer, DiffusionPurifier) and fewer.sampler.name == "ddim"
        assert fewer.guide is defense.purifier.guide and fewer.guidance == STRENGTH[name]
        assert seen(image).isfinite().all()

    @pytest.mark.parametrize("aggregate", ["mean", "median"])
    def test_every_draw_is_guided(self, aggregate: str) -> None:
        """At strength 1 with all frequencies low and the input's phases, each draw ends at the input."""
        image = picture(1, 3, 8, 8)
        options: dict[str, Any] = {"guide": Frequency(cutoff=1, delta=0), "guidance": 1.0, "aggregate": aggregate}
        purified = gaussian("ddpm", 5, draws=3, **options)(image, generator=seeded(0))
        assert torch.allclose(purified, image, atol=1e-9)


class GuidedGaussian(GaussianNetwork):
    """The exact noise predictor of the Gaussian prior times exp(-s (x_t - √ᾱ y)²): precisions add up."""

    def __init__(self, y: Tensor, strength: float) -> None:
        super().__init__()
        self.y, self.strength = y, strength

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        signal = self.signal[t].view(-1, 1, 1, 1).to(x)
        prior = 1 / (signal * self.deviation**2 + 1 - signal)
        precision = prior + 2 * self.strength
        mean = signal**0.5 * (prior * self.mean + 2 * self.strength * self.y) / precision
        return SimpleNamespace(sample=(1 - signal) ** 0.5 * precision * (x - mean))


class TestMse:
    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    @pytest.mark.parametrize("strength", [0.1, 2.0, 30.0])
    def test_it_is_a_gaussian_likelihood(self, strength: float, sampler: str) -> None:
        image = picture(2, 3, 8, 8)
        found = gaussian(sampler, 30, guide="mse", guidance=strength)(image, generator=seeded(3))
        oracle = purifier_of(
            GuidedGaussian(image * 2 - 1, strength),  # type: ignore[arg-type]
            SCHEDULER,
            sampler=sampler,
            noise_level=30,
        )
        assert torch.allclose(found, oracle(image, generator=seeded(3)), atol=1e-10)

    @pytest.mark.parametrize("level", [30, 150])
    def test_the_mean_shifts_towards_the_input(self, level: int) -> None:
        """DDPM's mean over all noise by the recursion of eq. 7, affine in x; ours from 120,000 equal values."""
        y, means = 0.9, []
        for strength in (0.0, 0.3, 1.0, 2.0):
            mean = float(SIGNAL[level - 1]) ** 0.5 * y
            for t in range(level - 1, -1, -1):
                signal, before = float(SIGNAL[t]), float(SIGNAL[t - 1]) if t else 1.0
                variance, beta = signal * DEVIATION**2 + 1 - signal, 1 - signal / before
                score = -(mean - signal**0.5 * MEAN) / variance - 2 * strength * (mean - signal**0.5 * y)
                x0 = (mean + (1 - signal) * score) / signal**0.5
                share, keep = before**0.5 * beta / (1 - signal), (signal / before) ** 0.5 * (1 - before) / (1 - signal)
                mean = share * x0 + keep * mean
            means.append(mean)
            image = torch.full((1, 3, 200, 200), (y + 1) / 2, dtype=torch.float64)
            purifier = gaussian("ddpm", level, guide="mse", guidance=strength)
            purified = purifier(image, generator=seeded(1)) * 2 - 1
            assert purified.mean().item() == pytest.approx(mean, abs=5 * purified.std().item() / 120_000**0.5)
        assert all(MEAN < less < more < y for less, more in pairwise(means))

    def test_the_gradient_is_that_of_the_distance(self) -> None:
        """And of its mean over the noise of the diffused input, drawn anew, as GDMP does."""
        diffusion, strength, t = gaussian_diffusion(), 3.0, 60
        image, x, epsilon = (picture(1, 3, 4, 4, seed=i) * 2 - 1 for i in range(3))
        signal = float(SIGNAL[t])
        noise = torch.randn(20_000, 3, 4, 4, generator=seeded(4), dtype=torch.float64)
        point = x.clone().requires_grad_(True)
        distance = (point - signal**0.5 * image - (1 - signal) ** 0.5 * noise).square().mean()
        (gradient,) = torch.autograd.grad(distance, point)
        found = Mse()(diffusion, x, t, epsilon, image, strength=strength) - epsilon
        exact = strength * (1 - signal) ** 0.5 * 2 * (x - signal**0.5 * image)
        assert torch.allclose(found, exact, atol=1e-12)
        sampled = strength * (1 - signal) ** 0.5 * gradient * x.numel()
        assert torch.allclose(sampled, exact, atol=5 * 2 * strength * (1 - signal) / 20_000**0.5)


class TestDistance:
    @pytest.mark.parametrize("name", ["feature", "ssim"])
    def test_the_edit_is_the_gradient_in_x_t(self, name: str) -> None:
        """By autograd through x̂₀(x_t) with ε̂ held fixed; `ssim` of metrics clamps, so values stay inside [0, 1]."""
        guide, diffusion, t, strength = made(name, torch.float64), gaussian_diffusion(), 20, 0.7
        image = picture(2, 3, 16, 13) * 1.6 - 0.8
        epsilon = picture(2, 3, 16, 13, seed=1) - 0.5
        x = diffusion.noised(picture(2, 3, 16, 13, seed=2) * 1.6 - 0.8, t, epsilon).requires_grad_(True)
        clean = (diffusion.clean(x, t, epsilon) + 1) / 2
        if name == "ssim":
            distances = -ssim(clean, (image + 1) / 2)
        else:
            latent, other = guide.encoder(clean), guide.encoder((image + 1) / 2)
            distances = torch.stack([(a - b).square().mean() for a, b in zip(latent, other, strict=True)])
        (gradient,) = torch.autograd.grad(distances.sum(), x)
        found = guide(diffusion, x, t, epsilon, guide.reference(image), strength=strength)
        expected = epsilon + strength * (1 - float(SIGNAL[t])) ** 0.5 * 3 * 16 * 13 * gradient
        assert torch.allclose(found, expected, atol=1e-9)

    @pytest.mark.parametrize("name", ["feature", "ssim"])
    def test_at_the_input_there_is_nothing_to_gain(self, name: str) -> None:
        guide, image = made(name, torch.float64), picture(2, 3, 16, 13)
        assert gradient_of(guide.distance, image, guide.reference(image)).abs().max() < 1e-6

    def test_an_encoder_of_lower_precision(self) -> None:
        guide, image = Feature(encoder(torch.bfloat16)), picture(1, 3, 8, 8, dtype=torch.float32)
        assert guide.reference(image).dtype == torch.float32
        assert gradient_of(guide.distance, image + 0.1, guide.reference(image)).dtype == torch.float32

    def test_the_encoder_is_the_purifiers_and_is_run_once_for_the_input(self) -> None:
        calls: list[Tensor] = []

        class Counting(nn.Module):
            def forward(self, image: Tensor) -> Tensor:
                calls.append(image)
                return image.mean(dim=(-2, -1))

        network = Counting()
        purifier = gaussian("ddim", 20, steps=4, draws=2, guide=Feature(network), guidance=1.0)
        assert network in list(purifier.modules())
        purifier(picture(1, 3, 8, 8), generator=seeded(0))
        assert len(calls) == 1 + 2 * 4
        assert torch.allclose(calls[0], picture(1, 3, 8, 8))


class TestMonotone:
    STRENGTHS = (0.0, 0.2, 0.5, 1.0)

    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    @pytest.mark.parametrize("name", GUIDES.names())
    def test_stronger_is_closer_to_the_input(self, name: str, sampler: str) -> None:
        """In the guide's own distance."""
        image = picture(2, 3, 16, 16)
        guide = made(name, torch.float64)
        highest = {"feature": 20.0, "frequency": 1.0, "mse": 20.0, "ssim": 0.5}[name]
        distances = []
        for share in self.STRENGTHS:
            purifier = gaussian(sampler, 20, guide=guide, guidance=share * highest)
            purified = purifier(image, generator=seeded(5)) * 2 - 1
            reference = guide.reference(image * 2 - 1)
            if name in ("feature", "ssim"):
                distances.append(guide.distance(purified, reference))
            elif name == "mse":
                distances.append((purified - image * 2 + 1).square().flatten(1).mean(dim=1))
            else:
                low = guide._bands(16, 16, image)[0]
                error = torch.fft.rfft2(purified).abs() - reference.abs()
                distances.append((error * low).square().flatten(1).mean(dim=1))
        assert all(bool((more < less).all()) for less, more in pairwise(distances)), distances


def replaced(x0: np.ndarray, image: np.ndarray, cutoff: float, delta: float) -> np.ndarray:
    """The same on the full spectrum of numpy, by amplitudes and phases, plane by plane and one frequency at a time."""
    result = np.empty_like(x0)
    height, width = x0.shape[-2:]
    for index in np.ndindex(x0.shape[:2]):
        spectrum, given = np.fft.fft2(x0[index]), np.fft.fft2(image[index])
        for i, j in np.ndindex(height, width):
            if math.hypot(np.fft.fftfreq(height)[i], np.fft.fftfreq(width)[j]) > cutoff:
                continue
            phase = np.angle(given[i, j])
            difference = (np.angle(spectrum[i, j]) - phase + np.pi) % (2 * np.pi) - np.pi
            difference = np.clip(difference, -delta, delta)
            if (-i % height, -j % width) == (i, j) and delta < np.pi:
                difference = 0.0
            spectrum[i, j] = np.abs(given[i, j]) * np.exp(1j * (phase + difference))
        back = np.fft.ifft2(spectrum)
        assert np.abs(back.imag).max() < 1e-12
        result[index] = back.real
    return result


class TestFrequency:
    @pytest.mark.parametrize(("cutoff", "delta"), [(0.0, 0.3), (0.2, 0.0), (0.2, 0.3), (0.35, 2.0), (1.0, 0.3)])
    @pytest.mark.parametrize("size", SIZES)
    def test_against_numpy(self, size: tuple[int, int], cutoff: float, delta: float) -> None:
        guide = Frequency(cutoff=cutoff, delta=delta)
        x0, image = (picture(2, 3, *size, seed=i) * 2 - 1 for i in range(2))
        found = guide.projected(x0, guide.reference(image))
        assert not found.is_complex() and found.shape == x0.shape
        assert np.allclose(found, replaced(x0.numpy(), image.numpy(), cutoff, delta), atol=1e-12)

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("delta", [0.0, 0.3, math.pi])
    def test_in_full_with_all_frequencies_low_amplitudes_are_the_inputs(
        self, delta: float, size: tuple[int, int]
    ) -> None:
        guide, diffusion = Frequency(cutoff=1, delta=delta), gaussian_diffusion()
        image, x, epsilon = (picture(2, 3, *size, seed=i) * 2 - 1 for i in range(3))
        edited = guide(diffusion, x, 30, epsilon, guide.reference(image), strength=1)
        clean = diffusion.clean(x, 30, edited)
        found, expected = (torch.fft.fft2(v).abs() for v in (clean, image))
        assert torch.allclose(found, expected, atol=1e-10)
        if delta == 0:
            assert torch.allclose(clean, image, atol=1e-10)
        if delta == math.pi:
            phases = torch.fft.rfft2(clean) * torch.fft.rfft2(diffusion.clean(x, 30, epsilon)).conj()
            assert phases.real.min() > 0 and phases.imag.abs().max() < 1e-9

    @pytest.mark.parametrize("size", SIZES)
    def test_the_input_itself_stays(self, size: tuple[int, int]) -> None:
        guide, image = Frequency(), picture(2, 3, *size) * 2 - 1
        assert torch.allclose(guide.projected(image, guide.reference(image)), image, atol=1e-13)
        diffusion, epsilon = gaussian_diffusion(), picture(2, 3, *size, seed=1)
        x = diffusion.noised(image, 30, epsilon)
        assert torch.allclose(guide(diffusion, x, 30, epsilon, guide.reference(image), strength=1), epsilon, atol=1e-10)

    def test_high_frequencies_stay(self) -> None:
        guide = Frequency(cutoff=0.2)
        x0, image = (picture(1, 3, 16, 12, seed=i) * 2 - 1 for i in range(2))
        high = ~guide._bands(16, 12, image)[0]
        before, after = (torch.fft.rfft2(v) for v in (x0, guide.projected(x0, guide.reference(image))))
        assert torch.allclose(before[..., high], after[..., high], atol=1e-12)
        assert not torch.allclose(before[..., ~high], after[..., ~high], atol=1e-3)

    def test_strength_interpolates(self) -> None:
        guide, diffusion = Frequency(), gaussian_diffusion()
        image, x, epsilon = (picture(1, 3, 9, 8, seed=i) * 2 - 1 for i in range(3))
        reference = guide.reference(image)
        before = diffusion.clean(x, 30, epsilon)
        after = guide.projected(before, reference)
        for share in (0.25, 1.0):
            clean = diffusion.clean(x, 30, guide(diffusion, x, 30, epsilon, reference, strength=share))
            assert torch.allclose(clean, before + share * (after - before), atol=1e-12)

    def test_planes_of_one_colour_have_a_gradient(self) -> None:
        """Where amplitudes are zero phases are none."""
        image = torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64, requires_grad=True)
        gaussian("ddim", 10, guide="frequency", guidance=1.0)(image, generator=seeded(0)).sum().backward()
        assert image.grad is not None and bool(image.grad.isfinite().all())


class Saved:
    """What a graph keeps, as long as it does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class TestGradient:
    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    @pytest.mark.parametrize("name", GUIDES.names())
    def test_autograd_agrees_with_finite_differences(self, name: str, sampler: str) -> None:
        """In float64, with frozen noise, through network and guide."""
        level = 4 if sampler == "ddpm" else 40
        purifier = guided(name, STRENGTH[name], torch.float64, sampler=sampler, steps=3, noise_level=level)
        image, weight = picture(1, 3, 8, 8), picture(1, 3, 8, 8, seed=1)

        def value(x: Tensor) -> Tensor:
            return (purifier(x, generator=seeded(2)).square() * weight).sum()

        x = image.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(value(x), x)
        for seed in range(3):
            direction = torch.randn(image.shape, generator=seeded(seed), dtype=torch.float64)
            step = 1e-6
            slope = (value(image + step * direction) - value(image - step * direction)) / (2 * step)
            assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5)

    @pytest.mark.parametrize("name", GUIDES.names())
    def test_the_exact_threat_differentiates_it(self, name: str) -> None:
        """Guidance has a share in the gradient: that of the unguided purifier differs.

        By as little as the gentle strengths make of it, yet far more than rounding.
        """
        image, gradients = picture(1, 3, 8, 8), []
        for strength in (0.0, STRENGTH[name]):
            defense = Defense(nn.Identity(), guided(name, strength, torch.float64, noise_level=20))
            x = image.clone().requires_grad_(True)
            threat(defense, "exact", seeded(0), frozen=True)(x).square().sum().backward()
            gradients.append(x.grad)
        assert (gradients[0] - gradients[1]).norm() > 1e-6 * gradients[0].norm()

    @pytest.mark.parametrize("name", GUIDES.names())
    def test_replaying_changes_nothing(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        purifier, replayed = guided(name, STRENGTH[name], torch.float64, sampler="ddpm", noise_level=4), []

        def gradient() -> Tensor:
            x = picture(2, 3, 12, 12).requires_grad_(True)
            (slope,) = torch.autograd.grad(purifier(x, generator=seeded(2)).square().sum(), x)
            return slope

        def plain(*inputs: Any) -> Tensor:
            *tensors, evaluate = inputs
            replayed.append(len(tensors))
            return evaluate(*tensors)

        monkeypatch.setattr("udc_defense.purifiers.diffusion.KEPT_VALUES", 0)
        expected = gradient()
        monkeypatch.setattr("udc_defense.purifiers.diffusion._Replayed.apply", plain)
        assert torch.allclose(gradient(), expected, rtol=1e-10, atol=0) and replayed == [1, 3] * 4

    @pytest.mark.parametrize("name", GUIDES.names())
    def test_a_step_more_keeps_at_most_three_images_more(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("udc_defense.purifiers.diffusion.KEPT_VALUES", 0)
        image, kept = picture(1, 3, 64, 64, dtype=torch.float32).requires_grad_(True), []
        for level in (5, 20):
            alive: weakref.WeakSet[Saved] = weakref.WeakSet()

            def pack(tensor: Tensor, seen: weakref.WeakSet[Saved] = alive) -> Saved:
                seen.add(saved := Saved(tensor))
                return saved

            purifier = guided(name, STRENGTH[name], sampler="ddpm", noise_level=level)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
                output = purifier(image, generator=seeded(0))
            storages = (saved.tensor.untyped_storage() for saved in alive)
            kept.append(sum({s.data_ptr(): s.nbytes() for s in storages}.values()) / image.untyped_storage().nbytes())
            del output
        assert 0 < (kept[1] - kept[0]) / 15 <= 3

    def test_a_guide_may_do_without_the_input(self) -> None:
        class Shorter(Guide):
            def forward(
                self, diffusion: Any, x: Tensor, t: int, epsilon: Tensor, reference: Tensor, *, strength: float
            ) -> Tensor:
                return epsilon * (1 - strength)

        x = picture(1, 3, 8, 8).requires_grad_(True)
        purified = gaussian("ddim", 5, guide=Shorter(), guidance=0.5)(x, generator=seeded(0))
        (slope,) = torch.autograd.grad(purified.sum(), x)
        assert slope.isfinite().all()


class Endless(Guide):
    name = "endless"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown guide": ({"guide": "lpips"}, "guide 'lpips' is not one of feature, frequency, mse, ssim."),
    "a helper is no guide": ({"guide": "base"}, "'base'"),
    "a module that is no guide": ({"guide": nn.Sequential(nn.Identity())}, "guide Sequential"),
    "negative strength": ({"guide": "mse", "guidance": -0.5}, "guidance -0.5"),
    "infinite strength": ({"guide": "ssim", "guidance": math.inf}, "guidance inf"),
    "no number": ({"guide": "mse", "guidance": math.nan}, "guidance nan"),
    "negative strength of nothing": ({"guidance": -1.0}, "guidance -1.0"),
    "more than all": ({"guide": "frequency", "guidance": 1.5}, "guidance 1.5 is not in 0…1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_guides_are_refused_in_one_sentence(case: str) -> None:
    options, words = BAD[case]
    with pytest.raises(SettingError) as caught:
        purifier_of(GaussianNetwork(), SCHEDULER, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert words in message and message.endswith(".") and "\n" not in message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained encoder, as far as loading can tell."""
    folder = tmp_path_factory.mktemp("weights") / "guide" / "default"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GuideEncoder(widths=(4, 8), blocks=(1, 1)).half().save_pretrained(folder)
    write_checksums(folder)
    return folder


class TestEncoder:
    @pytest.mark.parametrize("size", [*SIZES, (13, 10)])
    def test_any_size(self, size: tuple[int, int]) -> None:
        latent = GuideEncoder()(picture(2, 3, *size, dtype=torch.float32))
        assert latent.shape == (2, 64, -(-size[0] // 4), -(-size[1] // 4)) and bool(latent.isfinite().all())

    def test_samples_are_independent(self, folder: Path) -> None:
        image, network = picture(3, 3, 9, 14, dtype=torch.float32), load_guide(folder).encoder
        alone = torch.cat([network(image[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(network(image), alone)

    @pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
    def test_it_can_be_differentiated_twice(self, folder: Path, size: tuple[int, int]) -> None:
        """Padding too: the gradient's own gradient against finite differences, in float64."""
        guide = load_guide(folder).double()
        image, reference = picture(1, 3, *size).requires_grad_(True), guide.reference(picture(1, 3, *size, seed=1))
        assert torch.autograd.gradcheck(lambda x: gradient_of(guide.distance, x, reference), image)

    def test_it_is_cheaper_than_the_purifier(self) -> None:
        """Forwards and backwards in a third of an evaluation's multiplications."""

        def operations(call: Callable[[], object]) -> int:
            with FlopCounterMode(display=False) as counter:
                call()
            return counter.get_total_flops()

        guide, purifier, image = Feature(GuideEncoder()), load_purifier(), picture(1, 3, 64, 64, dtype=torch.float32)
        guide.requires_grad_(False)
        reference = guide.reference(image)
        share = operations(lambda: gradient_of(guide.distance, image, reference))
        assert 3 * share < operations(lambda: purifier.network(image, 0))

    def test_the_name_loads_the_embedded_one(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("udc_defense.checkpoints.files.EMBEDDED", folder.parent.parent)
        image, options = picture(1, 3, 9, 7, dtype=torch.float32), {"noise_level": 5, "guidance": 1.0}
        named, given = (
            purifier_of(unet(torch.float32), SCHEDULER, guide=guide, **options)
            for guide in ("feature", load_guide(folder))
        )
        assert torch.equal(named(image, generator=seeded(0)), given(image, generator=seeded(0)))
        for parameter in named.guide.parameters():
            assert parameter.dtype == torch.float32 and not parameter.requires_grad

    def test_without_an_embedded_one_the_name_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("udc_defense.checkpoints.files.EMBEDDED", tmp_path)
        with pytest.raises(CheckpointError, match=r"^default: neither an embedded guide \(none\), nor a folder, .*\.$"):
            purifier_of(unet(torch.float32), SCHEDULER, guide="feature", guidance=1.0)

    def test_a_damaged_one(self, folder: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        data = bytearray((copy / WEIGHTS).read_bytes())
        data[-1] ^= 1
        (copy / WEIGHTS).write_bytes(data)
        with pytest.raises(CheckpointError, match="is damaged"):
            load_guide(copy)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"_class_name": "GatedUNet"}, "architecture 'GatedUNet' is not GuideEncoder, a guide's."),
            ({"widths": [8, 8]}, "do not fit"),
            ({"blocks": [1]}, "does not describe a GuideEncoder"),
        ],
    )
    def test_one_that_is_none(self, changes: dict[str, Any], words: str, folder: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        (copy / CHECKSUMS).unlink()
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(CheckpointError, match=words):
            load_guide(copy)


@pytest.mark.parametrize(
    "options", [{"cutoff": -0.1}, {"cutoff": 1.1}, {"cutoff": math.nan}, {"delta": -0.1}, {"delta": 4.0}]
)
def test_bad_parameters_are_refused_in_one_sentence(options: dict[str, float]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(SettingError, match=rf"^{name} {value} is not in .*\.$"):
        Frequency(**options)


def test_guides_are_files() -> None:
    assert GUIDES.names() == ["feature", "frequency", "mse", "ssim"]
    assert {GUIDES.get(name).name for name in GUIDES.names()} == set(GUIDES.names())
    assert isinstance(named_guide("ssim"), Ssim)
    assert purifier_of(GaussianNetwork(), SCHEDULER, guide=Endless(), guidance=1e9).guidance == 1e9
