"""Registered methods reach spawned workers: they pickle by name. Weights reach any writer of safetensors."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from restorer_contract import contracts, picture, randomised
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toy_models import Gain

from udc_defense.attacks import ATTACKS
from udc_defense.certification.centre import MSE, RMSE
from udc_defense.checkpoints.load import load_guide, load_purifier, load_restorer
from udc_defense.defense import Defense
from udc_defense.guides import GUIDES
from udc_defense.noise import seeded
from udc_defense.purifiers import SAMPLERS
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.registry import Registry
from udc_defense.restorers import RESTORERS
from udc_defense.threats import KINDS, threat
from udc_defense.training.recipes import RECIPES
from udc_defense.transforms import TRANSFORMS

REGISTRIES: list[Registry[Any]] = [ATTACKS, GUIDES, RECIPES, RESTORERS, SAMPLERS, TRANSFORMS]


@pytest.fixture(scope="module")
def spawned() -> Iterator[Pool]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


def attacked(attack: Callable[..., Any]) -> Tensor:
    image = picture(1, 3, 8, 8)
    options = {"eps": 4 / 255, "steps": 1, "generator": seeded(0)}
    known = {name: value for name, value in options.items() if name in attack.defaults}
    return attack(Gain(torch.tensor(2.0)), image, 0.5 * image, **known).image


def purified(purifier: nn.Module) -> Tensor:
    return purifier(picture(1, 3, 16, 16), generator=seeded(0)).detach()


def restored(network: nn.Module) -> Tensor:
    return network(picture(1, 3, 16, 16)).detach()


def small_purifier(**options: Any) -> DiffusionPurifier:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(block_out_channels=(4, 8), norm_num_groups=4, layers_per_block=1, add_attention=False, **blocks)
    options = {"noise_level": 4, "steps": 2} | options
    return DiffusionPurifier(randomised(unet, 0.5), DDPMScheduler(), **options).eval()


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_method_is_itself_after_a_pickle(registry: Registry[Any]) -> None:
    for name in registry.names():
        method = registry.get(name)
        assert pickle.loads(pickle.dumps(method)) is method


def test_every_attack_runs_in_a_spawned_process(spawned: Pool) -> None:
    methods = [ATTACKS.get(name) for name in ATTACKS.names()]
    for method, there in zip(methods, spawned.map(attacked, methods), strict=True):
        assert torch.allclose(there, attacked(method), atol=1e-6), method


def test_every_purifier_runs_in_a_spawned_process(spawned: Pool) -> None:
    guides = [load_guide() if name == "feature" else GUIDES.get(name)() for name in GUIDES.names()]
    purifiers = [
        *(small_purifier(sampler=SAMPLERS.get(name)) for name in SAMPLERS.names()),
        *(small_purifier(guide=guide, guidance=0.01) for guide in guides),
        *(TRANSFORMS.get(name)() for name in TRANSFORMS.names()),
    ]
    for purifier, there in zip(purifiers, spawned.map(purified, purifiers), strict=True):
        assert torch.allclose(there, purified(purifier), atol=1e-5), purifier


def test_every_restorer_runs_in_a_spawned_process(spawned: Pool) -> None:
    networks = [contract().network() for name, contract in contracts().items() if name != "TestSpandrel"]
    for network, there in zip(networks, spawned.map(restored, networks), strict=True):
        assert torch.allclose(there, restored(network), atol=1e-5), type(network)


def test_a_network_that_spandrel_knows() -> None:
    network = contracts()["TestSpandrel"]().network()
    assert torch.allclose(restored(pickle.loads(pickle.dumps(network))), restored(network), atol=1e-6)


def test_a_defense_is_saved_and_what_attackers_see_of_it(tmp_path: Path) -> None:
    defense = Defense(load_restorer(), load_purifier(noise_level=5))
    torch.save(defense, tmp_path / "defense.pt")
    again = torch.load(tmp_path / "defense.pt", weights_only=False)
    assert torch.allclose(purified(again), purified(defense), atol=1e-6)
    for kind in KINDS:
        seen = threat(defense, kind, seeded(3))
        twin = pickle.loads(pickle.dumps(seen))
        assert torch.allclose(restored(twin), restored(seen), atol=1e-6), kind


def test_distances_of_certificates_pickle() -> None:
    for distance in (MSE, RMSE):
        assert pickle.loads(pickle.dumps(distance)) == distance


@pytest.mark.parametrize("load", [load_restorer, load_purifier, load_guide])
def test_a_loaded_network_is_saved_by_the_plain_writer(load: Callable[[], nn.Module], tmp_path: Path) -> None:
    network = load()
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    parameters = dict(network.named_parameters())
    assert any(not value.is_contiguous() for value in parameters.values())  # the order that is fast stays
    written = load_file(tmp_path / "net.safetensors")
    assert all(torch.equal(written[name], value) for name, value in parameters.items())
