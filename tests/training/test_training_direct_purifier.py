"""Training of the purifier against attacks: drawn data, the embedded networks as they are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from training_runs import Drawn, settings

from udc_defense.checkpoints.files import checksum
from udc_defense.checkpoints.load import load_purifier
from udc_defense.checkpoints.resolve import resolve
from udc_defense.noise import seeded, split
from udc_defense.training import direct_purifier
from udc_defense.training.direct_purifier import EPS, train_direct_purifier


def captures() -> Tensor:
    return torch.stack([Drawn(1)[i][0][0] for i in range(16)]).clamp(0, 1)


def test_it_goes_on_from_the_default_purifier_and_loads_like_it(tmp_path: Path) -> None:
    steps = list(train_direct_purifier(Drawn(4), settings(tmp_path, steps=2), {"scenes": 2}))
    assert len(steps) == 2 and all(math.isfinite(step.loss) for step in steps)
    folder = tmp_path / "direct_purifier"
    facts = json.loads((folder / "training.json").read_text())
    assert facts["last_timestep"] == 40 and facts["attack_eps_in_255ths"] == 8 and facts["scenes"] == 2
    for kind, name in {"purifier": "diffusion", "restorer": "default"}.items():
        assert facts[kind] == checksum(resolve(name, kind))
    before, after = (load_purifier(source, noise_level=20).network for source in ("diffusion", folder))
    shift = max(float((a - b).abs().max()) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert 0 < shift < 0.1, "two steps of training move weights a little"
    stock = DiffusionPipeline.from_pretrained(folder, local_files_only=True).unet.state_dict()
    assert all(torch.equal(value.float(), stock[key].float()) for key, value in after.state_dict().items())


def test_captures_are_attacked_disturbed_or_left_alone() -> None:
    """Damage is the mean, so that every step climbs: attacked captures only rise."""
    image = captures()
    asked: list[list[int]] = []

    def attack(chosen: list[int]) -> direct_purifier.Callable[[Tensor], Tensor]:
        asked.append(chosen)
        return lambda x: x.flatten(1).mean(dim=1)

    perturbed = direct_purifier._perturbed(image, attack, split(seeded(3), len(image), 1)[0])
    delta = perturbed - image
    radius = delta.abs().flatten(1).amax(dim=1)
    assert perturbed.min() >= 0 and perturbed.max() <= 1 and not perturbed.requires_grad
    assert 0 < radius.max() <= EPS + 1e-6
    (chosen,) = asked
    others = [i for i in range(len(image)) if i not in chosen]
    untouched = [i for i in others if radius[i] == 0]
    assert len(chosen) and untouched and len(untouched) < len(others), "all three kinds are there"
    rise = delta.flatten(1).mean(dim=1) / radius
    assert rise[chosen].min() > 0.5
    assert max(abs(float(rise[i])) for i in others if i not in untouched) < 0.2, "random signs"
