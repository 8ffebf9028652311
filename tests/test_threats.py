"""What an attacker sees of a defense."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from tiny_networks import purifier as purifier_of
from tiny_networks import tiny_unet
from torch import Tensor, nn

from udc_defense import attacks
from udc_defense.attacks import ATTACKS
from udc_defense.defense import Defense
from udc_defense.errors import SettingError
from udc_defense.noise import Generators, normal, seeded, split
from udc_defense.purifiers import SAMPLERS
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.threats import KINDS, WORDS, threat


class Doubler(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return 2 * image


class Squarer(nn.Module):
    """Not linear: its gradient depends on where it is taken."""

    def forward(self, image: Tensor) -> Tensor:
        return image.square()


class NoisyHalver(nn.Module):
    """Undoes the restorer's gain and adds noise: the defense is the identity on average."""

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        assert not isinstance(generator, list)
        return image / 2 + torch.randn(image.shape, generator=generator) * 1e-3


class Identity(nn.Module):
    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        return image


@pytest.fixture
def defense() -> Defense:
    return Defense(Doubler(), NoisyHalver())


def purifier(**options: Any) -> DiffusionPurifier:
    return purifier_of(tiny_unet().double(), DDPMScheduler(clip_sample=False), **{"noise_level": 8} | options)


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


def gradient(model: nn.Module, image: Tensor) -> Tensor:
    x = image.detach().requires_grad_(True)
    return torch.autograd.grad((model(x) ** 2).sum(), x)[0]


class TestOblivious:
    def test_it_sees_the_restorer_alone(self, defense: Defense) -> None:
        image = torch.rand(1, 3, 4, 4, generator=seeded(0))
        assert torch.equal(threat(defense, "oblivious")(image), 2 * image)

    @pytest.mark.parametrize("kind", KINDS)
    def test_without_a_purifier_all_see_the_same(self, kind: Any) -> None:
        image = torch.rand(1, 3, 4, 4, generator=seeded(0))
        assert torch.equal(threat(Defense(Doubler()), kind)(image), 2 * image)


class TestExact:
    def test_it_sees_the_whole_gradient(self, defense: Defense) -> None:
        image = torch.rand(1, 3, 4, 4, generator=seeded(0)).requires_grad_(True)
        (found,) = torch.autograd.grad(threat(defense, "exact", seeded(1))(image).sum(), image)
        torch.testing.assert_close(found, torch.ones_like(image))

    @pytest.mark.parametrize("draws", [1, 3])
    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    def test_it_is_plain_autograd(self, sampler: str, draws: int) -> None:
        """The chain written out, every activation kept: the same gradient to 1e-6, and better."""
        image, restorer = picture(1, 3, 8, 8), Squarer()
        chain = purifier(sampler=sampler, draws=draws)
        model = threat(Defense(restorer, chain), "exact", seeded(1))

        def written_out(x: Tensor) -> Tensor:
            diffusion = chain.diffusion
            predict = lambda part, t: chain.network(part, torch.full((len(part),), t)).sample  # noqa: E731
            plain, results = type(diffusion)(predict, chain.signal), []
            for generators in split(seeded(1), 1, draws):
                noisy = plain.noised(2 * x - 1, 7, normal(x, generators))
                *_, last = chain.sampler(plain, noisy, 7, steps=5, generators=generators)
                results.append((last + 1) / 2)
            return restorer(torch.stack(results).mean(dim=0))

        expected = gradient(written_out, image)  # type: ignore[arg-type]
        found = gradient(model, image)
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()

    @pytest.mark.parametrize("sampler", SAMPLERS.names())
    def test_it_agrees_with_finite_differences(self, sampler: str) -> None:
        """Frozen noise makes the defense a function; along random directions, in float64."""
        image = picture(1, 3, 8, 8)
        model = threat(Defense(Squarer(), purifier(sampler=sampler)), "exact", seeded(1), frozen=True)
        slope = gradient(model, image)
        for seed in range(3):
            direction = picture(1, 3, 8, 8, seed=seed + 1) - 0.5
            ahead, behind = ((model(image + h * direction) ** 2).sum() for h in (1e-5, -1e-5))
            assert float((slope * direction).sum()) == pytest.approx(float((ahead - behind) / 2e-5), rel=1e-6)

    @pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
    def test_a_step_more_keeps_at_most_three_images_more(self, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("udc_defense.purifiers.diffusion.KEPT_VALUES", 0)
        image, kept = picture(1, 3, 64, 64), []
        for level in (1, 5, 20, 50):
            storages: dict[int, int] = {}

            def pack(tensor: Tensor, seen: dict[int, int] = storages) -> Tensor:
                seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            chain = purifier(sampler=sampler, noise_level=level, steps=level)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                output = threat(Defense(Doubler(), chain), "exact")(image.requires_grad_(True))
            kept.append((level, sum(storages.values()) / image.untyped_storage().nbytes()))
            del output
        for (fewer, low), (more, high) in zip(kept, kept[1:], strict=False):
            assert 0 < (high - low) / (more - fewer) <= 3


class TestNoise:
    def test_fresh_at_every_call_from_its_generator(self, defense: Defense) -> None:
        image = torch.rand(1, 3, 4, 4, generator=seeded(0))
        first, second = threat(defense, "exact", seeded(1)), threat(defense, "exact", seeded(1))
        a, b = first(image), first(image)
        assert not torch.equal(a, b) and torch.equal(a, second(image)) and torch.equal(b, second(image))

    @pytest.mark.parametrize("kind", ["bpda", "exact"])
    def test_frozen_is_the_same_at_every_call(self, kind: Any, defense: Defense) -> None:
        image = torch.rand(1, 3, 4, 4, generator=seeded(0))
        model = threat(defense, kind, seeded(1), frozen=True)
        assert torch.equal(model(image), model(image))
        assert not torch.equal(model(image), threat(defense, kind, seeded(2), frozen=True)(image))

    def test_draws_average_the_gradient_over_the_noise(self) -> None:
        """The variance of a mean of k gradients falls as 1/k."""
        image, chain = picture(1, 3, 8, 8), purifier(noise_level=50)

        def spread(draws: int) -> float:
            found = []
            for seed in range(24):
                model = threat(Defense(Squarer(), chain), "exact", seeded(seed))
                _, slope = attacks.gradients.loss_and_grad(model, image, 0 * image, attacks.objectives.mse, draws)
                found.append(slope)
            return float(torch.stack(found).var(dim=0).mean())

        assert spread(8) / spread(1) == pytest.approx(1 / 8, rel=0.4)


class TestBpda:
    def test_it_runs_the_defense_and_differentiates_the_restorer_where_the_purifier_ended(self) -> None:
        image, chain = picture(1, 3, 8, 8), purifier()
        model = threat(Defense(Squarer(), chain), "bpda", seeded(1))
        purified = chain(image, generator=seeded(1))
        torch.testing.assert_close(model(image), purified.square())
        torch.testing.assert_close(
            gradient(threat(Defense(Squarer(), chain), "bpda", seeded(1)), image), 4 * purified**3
        )

    def test_of_the_identity_it_is_exact(self) -> None:
        image, defense = picture(1, 3, 8, 8), Defense(Squarer(), Identity())
        assert torch.equal(gradient(threat(defense, "bpda"), image), gradient(threat(defense, "exact"), image))


class TestSurrogate:
    @pytest.mark.parametrize("sampler", ["one_step", "ddim"])
    def test_of_the_same_steps_it_is_exact(self, sampler: str) -> None:
        image, defense = picture(1, 3, 8, 8), Defense(Squarer(), purifier(sampler=sampler, steps=3))
        surrogate, exact = (threat(defense, kind, seeded(1), surrogate_steps=3) for kind in ("surrogate", "exact"))
        assert torch.equal(gradient(surrogate, image), gradient(exact, image))

    @pytest.mark.parametrize(("sampler", "evaluations"), [("one_step", 1), ("ddim", 2), ("ddpm", 2)])
    def test_it_takes_fewer_steps_and_leaves_the_defense_alone(self, sampler: str, evaluations: int) -> None:
        chain = purifier(sampler=sampler)
        fewer = chain.of_fewer_steps(2)
        assert fewer.evaluations == evaluations
        assert (chain.sampler.name, chain.evaluations) == (sampler, purifier(sampler=sampler).evaluations)
        assert fewer.network is chain.network

    def test_a_purifier_without_steps_has_none(self, defense: Defense) -> None:
        with pytest.raises(SettingError, match=r"needs a diffusion purifier.*\.$"):
            threat(defense, "surrogate")

    def test_no_steps_are_refused(self) -> None:
        with pytest.raises(SettingError, match=r"^0 steps"):
            threat(Defense(Doubler(), purifier()), "surrogate", surrogate_steps=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ATTACKS.names())
def test_any_attack_runs_under_any_threat(name: str, kind: Any) -> None:
    attack, image = ATTACKS.get(name), picture(1, 3, 16, 16)
    model = threat(Defense(Squarer(), purifier(sampler="ddim", steps=2)), kind, seeded(1), surrogate_steps=1)
    few = {"eps": 0.1, "steps": 2, "generator": seeded(2)}
    attacked = attack(model, image, image.square(), **{k: v for k, v in few.items() if k in attack.defaults})
    assert torch.isfinite(attacked.losses).all() and attacked.image.shape == image.shape


def test_kinds_are_explained() -> None:
    assert set(WORDS) == set(KINDS)


def test_an_unknown_kind_is_refused(defense: Defense) -> None:
    with pytest.raises(SettingError, match=r"'psychic' is not one of oblivious, bpda, surrogate, exact\.$"):
        threat(defense, "psychic")  # type: ignore[arg-type]
