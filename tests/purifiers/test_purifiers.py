"""Samplers against a Gaussian prior, for which every one of them has a closed form, and against diffusers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from gaussian_prior import DEVIATION, MEAN, SCHEDULER, SIGNAL, GaussianNetwork, gaussian, gaussian_diffusion, picture
from tiny_networks import lively_unet
from tiny_networks import purifier as purifier_of
from torch import Tensor, nn

from udc_defense import noise
from udc_defense.diffusion import Diffusion
from udc_defense.errors import SettingError
from udc_defense.noise import seeded
from udc_defense.purifiers import SAMPLERS

# The same linear β in a hundred times as many timesteps: so dense that rounding to them hides no order.
DENSE = (1 - SCHEDULER.betas.double().repeat_interleave(100) / 100).cumprod(dim=0)
SECOND_ORDER = ["dpm_solver", "ode"]


def noised(image: Tensor, level: int, seed: int) -> Tensor:
    """x_t of the first draw, in [-1, 1], from the noise that the purifier is documented to take."""
    ((generators),) = noise.split(seeded(seed), len(image), 1)
    epsilon = noise.normal(image, generators)
    signal = float(SIGNAL[level - 1])
    return signal**0.5 * (image * 2 - 1) + (1 - signal) ** 0.5 * epsilon


def transported(x: Tensor, signal: float) -> Tensor:
    """Where the probability flow ends, which keeps quantiles: m + s (x_t - √ᾱ m) / √(ᾱ s² + 1 - ᾱ)."""
    return MEAN + DEVIATION / (signal * DEVIATION**2 + 1 - signal) ** 0.5 * (x - signal**0.5 * MEAN)


def posterior(level: int) -> tuple[float, float, float]:
    """Gain and offset of E[x₀ | x_t], and the variance of x₀ given x_t."""
    signal, prior = float(SIGNAL[level - 1]), DEVIATION**2
    total = signal * prior + 1 - signal
    gain = signal**0.5 * prior / total
    return gain, MEAN * (1 - gain * signal**0.5), prior * (1 - signal) / total


def ancestral(level: int) -> tuple[float, float, float]:
    """What DDPM's chain gives from x_t: gain, offset and variance of x_0, by the recursion of eq. 7 in closed form.

    Each step is x ← a x + b + N(0, v), because x̂₀ is affine in x for a Gaussian prior.
    """
    gain, offset, variance = 1.0, 0.0, 0.0
    for t in range(level - 1, -1, -1):
        signal, before = float(SIGNAL[t]), float(SIGNAL[t - 1]) if t else 1.0
        beta = 1 - signal / before
        to_clean, clean_offset, _ = posterior(t + 1)
        share = before**0.5 * beta / (1 - signal)
        keep = (signal / before) ** 0.5 * (1 - before) / (1 - signal)
        a, b = share * to_clean + keep, share * clean_offset
        v = (1 - before) / (1 - signal) * beta if t else 0.0
        gain, offset, variance = a * gain, a * offset + b, a * a * variance + v
    return gain, offset, variance


class TestGaussianPrior:
    @pytest.mark.parametrize("level", [1, 20, 150, 1000])
    def test_one_step_is_the_posterior_mean(self, level: int) -> None:
        image = picture(2, 3, 8, 8)
        gain, offset, _ = posterior(level)
        expected = gain * noised(image, level, 5) + offset
        assert torch.allclose(gaussian("one_step", level)(image, generator=seeded(5)) * 2 - 1, expected, atol=1e-6)

    @pytest.mark.parametrize("sampler", ["ddim", *SECOND_ORDER])
    @pytest.mark.parametrize("level", [20, 150, 600])
    def test_deterministic_samplers_converge_to_the_transport_map(self, sampler: str, level: int) -> None:
        """Down to a floor of 2e-3: the step from timestep 0 ends at the posterior mean whatever the sampler."""
        image = picture(1, 3, 8, 8)
        expected = transported(noised(image, level, 5), float(SIGNAL[level - 1]))
        errors = []
        for steps in (1, 4, 16, level):
            purified = gaussian(sampler, level, steps=steps)(image, generator=seeded(5)) * 2 - 1
            errors.append(((purified - expected).norm() / (expected - MEAN).norm()).item())
        assert all(finer < max(coarser, 2e-3) for coarser, finer in pairwise(errors))
        assert errors[0] > 2 * errors[-1] and errors[-1] < 1e-2

    @pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpm_solver", 2), ("ode", 2)])
    @pytest.mark.parametrize("level", [10_000, 20_000, 40_000])
    def test_order(self, sampler: str, order: int, level: int) -> None:
        """The slope of log error over log steps, on the dense schedule; its floor is 5e-6."""
        x = torch.randn(1, 3, 8, 8, generator=seeded(1), dtype=torch.float64)
        expected = transported(x, float(DENSE[level - 1]))
        counts, errors = (16, 32, 64), []
        for steps in counts:
            *_, x0 = SAMPLERS.get(sampler)(gaussian_diffusion(DENSE), x, level - 1, steps=steps, generators=[])
            errors.append((x0 - expected).abs().max().item())
        slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
        assert slope == pytest.approx(-order, abs=0.25), errors

    @pytest.mark.parametrize("sampler", SECOND_ORDER)
    @pytest.mark.parametrize("level", [30, 100])
    def test_second_order_pays_for_the_same_evaluations(self, sampler: str, level: int) -> None:
        image = picture(1, 3, 8, 8)
        expected = transported(noised(image, level, 5), float(SIGNAL[level - 1]))
        for steps in (3, 5):
            ours = gaussian(sampler, level, steps=steps)
            ddim = gaussian("ddim", level, steps=ours.evaluations)
            first, second = ((p(image, generator=seeded(5)) * 2 - 1 - expected).norm() for p in (ddim, ours))
            assert second < 0.6 * first

    @pytest.mark.parametrize("sampler", ["ddim", *SECOND_ORDER])
    def test_a_single_step_is_one_step(self, sampler: str) -> None:
        image = picture(1, 3, 8, 8)
        one, other = (gaussian(s, 50, steps=1)(image, generator=seeded(5)) for s in ("one_step", sampler))
        assert torch.allclose(one, other, atol=1e-12)

    @pytest.mark.parametrize("level", [2, 50, 250])
    def test_ddpm_samples_the_posterior(self, level: int) -> None:
        """Statistics over n = 27,648 independent values that start from one x_t; tolerances are 5 standard errors."""
        image = torch.full((1, 3, 96, 96), 0.8, dtype=torch.float64)
        x = noised(image, level, 5).flatten()
        result = (gaussian("ddpm", level)(image, generator=seeded(5)) * 2 - 1).flatten()
        gain, offset, variance = ancestral(level)
        rest, n = result - (gain * x + offset), len(x)
        assert rest.mean().abs() < 5 * (variance / n) ** 0.5 + 1e-6
        centred = x - x.mean()
        slope = ((centred * result).sum() / centred.square().sum()).item()
        assert slope == pytest.approx(gain, abs=5 * (variance / centred.square().sum().item()) ** 0.5 + 1e-6)
        assert rest.var().item() == pytest.approx(variance, rel=5 * (2 / n) ** 0.5)

    @pytest.mark.parametrize("level", [50, 400])
    def test_the_chain_ends_at_the_posterior(self, level: int) -> None:
        """Its mean exactly; its variance from below: β̃ is exact for s = 0 only, and the last step adds no noise.

        Each step lacks a share of the order of its β (1/s² + …); together 7 % at t* = 50 here.
        """
        assert ancestral(level)[:2] == pytest.approx(posterior(level)[:2], abs=1e-9)
        variance = posterior(level)[2]
        assert 0.9 * variance < ancestral(level)[2] < variance


class TestDiffusers:
    """In float64, also inside the schedulers as far as they let us: 1 - ᾱ loses four digits in float32 at small t."""

    @pytest.mark.parametrize("t", [0, 1, 40, 999])
    def test_a_ddpm_step(self, t: int) -> None:
        x = torch.randn(1, 3, 8, 8, generator=seeded(1), dtype=torch.float64)
        scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)
        scheduler.alphas_cumprod, scheduler.one = SIGNAL, torch.tensor(1.0, dtype=torch.float64)
        diffusion = gaussian_diffusion()
        # The same bits of noise: diffusers draws in the precision of x, we in float32.
        drawn = noise.normal(x, [seeded(7)])
        ours = next(SAMPLERS.get("ddpm")(diffusion, x, t, steps=1, generators=[seeded(7)]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: drawn)
            theirs = scheduler.step(diffusion.predict(x, t), t, x).prev_sample
        assert torch.allclose(ours, theirs, atol=1e-9)

    @pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
    def test_ddim(self, eta: float) -> None:
        """Timesteps 99, 79, …, 19: those of 50 steps over the whole schedule."""
        x = torch.randn(1, 3, 8, 8, generator=seeded(1), dtype=torch.float64)
        scheduler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)
        scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = SIGNAL, torch.tensor(1.0, dtype=torch.float64)
        scheduler.set_timesteps(50)
        diffusion, source, theirs = gaussian_diffusion(), seeded(7), x
        states = SAMPLERS.get("ddim")(diffusion, x, 99, steps=5, generators=[seeded(7)], eta=eta)
        for t, ours in zip(range(99, -1, -20), states, strict=True):
            drawn = noise.normal(x, [source])
            predicted = diffusion.predict(theirs, t)
            theirs = scheduler.step(predicted, t, theirs, eta=eta, variance_noise=drawn).prev_sample
            assert torch.allclose(ours, theirs, atol=1e-12)

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers under numpy 2
    @pytest.mark.parametrize("steps", [1, 2, 5, 20])
    @pytest.mark.parametrize("t", [29, 99, 599])
    def test_dpm_solver(self, t: int, steps: int) -> None:
        """Over our timesteps; theirs rounds x to float32 at every step."""
        x = torch.randn(1, 3, 8, 8, generator=seeded(1), dtype=torch.float64)
        diffusion, theirs = gaussian_diffusion(), x
        timesteps = diffusion.timesteps(t, steps)
        scheduler = DPMSolverMultistepScheduler(
            num_train_timesteps=1000, beta_schedule="linear", algorithm_type="dpmsolver++", solver_order=2
        )
        scheduler.set_timesteps(timesteps=timesteps[:-1])
        scheduler.sigmas = torch.tensor([diffusion.sigma(now) for now in timesteps], dtype=torch.float64)
        states = SAMPLERS.get("dpm_solver")(diffusion, x, t, steps=steps, generators=[])
        for now, ours in zip(timesteps[:-1], states, strict=True):
            theirs = scheduler.step(diffusion.predict(theirs, now), now, theirs).prev_sample
            assert torch.allclose(ours, theirs, atol=2e-6)


class TestEta:
    @pytest.mark.parametrize("level", [1, 2, 30])
    def test_of_1_over_all_timesteps_ddim_is_ddpm(self, level: int) -> None:
        """Eq. 12 and 16 of arXiv 2010.02502 against eq. 7 of arXiv 2006.11239, step by step."""
        x, diffusion = picture(2, 3, 8, 8) * 2 - 1, gaussian_diffusion()
        chains = (
            SAMPLERS.get(sampler)(diffusion, x, level - 1, steps=level, generators=[seeded(1), seeded(2)], **options)
            for sampler, options in (("ddim", {"eta": 1.0}), ("ddpm", {}))
        )
        states = list(zip(*chains, strict=True))
        assert len(states) == level
        assert all(torch.allclose(ddim, ddpm, atol=1e-12) for ddim, ddpm in states)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_of_0_it_is_eq_13_bit_for_bit_and_draws_nothing(self, dtype: torch.dtype) -> None:
        x, diffusion, timesteps = picture(1, 3, 8, 8, dtype=dtype), gaussian_diffusion(), [29, 23, 17, 11, 5, -1]
        expected = x
        for now, after in pairwise(timesteps):
            expected = diffusion.moved(expected, now, after, diffusion.predict(expected, now))
        for options in ({}, {"eta": 0.0}):
            *_, found = SAMPLERS.get("ddim")(diffusion, x, 29, steps=5, generators=[], **options)
            assert torch.equal(found, expected)

    def test_the_purifier_passes_it_on(self) -> None:
        image = picture(1, 3, 8, 8)
        none, zero, half, one = (
            gaussian("ddim", 30, steps=30, **options)(image, generator=seeded(3))
            for options in ({}, {"eta": 0.0}, {"eta": 0.5}, {"eta": 1.0})
        )
        assert torch.equal(none, zero)
        assert not torch.equal(half, zero) and not torch.equal(half, one)
        assert torch.allclose(one, gaussian("ddpm", 30)(image, generator=seeded(3)), atol=1e-12)

    def test_a_sample_does_not_depend_on_its_batch_mates(self) -> None:
        image, purifier = picture(3, 3, 8, 8), gaussian("ddim", 6, eta=0.7)
        together = purifier(image, generator=[seeded(i) for i in range(3)])
        for i in range(3):
            assert torch.equal(together[i : i + 1], purifier(image[i : i + 1], generator=[seeded(i)]))


class TestForward:
    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    def test_level_0_is_the_identity_bit_for_bit(self, sampler: str) -> None:
        image, purifier = picture(2, 3, 7, 5, dtype=torch.float32), gaussian(sampler, 0, draws=3)
        assert torch.equal(purifier(image), image)
        assert purifier.evaluations == 0 and list(purifier.iterate(image)) == []

    @pytest.mark.parametrize("draws", [1, 3])
    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    @pytest.mark.parametrize("level", [1, 3, 12])
    def test_evaluations_are_the_real_number(self, sampler: str, level: int, draws: int) -> None:
        purifier = gaussian(sampler, level, steps=5, draws=draws)
        states = list(purifier.iterate(picture(2, 3, 4, 4), generator=seeded(0)))
        assert isinstance(purifier.network, GaussianNetwork)
        assert purifier.network.calls == purifier.evaluations == len(states)
        assert [(s.step, s.steps) for s in states] == [(i + 1, len(states)) for i in range(len(states))]

    @pytest.mark.parametrize("sampler", ["ddim", "dpm_solver"])
    def test_each_timestep_is_visited_at_most_once(self, sampler: str) -> None:
        for t in (0, 1, 2, 9, 49, 149):
            for steps in range(1, t + 3):
                visited: list[int] = []

                def predict(x: Tensor, now: int, visited: list[int] = visited) -> Tensor:
                    visited.append(now)
                    return x

                list(SAMPLERS.get(sampler)(Diffusion(predict, SIGNAL), torch.zeros(1), t, steps=steps, generators=[]))
                assert len(visited) == min(steps, t + 1) and visited[0] == t
                assert visited == sorted(set(visited), reverse=True)

    def test_timesteps_of_second_order_follow_the_root_of_sigma(self) -> None:
        """To half a timestep where the schedule is dense; √σ is what falls evenly."""
        diffusion = gaussian_diffusion(DENSE)
        *timesteps, last = diffusion.timesteps(9_999, 8)
        falls = -np.diff([diffusion.sigma(t) ** 0.5 for t in (*timesteps, last)])
        assert last == -1 and timesteps[0] == 9_999
        assert falls == pytest.approx(diffusion.sigma(9_999) ** 0.5 / 8, rel=0.01)

    @pytest.mark.parametrize(
        ("sampler", "most", "evaluations", "replacement"),
        [
            ("one_step", 2, 1, "one_step"),
            ("ddim", 2, 2, "ddim"),
            ("ddim", 9, 5, "ddim"),
            ("ddpm", 2, 2, "ddim"),
            ("ddpm", 12, 12, "ddpm"),
            ("dpm_solver", 2, 2, "dpm_solver"),
            ("ode", 1, 1, "ode"),
            ("ode", 2, 1, "ode"),
            ("ode", 7, 7, "ode"),
            ("ode", 99, 9, "ode"),
        ],
    )
    def test_fewer_evaluations(self, sampler: str, most: int, evaluations: int, replacement: str) -> None:
        """Never more than asked for, nor than the purifier itself takes."""
        purifier = gaussian(sampler, 12, steps=5, draws=3)
        fewer = purifier.of_fewer_steps(most)
        assert (fewer.evaluations, fewer.sampler.name) == (3 * evaluations, replacement)
        assert len(list(fewer.iterate(picture(1, 3, 4, 4), generator=seeded(0)))) == fewer.evaluations
        assert purifier.sampler.name == sampler and purifier.sampler_steps == 5

    def test_fewer_evaluations_keep_eta(self) -> None:
        assert gaussian("ddim", 12, eta=0.5).of_fewer_steps(2).options == {"eta": 0.5}

    def test_closing_stops_the_work(self) -> None:
        purifier = gaussian("ddpm", 50)
        steps = purifier.iterate(picture(1, 3, 4, 4), generator=seeded(0))
        next(steps), next(steps)
        steps.close()
        assert isinstance(purifier.network, GaussianNetwork) and purifier.network.calls == 2

    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    def test_same_seed_same_bits(self, sampler: str) -> None:
        image, purifier = picture(2, 3, 8, 8), gaussian(sampler, 10)
        first, second, other = (purifier(image, generator=seeded(s)) for s in (1, 1, 2))
        assert torch.equal(first, second) and not torch.equal(first, other)

    def test_the_global_generator_is_left_alone(self) -> None:
        state = torch.get_rng_state()
        gaussian("ddpm", 4)(picture(1, 3, 4, 4), generator=seeded(0))
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    def test_a_sample_does_not_depend_on_its_batch_mates(self, sampler: str) -> None:
        image = picture(3, 3, 12, 12, dtype=torch.float32)
        purifier = purifier_of(lively_unet(), SCHEDULER, sampler=sampler, noise_level=6, draws=2)
        together = purifier(image, generator=[seeded(i) for i in range(3)])
        for i in range(3):
            alone = purifier(image[i : i + 1], generator=[seeded(i)])
            assert torch.allclose(together[i : i + 1], alone, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("draws", [2, 3, 4])
    @pytest.mark.parametrize("aggregate", ["mean", "median"])
    def test_draws_are_aggregated_pixel_by_pixel(self, aggregate: str, draws: int) -> None:
        """Against the samplers called one by one; the median of an even number is the mean of the middle two."""
        image = picture(1, 3, 8, 8)
        purifier = gaussian("ddpm", 10, draws=draws, aggregate=aggregate)
        purified, x0 = purifier(image, generator=seeded(3)), image * 2 - 1
        singles = []
        for generators in noise.split(seeded(3), 1, draws):
            x = gaussian_diffusion().noised(x0, 9, noise.normal(x0, generators))
            *_, x = SAMPLERS.get("ddpm")(gaussian_diffusion(), x, 9, steps=1, generators=generators)
            singles.append((x[0].numpy() + 1) / 2)
        assert np.ptp(singles, axis=0).min() > 0
        expected = getattr(np, aggregate)(singles, axis=0)
        assert np.allclose(purified[0].numpy(), expected, atol=1e-9)

    def test_more_draws_keep_the_noise_of_the_first_ones(self) -> None:
        """So that a table over draws compares the same noise: only the number of draws differs."""
        first = noise.split([seeded(4)], 1, 2)[0]
        again = noise.split([seeded(4)], 1, 8)[0]
        like = torch.zeros(1, 3, 4, 4)
        assert torch.equal(noise.normal(like, first), noise.normal(like, again))

    @pytest.mark.parametrize("size", [(1, 1), (5, 9), (16, 3)])
    def test_any_size(self, size: tuple[int, int]) -> None:
        image = picture(1, 3, *size, dtype=torch.float32)
        purified = purifier_of(lively_unet(), SCHEDULER, noise_level=5)(image, generator=seeded(0))
        assert purified.shape == image.shape and purified.isfinite().all()

    def test_tiles_see_one_noise(self) -> None:
        """The Gaussian network is local: in tiles it must give the same bits of noise, so the same result."""
        image, whole, tiled = picture(1, 3, 50, 40), gaussian("ddpm", 5), gaussian("ddpm", 5)
        tiled.tile_size, tiled.tile_overlap = 16, 4
        assert torch.allclose(whole(image, generator=seeded(0)), tiled(image, generator=seeded(0)), atol=1e-12)


class TestNoise:
    def test_bits_do_not_depend_on_the_batch(self) -> None:
        like = torch.zeros(3, 3, 5, 5)
        for draw in (noise.normal, noise.uniform):
            together = draw(like, noise.split([seeded(i) for i in range(3)], 3, 2)[1])
            for i in (2, 0):
                alone = draw(like[:1], noise.split([seeded(i)], 1, 2)[1])
                assert torch.equal(together[i : i + 1], alone)
            assert len({float(sample.flatten()[0]) for sample in together}) == 3

    def test_bits_do_not_depend_on_the_precision(self) -> None:
        single, double = (
            noise.normal(torch.zeros(1, 3, 5, 5, dtype=d), [seeded(0)]) for d in (torch.float32, torch.float64)
        )
        assert torch.equal(single.double(), double)

    def test_distributions(self) -> None:
        like = torch.zeros(1, 100_000)
        normal, uniform = noise.normal(like, [seeded(0)]), noise.uniform(like, [seeded(0)])
        assert normal.mean().abs() < 0.02 and normal.std().item() == pytest.approx(1, abs=0.02)
        assert uniform.min() >= -1 and uniform.max() < 1 and uniform.mean().abs() < 0.02


class TestGradient:
    @pytest.mark.parametrize(
        ("sampler", "options"),
        [(sampler, {"noise_level": 4 if sampler == "ddpm" else 40}) for sampler in SAMPLERS.names()]
        + [("ddim", {"noise_level": 40, "eta": 0.7})],
    )
    def test_autograd_agrees_with_finite_differences(self, sampler: str, options: dict[str, Any]) -> None:
        """In float64, with frozen noise, through a real network."""
        purifier = purifier_of(lively_unet().double(), SCHEDULER, sampler=sampler, steps=3, **options)
        image, weight = picture(1, 3, 8, 8), picture(1, 3, 8, 8, seed=1)

        def value(x: Tensor) -> Tensor:
            return (purifier(x, generator=seeded(2)).square() * weight).sum()

        x = image.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(value(x), x)
        for seed in range(3):
            direction = torch.randn(image.shape, generator=seeded(seed), dtype=torch.float64)
            step = 1e-5
            slope = (value(image + step * direction) - value(image - step * direction)) / (2 * step)
            assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-6)

    @pytest.mark.parametrize("sampler", ["one_step", "ddpm"])
    def test_replaying_changes_nothing(self, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
        purifier = purifier_of(lively_unet(), SCHEDULER, sampler=sampler, noise_level=4)
        image, calls = picture(2, 3, 12, 12, dtype=torch.float32), []

        def gradient() -> Tensor:
            x = image.clone().requires_grad_(True)
            purifier(x, generator=seeded(2)).square().sum().backward()
            assert x.grad is not None
            return x.grad

        kept = gradient()
        monkeypatch.setattr("udc_defense.purifiers.diffusion.KEPT_VALUES", 0)
        replayed = gradient()

        def plain(x: Tensor, evaluate: Any) -> Tensor:
            calls.append(x)
            return evaluate(x)

        monkeypatch.setattr("udc_defense.purifiers.diffusion._Replayed.apply", plain)
        assert torch.allclose(replayed, gradient(), atol=1e-6) and calls
        assert torch.allclose(replayed, kept, atol=1e-6)

    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    def test_a_network_that_predicts_the_image_is_the_same_purifier(self, sampler: str) -> None:
        class Images(nn.Module):
            """x̂₀ of the same ε̂."""

            def __init__(self, noise: UNet2DModel) -> None:
                super().__init__()
                self.noise, self.config = noise, noise.config

            def forward(self, x: Tensor, times: Tensor) -> Any:
                signal = SIGNAL[times].view(-1, 1, 1, 1)
                found = self.noise(x, times)
                found.sample = (x - (1 - signal).sqrt() * found.sample) / signal.sqrt()
                return found

        network, image = lively_unet().double(), picture(1, 3, 12, 12)
        scheduler = DDPMScheduler.from_config(SCHEDULER.config, prediction_type="sample")
        options: dict[str, Any] = {"sampler": sampler, "noise_level": 6}
        noise = purifier_of(network, SCHEDULER, **options)
        itself = purifier_of(Images(network), scheduler, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(itself(image, generator=seeded(1)), noise(image, generator=seeded(1)))

    def test_a_gaussian_gives_the_gradient_in_closed_form(self) -> None:
        x = picture(1, 3, 4, 4).requires_grad_(True)
        gaussian("ddpm", 30)(x, generator=seeded(0)).sum().backward()
        expected = ancestral(30)[0] * float(SIGNAL[29]) ** 0.5
        assert x.grad is not None and torch.allclose(x.grad, torch.full_like(x, expected), rtol=1e-6)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "negative level": ({"noise_level": -1}, "-1"),
    "level above the schedule": ({"noise_level": 1001}, "1001"),
    "level above the training": ({"noise_level": 151, "last_timestep": 150}, "151"),
    "no steps": ({"steps": 0}, "steps 0"),
    "no draws": ({"draws": 0}, "draws 0"),
    "unknown aggregate": ({"aggregate": "mode"}, "'mode'"),
    "eta below 0": ({"sampler": "ddim", "eta": -0.1}, "eta -0.1"),
    "eta above 1": ({"sampler": "ddim", "eta": 1.5}, "eta 1.5"),
    "eta no number": ({"sampler": "ddim", "eta": float("nan")}, "eta nan"),
    "eta of a sampler that has none": ({"sampler": "ode", "eta": 1.0}, "'ode'"),
    "unknown sampler": ({"sampler": "euler"}, "'euler'"),
    "a helper is no sampler": ({"sampler": "base"}, "'base'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused_in_one_sentence(name: str) -> None:
    options, words = BAD[name]
    with pytest.raises(SettingError) as caught:
        purifier_of(GaussianNetwork(), SCHEDULER, **options)
    message = str(caught.value)
    assert words in message and message.endswith(".") and "\n" not in message


def test_a_wrong_number_of_generators_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^1 generators for a batch of 2\.$"):
        gaussian("one_step", 5)(picture(2, 3, 4, 4), generator=[seeded(0)])


def test_the_highest_level_is_what_the_network_was_trained_for() -> None:
    assert purifier_of(GaussianNetwork(), SCHEDULER, noise_level=150, last_timestep=150).noise_level == 150
