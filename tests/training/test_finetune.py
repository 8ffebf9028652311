"""Fine-tuning: each recipe against its formula, one process against two, kills, the cache, the command line."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from tiny_networks import tiny_unet
from torch import Tensor, nn
from torch.nn import functional as F
from toy_models import Gain, inside
from training_runs import Drawn, same, small, train

from udc_defense import cli
from udc_defense.attacks.objectives import mse
from udc_defense.checkpoints.files import WEIGHTS, checksum
from udc_defense.checkpoints.load import load_restorer
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.images import write_png
from udc_defense.noise import Generators, seeded
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.restorers.gated_unet import GatedUNet
from udc_defense.training import loop
from udc_defense.training.curve import in_words, running_mean, sparkline
from udc_defense.training.data import Augmented
from udc_defense.training.finetune import RECIPE, find_backbone, finetune
from udc_defense.training.loop import LOG, Progress, TrainingSettings, read_log
from udc_defense.training.perceptual import BLOCKS, RELU3_3, RELU4_2, perceptual_distance, vgg19
from udc_defense.training.purified import Cache, PerSample, draw_levels
from udc_defense.training.purifier import new_scheduler
from udc_defense.training.recipes import RECIPES, Recipe, Tools, parse_recipe
from udc_defense.training.recipes.base import attacked
from udc_defense.vgg import FILE, Vgg

__all__ = ["small"]  # the fixture: one thread, as other processes have it
EPS = 8 / 255
FACTS = {"sampler": "one_step", "sha256": "tiny"}


class Half(nn.Module):
    """A purifier whose worst perturbation is known: x / 2."""

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        return image / 2


def tiny_purifier() -> DiffusionPurifier:
    return (
        DiffusionPurifier(tiny_unet(groups=4, add_attention=True), new_scheduler(), noise_level=50)
        .eval()
        .requires_grad_(False)
    )


def recipe(name: str, **options: Any) -> Recipe:
    return parse_recipe(name, {key: str(value) for key, value in options.items()})


def tuned(restorer: Path, out: Path, name: str = "purified_adversarial", **changes: Any) -> list[Progress]:
    """A run of 6 steps with 4 captures of 2 crops each, however they are split."""
    cache, options = changes.pop("cache", None), changes.pop("options", {})
    fast = {"attack_steps": 1} if hasattr(RECIPES.get(name), "attack_steps") else {}
    chosen = recipe(name, **fast | options)
    shape = {"steps": 6, "batch": 4, "checkpoint_every": 2, "seed": 3, "learning_rate": 1e-3} | changes
    run = TrainingSettings(out, **shape)
    given = {"purifier": tiny_purifier(), "purifier_facts": FACTS} if chosen.purifies else {}
    return list(finetune(str(restorer), chosen, Bounded(24), run, {"scenes": 2}, cache=cache, **given))


class Bounded(Drawn):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        captured, clean = super().__getitem__(index)
        return captured.clamp(0, 1), clean


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "restorer" / WEIGHTS)


@pytest.fixture
def restorer(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        GatedUNet(widths=(4, 8), blocks=(1, 1)).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def batch(count: int = 3) -> tuple[Tensor, Tensor, list[torch.Generator]]:
    """Captures and clean images far enough from 0 and 1 for every radius, and generators."""
    captured, clean = (0.3 + 0.4 * inside(count, 3, 8, 8, seed=seed).float() for seed in (0, 1))
    return captured, clean, generators(count)


def generators(count: int) -> list[torch.Generator]:
    return [seeded(100 + index) for index in range(count)]


class TestFormulas:
    def test_purified(self) -> None:
        captured, clean, drawn = batch(12)
        network = Gain(1 + torch.rand(3, 8, 8, generator=seeded(5)))
        is_purified = torch.cat([torch.rand(1, generator=g) for g in generators(12)]) < 0.4
        assert 0 < is_purified.sum() < 12
        loss = recipe("purified", purified=0.4).loss(network, captured, clean, drawn, Tools(Half()))
        shown = torch.where(is_purified.view(-1, 1, 1, 1), captured / 2, captured)
        assert torch.allclose(loss, F.mse_loss(shown * network.gain, clean))

    def test_noisy(self) -> None:
        captured, clean, drawn = batch(12)
        shown = []
        for image, g in zip(captured, generators(12), strict=True):
            kind, radius = torch.rand(1, generator=g), torch.rand(1, generator=g) * EPS
            noise = torch.randn(image.shape, generator=g)
            shown.append(image + radius * noise.sign() if kind < 0.5 else image)
        assert any(map(torch.equal, shown, captured)) and not all(map(torch.equal, shown, captured))
        loss = recipe("noisy").loss(nn.Identity(), captured, clean, drawn, Tools())
        assert torch.allclose(loss, F.mse_loss(torch.stack(shown), clean))

    def test_adversarial(self) -> None:
        """Of a gain a the farthest output is a · r away in every value, so TRADES has a closed form."""
        captured, clean, drawn = batch()
        gain = 2 * torch.rand(3, 8, 8, generator=seeded(5)) - 1
        radius = torch.cat([torch.rand(1, generator=g) for g in generators(3)]).view(-1, 1, 1, 1) * EPS
        loss = recipe("adversarial", attack_steps=12, balance=3).loss(Gain(gain), captured, clean, drawn, Tools())
        expected = F.mse_loss(gain * captured, clean) + 3 * (gain * radius).square().mean()
        assert torch.allclose(loss, expected, rtol=1e-4)

    def test_purified_adversarial(self) -> None:
        """Through x/2 and a gain a the worst error is |a x / 2 - y| + |a| r / 2 in every value."""
        captured, clean, drawn = batch()
        gain = 2 * torch.rand(3, 8, 8, generator=seeded(5)) - 1
        chosen = recipe("purified_adversarial", attacked=1, purified=0, attack_steps=12)
        loss = chosen.loss(Gain(gain), captured, clean, drawn, Tools(Half()))
        radius = []
        for g in generators(3):
            torch.rand(1, generator=g)  # the kind
            torch.randint(3, (), generator=g)  # the level
            radius.append(torch.rand(1, generator=g) * EPS)
        worst = (gain * captured / 2 - clean).abs() + gain.abs() / 2 * torch.stack(radius).view(-1, 1, 1, 1)
        assert torch.allclose(loss, worst.square().mean(), rtol=1e-4)

    def test_purified_adversarial_mixes_three_kinds(self) -> None:
        """With a radius of 0 attacked captures are purified ones."""
        captured, clean, drawn = batch(24)
        kind = torch.cat([torch.rand(1, generator=g) for g in generators(24)])
        assert min((kind < 0.5).sum(), ((kind >= 0.5) & (kind < 0.75)).sum(), (kind >= 0.75).sum()) > 0
        loss = recipe("purified_adversarial", eps_in_255ths=0).loss(
            nn.Identity(), captured, clean, drawn, Tools(Half())
        )
        shown = torch.where((kind < 0.75).view(-1, 1, 1, 1), captured / 2, captured)
        assert torch.allclose(loss, F.mse_loss(shown, clean))

    @pytest.mark.parametrize("name", RECIPES.names())
    def test_a_sample_does_not_depend_on_its_neighbours(self, name: str, restorer: Path) -> None:
        """Alone or together, and its gradient reaches the weights."""
        network = load_restorer(restorer).requires_grad_(True)
        captured, clean, drawn = batch(5)
        tools = Tools(tiny_purifier() if RECIPES.get(name).purifies else None)
        together = recipe(name).loss(network, captured, clean, drawn, tools)
        alone = [
            recipe(name).loss(network, captured[i : i + 1], clean[i : i + 1], [seeded(100 + i)], tools)
            for i in range(5)
        ]
        assert torch.allclose(together, torch.stack(alone).mean(), rtol=1e-4)
        together.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        in_decades = recipe(name, log=1).loss(network, captured, clean, generators(5), tools)
        assert torch.allclose(in_decades, torch.log10(torch.stack(alone) + 1e-6).mean(), rtol=1e-4)


class TestInnerAttack:
    def test_it_stays_in_the_ball_and_raises_the_loss(self, restorer: Path) -> None:
        network, (captured, clean, drawn) = load_restorer(restorer), batch()
        eps, levels = torch.tensor([2.0, 4.0, 8.0]) / 255, [20, 30, 40]
        purifier = tiny_purifier()

        def seen(part: slice) -> nn.Module:
            return nn.Sequential(PerSample(purifier, levels[part], drawn[part]), network)

        found = attacked(seen, captured, clean, eps, 5, drawn)
        assert ((found - captured).abs().amax(dim=(1, 2, 3)) <= eps + 1e-6).all()
        assert found.min() >= 0 and found.max() <= 1

        def damage(image: Tensor) -> Tensor:
            with torch.no_grad():
                return sum(mse(network(PerSample(purifier, levels, generators(3))(image)), clean) for _ in range(4))

        noise = torch.randn(captured.shape, generator=seeded(9)).sign() * eps.view(-1, 1, 1, 1)
        assert (damage(found) > damage(captured)).all() and (damage(found) > damage(captured + noise)).all()


class TestPerSample:
    def test_each_sample_has_its_own_level_and_noise(self) -> None:
        captured, _, drawn = batch(4)
        levels = [30, 10, 30, 20]
        together = PerSample(tiny_purifier(), levels, drawn)(captured)
        for index, level in enumerate(levels):
            alone = tiny_purifier()
            alone.noise_level = level
            expected = alone(captured[index : index + 1], generator=[seeded(100 + index)])
            assert torch.allclose(together[index : index + 1], expected, atol=1e-6)

    def test_levels_are_all_drawn_and_none_else(self) -> None:
        assert set(draw_levels(10, 45, generators(60))) == {10, 20, 30, 40}
        assert set(draw_levels(7, 7, generators(3))) == {7}


class TestCache:
    def test_a_copy_is_made_once_and_read_back(self, tmp_path: Path) -> None:
        captured, _, _ = batch()
        cache = Cache(tmp_path, FACTS)
        made = cache.purified(tiny_purifier(), captured, [10, 20, 10])
        files = list(cache.folder.glob("*.safetensors"))
        assert len(files) == 3
        assert torch.equal(Cache(tmp_path, FACTS).purified(Half(), captured, [10, 20, 10]), made)
        assert torch.equal(cache.purified(tiny_purifier(), captured[1:2], [20]), made[1:2])
        assert not torch.equal(cache.purified(tiny_purifier(), captured[1:2], [30]), made[1:2])

    def test_another_purifier_has_copies_of_its_own(self, tmp_path: Path) -> None:
        captured, _, _ = batch()
        made = [
            Cache(tmp_path, facts).purified(purifier, captured, [10, 10, 10])
            for facts, purifier in ((FACTS, tiny_purifier()), ({"sampler": "half"}, Half()))
        ]
        assert torch.equal(made[1], (captured / 2).half().float()) and not torch.equal(*made)

    def test_no_more_copies_than_allowed(self, tmp_path: Path) -> None:
        captured, _, _ = batch()
        for _ in range(2):
            cache = Cache(tmp_path, FACTS, most=2)
            assert len(cache.purified(Half(), captured, [10, 20, 30])) == 3
        assert len(list(cache.folder.glob("*.safetensors"))) == 2

    def test_half_a_file_is_made_again(self, tmp_path: Path) -> None:
        captured, _, _ = batch()
        cache = Cache(tmp_path, FACTS)
        made = cache.purified(tiny_purifier(), captured[:1], [10])
        (file,) = cache.folder.glob("*.safetensors")
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        assert torch.equal(cache.purified(tiny_purifier(), captured[:1], [10]), made)
        assert file.read_bytes() == whole

    def test_a_run_is_the_same_with_a_full_cache(self, restorer: Path, tmp_path: Path) -> None:
        for name in ("cold", "warm"):
            tuned(restorer, tmp_path / name, "purified", steps=2, cache=tmp_path / "cache")
        assert same(weights(tmp_path / "cold"), weights(tmp_path / "warm"))
        assert list((tmp_path / "cache").glob("*/*.safetensors"))


def state() -> dict[str, Tensor]:
    """Random weights in torchvision's numbering, that keep the magnitude from layer to layer."""
    widths = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
    widths |= {16: (256, 256), 19: (256, 512), 21: (512, 512)}
    found = {}
    for number, (before, after) in widths.items():
        values = torch.randn(after, before, 3, 3, generator=seeded(number))
        found[f"features.{number}.weight"] = values * (2 / (9 * before)) ** 0.5
        found[f"features.{number}.bias"] = 0.1 * torch.randn(after, generator=seeded(number + 50))
    return found


class TestPerceptual:
    def test_the_distance_is_that_of_plain_torch(self) -> None:
        network, values = Vgg(BLOCKS, (RELU3_3, RELU4_2)), state()
        network.load_state_dict(values)

        def features(image: Tensor) -> list[Tensor]:
            mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
            x, found = (image - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1), []
            for number in (0, 2, 5, 7, 10, 12, 14, 16, 19, 21):
                x = F.max_pool2d(x, 2) if number in (5, 10, 19) else x
                x = F.relu(F.conv2d(x, values[f"features.{number}.weight"], values[f"features.{number}.bias"], 1, 1))
                found += [x] if number in (14, 21) else []
            return found

        output, reference = inside(2, 3, 17, 24).float().requires_grad_(True), inside(2, 3, 17, 24, seed=1).float()
        distance = perceptual_distance(network, output, reference)
        pairs = zip(features(output.detach()), features(reference), strict=True)
        expected = torch.stack([(a - b).square().mean(dim=(1, 2, 3)) for a, b in pairs]).sum(0)
        assert torch.allclose(distance, expected, rtol=1e-4)
        distance.sum().backward()
        assert output.grad is not None and output.grad.abs().max() > 0
        plain, weighted = (
            recipe("noisy", noisy=0, perceptual=weight).loss(
                nn.Identity(), output.detach(), reference, generators(2), Tools(perceptual=network)
            )
            for weight in (0, 0.5)
        )
        assert torch.allclose(weighted, plain + 0.5 * expected.mean(), rtol=1e-4)

    def test_the_weights_come_from_the_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("udc_defense.vgg.resolve", lambda source, kind: tmp_path)
        with pytest.raises(CheckpointError, match=rf"has no {FILE}\.$"):
            vgg19()
        save_file(state() | {"head.fc.weight": torch.zeros(2)}, tmp_path / FILE)
        assert same(dict(vgg19().state_dict()), state())
        save_file({key: value for key, value in state().items() if "21" not in key}, tmp_path / FILE)
        with pytest.raises(CheckpointError, match="its weights are not those of VGG19"):
            vgg19()

    def test_without_the_hub_a_run_goes_on_without_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(source: str, kind: str) -> Path:
            raise CheckpointError("the Hub cannot be reached.")

        monkeypatch.setattr("udc_defense.vgg.resolve", away)
        assert find_backbone(recipe("noisy"), tmp_path) == (None, "the Hub cannot be reached.")
        assert find_backbone(recipe("noisy", perceptual=0), tmp_path) == (None, "its weight is 0.")
        save_file(state(), tmp_path / FILE)
        monkeypatch.setattr("udc_defense.vgg.resolve", lambda source, kind: tmp_path)
        assert find_backbone(recipe("noisy"), tmp_path)[0] is not None
        (tmp_path / RECIPE).write_text('{"backbone": null}')
        assert find_backbone(recipe("noisy"), tmp_path) == (None, "the run began without it.")


def forked(work: Callable[[], object], environment: dict[str, str] | None = None) -> int:
    """Run in a process of its own, which needs no imports; its id."""
    if (child := os.fork()) != 0:
        return child
    try:
        os.environ.update(environment or {})
        AcceleratorState._reset_state(reset_partial_state=True)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ended(child: int) -> int:
    """Its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_in(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill -9 within a step of the run, when its gradients are there and its weights are not."""
    original, steps = loop._mean, itertools.count(1)

    def mean(accelerator: Any, losses: list[Tensor]) -> float:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(accelerator, losses)

    monkeypatch.setattr(loop, "_mean", mean)


class TestProcesses:
    def test_two_processes_have_the_loss_curve_of_one(self, restorer: Path, tmp_path: Path) -> None:
        """Of half the batch each, with the environment of `accelerate launch`; and so has one of two batches a step."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        children = [
            forked(lambda: tuned(restorer, tmp_path / "two", batch=2), shared | {"RANK": rank, "LOCAL_RANK": rank})
            for rank in "01"
        ]
        assert [ended(child) for child in children] == [0, 0]
        assert json.loads((tmp_path / "two" / "restorer" / "training.json").read_text())["processes"] == 2
        expected = [entry.loss for entry in tuned(restorer, tmp_path / "one")]
        assert len(set(expected)) == 6
        accumulated = tuned(restorer, tmp_path / "accumulated", batch=2, accumulate=2)
        for found in (read_log(tmp_path / "two"), accumulated):
            assert [entry.loss for entry in found] == pytest.approx(expected, rel=1e-4)
        before, after = load_restorer(restorer).state_dict(), weights(tmp_path / "one")
        moved = max(float((after[key].float() - before[key]).abs().max()) for key in after)
        for name in ("two", "accumulated"):
            other = weights(tmp_path / name)
            assert max(float((after[key].float() - other[key].float()).abs().max()) for key in after) < moved / 10

    def test_after_kill_9_in_any_step_the_weights_are_those_of_an_uninterrupted_run(
        self, restorer: Path, tmp_path: Path
    ) -> None:
        step = random.randint(1, 6)
        with pytest.MonkeyPatch.context() as patch:
            killed_in(step, patch)
            assert ended(forked(lambda: tuned(restorer, tmp_path / "cut"))) == -signal.SIGKILL
        again = tuned(restorer, tmp_path / "cut", resume=True)
        tuned(restorer, tmp_path / "whole")
        assert again[-1].step == 6, f"killed in step {step}"
        assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole")), f"killed in step {step}"
        logs = [[(entry.step, entry.loss) for entry in read_log(tmp_path / name)] for name in ("cut", "whole")]
        assert logs[0] == logs[1] and [number for number, _ in logs[0]] == list(range(1, 7))


class TestRun:
    @pytest.mark.parametrize("name", RECIPES.names())
    def test_every_recipe_moves_the_weights_and_says_what_it_was(
        self, name: str, restorer: Path, tmp_path: Path
    ) -> None:
        steps = tuned(restorer, tmp_path / "out", name, steps=2)
        assert [step.step for step in steps] == [1, 2]
        loaded = load_restorer(tmp_path / "out" / "restorer")
        assert not same(dict(loaded.state_dict()), dict(load_restorer(restorer).state_dict()))
        facts = json.loads((tmp_path / "out" / "restorer" / "training.json").read_text())
        settled = json.loads((tmp_path / "out" / RECIPE).read_text())
        assert facts["finetuning"] == settled and facts["finetuned_from"] == str(restorer) and facts["scenes"] == 2
        assert settled["recipe"] == name and settled["restorer"] == checksum(restorer)
        assert settled["purifier"] == (FACTS if RECIPES.get(name).purifies else None) and settled["backbone"] is None

    def test_another_recipe_does_not_go_on(self, restorer: Path, tmp_path: Path) -> None:
        tuned(restorer, tmp_path / "out", "noisy", steps=2)
        with pytest.raises(SettingError, match=r"was made with noisy 0\.5, not 0\.25; choose another folder\.$"):
            tuned(restorer, tmp_path / "out", "noisy", steps=4, resume=True, options={"noisy": 0.25})
        with pytest.raises(SettingError, match=r"was made with .*; choose another folder\.$"):
            tuned(restorer, tmp_path / "out", "purified", steps=4, resume=True)
        assert len(tuned(restorer, tmp_path / "out", "noisy", steps=4, resume=True)) == 2

    def test_a_recipe_and_its_purifier_belong_together(self, restorer: Path, tmp_path: Path) -> None:
        run = TrainingSettings(tmp_path, steps=1)
        with pytest.raises(SettingError, match=r"^recipe purified needs a purifier\.$"):
            finetune(str(restorer), recipe("purified"), Bounded(2), run, {})
        with pytest.raises(SettingError, match=r"^recipe noisy takes no purifier\.$"):
            finetune(str(restorer), recipe("noisy"), Bounded(2), run, {}, purifier=Half())

    def test_half_a_line_of_the_log_is_forgotten(self, restorer: Path, tmp_path: Path) -> None:
        tuned(restorer, tmp_path / "out", "noisy", steps=3)
        with (tmp_path / "out" / LOG).open("a") as file:
            file.write('{"step": 4, "st')
        tuned(restorer, tmp_path / "out", "noisy", steps=5, resume=True)
        assert [entry.step for entry in read_log(tmp_path / "out")] == [1, 2, 3, 4, 5]


class TestAugmented:
    def test_capture_and_clean_image_are_changed_alike(self) -> None:
        """Both are flipped or not, and multiplied by the same gain of each channel."""
        data = Augmented(Bounded(40), jitter=0.1, seed=0)
        flips = 0
        for index in range(20):
            (captured, clean), (bare, truth) = data[index], Bounded(40)[index]
            assert torch.equal(data[index][0], captured)
            for crop in range(2):
                middle = truth[crop].mean(dim=(1, 2))
                gain = (clean[crop].mean(dim=(1, 2)) / middle).view(3, 1, 1)  # clean images stay below 0.9
                flipped = torch.allclose(clean[crop], (truth[crop].flip(-1) * gain).clamp(0, 1), atol=1e-2)
                flips += flipped
                changed = bare[crop].flip(-1) if flipped else bare[crop]
                assert torch.allclose(captured[crop], (changed * gain).clamp(0, 1), atol=2e-2)
                assert (gain - 1).abs().max() <= 0.11 and (gain - gain.mean()).abs().max() > 1e-4
        assert 8 < flips < 32

    def test_so_many_captures_again_and_again(self) -> None:
        data = Augmented(Bounded(40), jitter=0.1, seed=0, different=3)
        assert torch.equal(data[1][0], data[7][0]) and not torch.equal(data[1][0], data[2][0])
        with pytest.raises(SettingError, match=r"^0 captures"):
            Augmented(Bounded(40), jitter=0.1, seed=0, different=0)


class TestSettings:
    def test_text_becomes_a_recipe(self) -> None:
        found = recipe("purified", noise_levels="20,60", purified=0.75)
        assert (found.noise_levels, found.purified) == ((20, 60), 0.75)  # type: ignore[attr-defined]
        assert isinstance(recipe("adversarial", attack_steps=3).attack_steps, int)  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("name", "options", "words"),
        [
            ("nothing", {}, "recipe 'nothing' is not one of adversarial, "),
            ("noisy", {"eps": 3}, "recipe noisy has no option 'eps'; it has perceptual, "),
            ("noisy", {"noisy": "much"}, "option noisy='much' is not of the type float."),
            ("purified", {"noise_levels": "5"}, "option noise_levels='5' is not two whole numbers"),
            ("purified", {"noise_levels": "50,10"}, "noise_levels 50,10 is not in 1…1000, in rising order."),
            ("purified", {"purified": 1.5}, "purified 1.5 is not in 0…1"),
            ("noisy", {"eps_in_255ths": "nan"}, "eps_in_255ths nan is not in 0…64"),
            ("adversarial", {"attack_steps": 0}, "attack_steps 0 is not in 1…100"),
            ("purified_adversarial", {"attacked": 0.8}, "attacked 0.8 and purified 0.25 are more than all captures."),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, name: str, options: dict[str, Any], words: str) -> None:
        with pytest.raises(SettingError) as caught:
            recipe(name, **options)
        assert words in str(caught.value)


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    @pytest.fixture
    def pairs(self, tmp_path: Path) -> list[str]:
        for name, seed in (("captures", 0), ("clean", 1)):
            (tmp_path / name).mkdir()
            write_png(inside(1, 3, 20, 24, seed=seed).float(), tmp_path / name / "a.png")
        return ["--pairs", str(tmp_path / "captures"), str(tmp_path / "clean")]

    def test_from_pairs_to_the_hub(
        self,
        restorer: Path,
        pairs: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def push(folder: Path, repo: str) -> str:
            assert load_restorer(folder)
            return f"{repo} got {folder.name}"

        monkeypatch.setattr("udc_defense.checkpoints.hub.push", push)
        monkeypatch.setattr("udc_defense.training.finetune.vgg19", lambda: _raise(CheckpointError("no backbone.")))
        out = tmp_path / "run"
        command = ["finetune", str(restorer), *pairs, "--recipe", "purified", "--out", str(out), "--steps", "2"]
        command += ["--size", "16", "--batch", "1", "--defense", "gaussian_blur", "--option", "purified=1"]
        command += ["--captures", "1", "--cache", str(tmp_path / "cache"), "--push-to-hub", "me/net"]
        assert cli.main(command) == 0
        said = capsys.readouterr().out
        assert "Without the perceptual part of the loss: no backbone." in said
        assert f"{out / 'restorer'}: trained, 2 steps.\nme/net@me/net got restorer\n" in said
        facts = json.loads((out / "restorer" / "training.json").read_text())
        assert facts["pairs"] == facts["captures"] == 1 and facts["crop"] == 16
        assert facts["without_perceptual_because"] == "no backbone."
        assert facts["finetuning"]["purifier"]["sampler"] == "gaussian_blur" and facts["finetuning"]["purified"] == 1
        assert cli.main(["curve", str(out)]) == 0
        assert str(out / "curve.svg") in capsys.readouterr().out
        assert "<svg" in (out / "curve.svg").read_text()

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (["--push-to-hub", "net"], "--push-to-hub 'net' is not of the form OWNER/NAME."),
            (["--option", "noisy"], "--option 'noisy' is not of the form NAME=VALUE."),
            (["--recipe", "noisy", "--defense", "jpeg"], "recipe noisy purifies nothing; leave out --defense"),
            (["--size", "0"], "crops of 0 pixels"),
            (["--accumulate", "0"], "accumulate 0 is not at least 1."),
            (["--option", "noise_levels=10,500"], "noise level 500 is not in 0…150"),
        ],
    )
    def test_mistakes_get_one_sentence(
        self, flags: list[str], words: str, restorer: Path, pairs: list[str], tmp_path: Path, capsys: Any
    ) -> None:
        assert cli.main(["finetune", str(restorer), *pairs, "--out", str(tmp_path / "run"), *flags]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1

    def test_nothing_to_train_on(self, restorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["finetune", str(restorer), "--out", str(tmp_path / "run")]) == 2
        assert "--scenes samples" in capsys.readouterr().err

    def test_samples_to_train_on(self, tmp_path: Path) -> None:
        """One command, no data; the photos of scikit-image are there where it is installed."""
        command = ["train", "restorer", "--scenes", "samples", "--steps", "1", "--batch", "1", "--out", str(tmp_path)]
        assert cli.main(command) == 0
        assert load_restorer(tmp_path / "restorer")
        assert (tmp_path / "samples" / "night_street.png").is_file()
        facts = json.loads((tmp_path / "restorer" / "training.json").read_text())
        assert facts["scenes"] == len(list((tmp_path / "samples").iterdir()))

    def test_the_list_has_every_recipe_and_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main(["finetune", "--list"])
        said = capsys.readouterr().out
        assert all(f"\n  {name}: " in said for name in RECIPES.names())
        assert "--option noise_levels=10,50: " in said

    def test_tensorboard_that_is_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("accelerate.utils.is_tensorboard_available", lambda: False)
        with pytest.raises(SettingError, match=r'pip install "udc-defense\[tensorboard\]"\.$'):
            train("restorer", tmp_path, tensorboard=True)

    def test_tensorboard(self, tmp_path: Path) -> None:
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        log = train("restorer", tmp_path, tensorboard=True)
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
        assert [(event.step, event.value) for event in events] == [(e.step, pytest.approx(e.loss)) for e in log]


class TestCurve:
    def test_a_line_of_text(self) -> None:
        assert sparkline(range(8)) == "▁▂▃▄▅▆▇█"
        assert sparkline([0, 2, 7, 7, 1, 1], width=3) == "▁█▁"
        assert sparkline([3.0, 3.0]) == "▁▁"

    def test_in_words(self) -> None:
        assert in_words([5.0]) == "loss 5 in the first 1 of 1 steps, 5 in the last 1"
        assert in_words([1, 3, *range(2, 38), 10, 20]) == "loss 2 in the first 2 of 40 steps, 15 in the last 2"

    def test_running_mean(self) -> None:
        assert running_mean([4, 2, 6, 1], 2) == [4, 3, 4, 3.5]

    def test_without_matplotlib(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / LOG).write_text('{"step": 1, "steps": 1, "loss": 0.5, "seconds": 1}\n')
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        assert cli.main(["curve", str(tmp_path)]) == 2
        said = capsys.readouterr()
        assert (
            said.out.startswith("▁  loss 0.5 in the first 1 of 1 steps")
            and 'pip install "udc-defense[report]"' in said.err
        )

    def test_a_folder_without_a_log(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["curve", str(tmp_path)]) == 2
        assert f"{tmp_path}: holds no {LOG} of a training run" in capsys.readouterr().err


def _raise(error: Exception) -> Any:
    raise error
