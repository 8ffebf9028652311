"""What an attacker sees of a defence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from udc_defense import attacks
from udc_defense.defense import Defense
from udc_defense.errors import SettingError
from udc_defense.noise import Generators, seeded
from udc_defense.threats import threat


class Doubler(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return 2 * image


class NoisyHalver(nn.Module):
    """Undoes the restorer's gain and adds noise: the defence is the identity on average."""

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        assert not isinstance(generator, list)
        return image / 2 + torch.randn(image.shape, generator=generator) * 1e-3


@pytest.fixture
def defense() -> Defense:
    return Defense(Doubler(), NoisyHalver())


def test_the_oblivious_attacker_sees_the_restorer_alone(defense: Defense) -> None:
    image = torch.rand(1, 3, 4, 4, generator=seeded(0))
    assert torch.equal(threat(defense, "oblivious")(image), 2 * image)


def test_the_exact_attacker_sees_the_whole_gradient(defense: Defense) -> None:
    image = torch.rand(1, 3, 4, 4, generator=seeded(0)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(threat(defense, "exact", seeded(1))(image).sum(), image)
    torch.testing.assert_close(gradient, torch.ones_like(image))


def test_exact_draws_fresh_noise_at_every_call_from_its_generator(defense: Defense) -> None:
    image = torch.rand(1, 3, 4, 4, generator=seeded(0))
    first, second = threat(defense, "exact", seeded(1)), threat(defense, "exact", seeded(1))
    a, b = first(image), first(image)
    assert not torch.equal(a, b) and torch.equal(a, second(image)) and torch.equal(b, second(image))


def test_an_attack_runs_under_any_threat(defense: Defense) -> None:
    image = torch.rand(1, 3, 4, 4, generator=seeded(0))
    for kind in ("oblivious", "exact"):
        attacked = attacks.pgd(threat(defense, kind, seeded(1)), image, image, eps=0.1, steps=2, generator=seeded(2))
        assert attacked.losses[0, -1] > attacked.losses[0, 0]


def test_without_a_purifier_both_see_the_same() -> None:
    image = torch.rand(1, 3, 4, 4, generator=seeded(0))
    bare = Defense(Doubler())
    assert torch.equal(threat(bare, "oblivious")(image), threat(bare, "exact")(image))


def test_an_unknown_kind_is_refused(defense: Defense) -> None:
    with pytest.raises(SettingError, match=r"'psychic' is not one of oblivious, exact\.$"):
        threat(defense, "psychic")  # type: ignore[arg-type]
