"""Training of the guide's encoder: drawn data, a tiny network."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training_runs import Drawn, same, settings

from udc_defense.checkpoints.files import WEIGHTS
from udc_defense.checkpoints.load import load_guide
from udc_defense.errors import SettingError
from udc_defense.guides.encoder import GuideEncoder
from udc_defense.noise import seeded, split
from udc_defense.training import guide
from udc_defense.training.guide import train_guide


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guide, "GuideEncoder", functools.partial(GuideEncoder, widths=(8, 16), blocks=(1, 1)))


def children(seed: int) -> list[torch.Generator]:
    return split(seeded(seed), 4, 1)[0]


def captures(seed: int = 0) -> Tensor:
    return torch.stack([Drawn(1)[seed + i][0][0] for i in range(4)]).clamp(0, 1)


def test_captures_to_a_guide_that_loads(tmp_path: Path) -> None:
    steps = list(train_guide(Drawn(12), settings(tmp_path), {"scenes": 2}))
    assert [step.step for step in steps] == list(range(1, 7)) and all(math.isfinite(step.loss) for step in steps)
    facts = json.loads((tmp_path / "guide" / "training.json").read_text())
    assert {"scenes": 2, "steps": 6, "attack_eps_in_255ths": 8}.items() <= facts.items()
    stored = load_file(tmp_path / "guide" / WEIGHTS)
    loaded = load_guide(tmp_path / "guide")
    assert all(value.dtype == torch.float16 for value in stored.values())
    assert same({key: value.float() for key, value in stored.items()}, loaded.encoder.state_dict())
    assert loaded.reference(captures()).isfinite().all()


def test_same_seed_same_weights(tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        list(train_guide(Drawn(4), settings(tmp_path / name, steps=2, seed=seed), {}))
        found.append(load_file(tmp_path / name / "guide" / WEIGHTS))
    assert same(found[0], found[1]) and not same(found[0], found[2])


def test_it_learns_latents_that_attacks_move_less(tmp_path: Path) -> None:
    """In shares of their variance, and on images that it has not seen; the loss falls, too."""

    def shift(network: GuideEncoder) -> float:
        attacked = guide._attacked(network, captures(900), children(1))
        return guide._shift(network(attacked), network(captures(900))).mean().item()

    with torch.random.fork_rng():
        torch.manual_seed(3)
        before = shift(guide.GuideEncoder())
    run = settings(tmp_path, steps=150, checkpoint_every=1000, learning_rate=5e-3)
    losses = [step.loss for step in train_guide(Drawn(300), run, {})]
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.1 * abs(sum(losses[:5]))
    encoder = load_guide(tmp_path / "guide").encoder
    assert isinstance(encoder, GuideEncoder)
    variance = guide._variance(encoder(captures(900)))
    assert shift(encoder) < before / 2
    assert variance.min() > 0.2 and variance.max() < 5


def test_attacks_stay_within_their_radius_and_move_the_latent_more_than_noise() -> None:
    network, image = GuideEncoder((8, 16), (1, 1)), captures()
    attacked = guide._attacked(network, image, children(1))
    assert not attacked.requires_grad and attacked.min() >= 0 and attacked.max() <= 1
    radius = (attacked - image).abs().amax(dim=(1, 2, 3), keepdim=True)
    assert radius.max() <= guide.EPS and not torch.allclose(radius, radius.mean())
    noise = radius * torch.randint(0, 2, image.shape, generator=seeded(2)).mul(2).sub(1)
    with torch.no_grad():
        moved, shaken = (guide._shift(network(x), network(image)) for x in (attacked, image + noise))
    assert (moved > 1.5 * shaken).all()


def test_a_latent_that_hardly_changes_is_no_cheat() -> None:
    image, other = captures(), captures(4)
    constant = 5 + image / 10
    assert torch.allclose(guide._shift(5 + other / 10, constant), guide._shift(other, image), rtol=0.01)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"diverged at step 4: .*\.$"):
        list(train_guide(Drawn(12, broken_at=7), settings(tmp_path), {}))
