"""Distillation: a target that can be learnt exactly, kills, the command line, and the measurement around it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers.configuration_utils import register_to_config
from processes import exit_status
from safetensors.torch import load_file
from torch import Tensor, nn

from study.measure import digits, ducd
from udc_defense.black_box import Target
from udc_defense.checkpoints.files import WEIGHTS
from udc_defense.checkpoints.load import load_restorer
from udc_defense.cli import main
from udc_defense.errors import SceneError, SettingError
from udc_defense.images import write_png
from udc_defense.noise import seeded
from udc_defense.restorers.base import Restorer
from udc_defense.restorers.gated_unet import GatedUNet
from udc_defense.training import distill
from udc_defense.training.data import SimulatedCaptures, list_scenes
from udc_defense.training.distill import NoisyCaptures, Questions, ask
from udc_defense.training.loop import TrainingSettings

CHECKED = 4
HEADER = "split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive\n"
TINY = {"widths": (4, 8), "blocks": (1, 1)}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Few checks, on one thread, as a forked process has it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distill, "CHECKED", CHECKED)
        yield
    torch.set_num_threads(threads)


def draw_scenes(folder: Path, photos: int = 2) -> Path:
    """A panorama and photos."""
    folder.mkdir(parents=True, exist_ok=True)
    light = np.random.default_rng(0).gamma(0.5, 1.0, (32, 64, 3)).astype(np.float32)
    assert cv2.imwrite(str(folder / "street.hdr"), light)
    for index in range(photos):
        coarse = torch.rand(1, 3, 9, 9, generator=seeded(index))
        write_png(nn.functional.interpolate(coarse, size=(256, 260), mode="bilinear"), folder / f"photo{index}.png")
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("scenes"))


MIX = torch.tensor([[0.5, 0.2, 0.1], [0.1, 0.6, 0.1], [0.0, 0.2, 0.7]])


def mixing(image: Tensor) -> Tensor:
    """A linear target: colours mixed, and half of each pixel's right neighbour taken."""
    mixed = torch.einsum("oc,bchw->bohw", MIX, image)
    return 0.7 * mixed + 0.25 * nn.functional.pad(mixed, (0, 1))[..., 1:]


class Conv(Restorer):
    """Can represent `mixing`."""

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, (1, 3), padding=(0, 1), bias=False)

    def network_forward(self, image: Tensor) -> Tensor:
        return self.conv(image)


class Counting:
    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, image: Tensor) -> Tensor:
        self.asked += len(image)
        return mixing(image)


TARGET = Target({"target": "mixing"}, mixing)


def questions(scenes: Path, **changes: Any) -> Questions:
    """With much noise: images whose neighbouring pixels are alike tell little of a kernel."""
    options = {"panels": ["axon20"], "count": 20, "size": 16, "sigma": 0.5} | changes
    return Questions(list_scenes(scenes), **options)


def settings(out: Path, **changes: Any) -> TrainingSettings:
    return TrainingSettings(out, **({"steps": 6, "batch": 2, "checkpoint_every": 2, "resume": True} | changes))


@pytest.fixture(scope="module")
def asked(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The answers to all questions, which cost more than learning them."""
    folder = tmp_path_factory.mktemp("asked")
    *_, count = ask(TARGET, questions(scenes), folder)
    assert count == 20
    return folder


@pytest.fixture
def out(asked: Path, tmp_path: Path) -> Path:
    """The folder of a run, which holds them."""
    return Path(shutil.copytree(asked, tmp_path / "out"))


def train(scenes: Path, out: Path) -> None:
    list(distill.distill(TARGET, questions(scenes), settings(out), Conv))


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "surrogate" / WEIGHTS)


class TestSurrogate:
    def test_a_linear_target_is_distilled_exactly(self, scenes: Path, out: Path) -> None:
        """Up to the rounding of float16 weights, at either size."""
        chosen = settings(out, steps=300, learning_rate=0.05, ema_decay=0.9, checkpoint_every=300)
        list(distill.distill(TARGET, questions(scenes), chosen, Conv))
        facts = json.loads((out / "surrogate/training.json").read_text())
        assert facts["fidelity"]["worst"] > 60 and facts["fidelity_256"]["worst"] > 60
        assert facts["distilled_from"] == {"target": "mixing"} and facts["queries"] == 20
        assert facts["scenes"] == 3 and facts["size"] == 16 and facts["sigma_in_255ths"] == 127.5
        kernel = weights(out)["conv.weight"].float()[:, :, 0]
        expected = torch.stack([torch.zeros(3, 3), 0.7 * MIX, 0.25 * MIX], dim=-1)
        assert torch.allclose(kernel, expected, atol=2e-3)

    def test_it_is_an_ordinary_restorer(self, scenes: Path, out: Path) -> None:
        list(distill.distill(TARGET, questions(scenes), settings(out, steps=1), partial(GatedUNet, **TINY)))
        image = torch.rand(1, 3, 30, 21, generator=seeded(0))
        assert load_restorer(out / "surrogate")(image).shape == image.shape

    def test_fidelity_of_a_constant_error(self, asked: Path) -> None:
        """The target's answers less 0.1: 20 dB."""

        class Shifted(Conv):
            def forward(self, image: Tensor) -> Tensor:
                return (mixing(image) - 0.1).clamp_min(0) + 0 * self.conv.weight.sum()

        found = distill.fidelity(Shifted(), asked / "checked")
        assert found["mean"] == pytest.approx(20, abs=0.5) and found["worst"] <= found["mean"]


class TestQuestions:
    def test_captures_get_noise_of_different_levels(self, scenes: Path) -> None:
        asked = questions(scenes, sigma=0.1, seed=3)
        plain = SimulatedCaptures(asked.scenes, asked.panels, length=5, size=16, crops=4, seed=3)
        noisy = NoisyCaptures(asked.scenes, asked, 16, 0.1, 3)
        delta = torch.cat([noisy[index] - plain[index][0] for index in range(5)])
        deviation = delta.flatten(1).std(dim=1)
        assert deviation.max() < 0.11 and deviation.min() < 0.03 and deviation.mean() == pytest.approx(0.05, abs=0.015)
        assert abs(float(delta.mean())) < 3e-3
        assert torch.equal(noisy[4], NoisyCaptures(asked.scenes, asked, 16, 0.1, 3)[4])
        assert torch.equal(NoisyCaptures(asked.scenes, asked, 16, 0, 3)[4], plain[4][0])

    def test_scenes_that_check_are_not_learnt(self, scenes: Path) -> None:
        learnt, checked, larger = distill._parts(questions(scenes))
        assert not set(learnt[2].captures.scenes) & set(checked[2].captures.scenes)
        assert checked[2].captures.scenes == larger[2].captures.scenes and larger[2].captures.size == 256
        assert [part[1] for part in (learnt, checked, larger)] == [20 - 2 * CHECKED, CHECKED, CHECKED]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"count": 8}, "8 queries: 8 check"),
            ({"size": 257}, "size 257"),
            ({"size": 4}, "size 4"),
            ({"sigma": 2}, "sigma 2"),
        ],
    )
    def test_out_of_range(self, changes: dict[str, Any], words: str, scenes: Path) -> None:
        with pytest.raises(SettingError, match=words):
            questions(scenes, **changes)

    def test_a_single_scene(self, scenes: Path) -> None:
        with pytest.raises(SceneError, match="^1 scene"):
            Questions(list_scenes(scenes)[:1], ["toled"], 20)


class TestResume:
    def test_after_kill_9_in_either_phase(self, scenes: Path, out: Path, tmp_path: Path) -> None:
        """Nothing is asked twice, and the weights are those of an uninterrupted run."""
        cut = tmp_path / "cut"

        def killed_while_asking() -> None:
            for asked in ask(TARGET, questions(scenes), cut):
                if asked == 8:
                    os.kill(os.getpid(), signal.SIGKILL)

        def killed_while_training() -> None:
            for progress in distill.distill(TARGET, questions(scenes), settings(cut), Conv):
                if progress.step == 5:
                    os.kill(os.getpid(), signal.SIGKILL)

        assert exit_status(killed_while_asking) == -signal.SIGKILL
        counting = Counting()
        list(ask(Target(TARGET.facts, counting), questions(scenes), cut))
        assert counting.asked == 12, "8 of 20 were known"
        assert exit_status(killed_while_training) == -signal.SIGKILL
        assert not (cut / "surrogate").exists()
        train(scenes, cut)
        train(scenes, out)
        assert all(torch.equal(value, weights(cut)[key]) for key, value in weights(out).items())

    def test_more_may_be_asked_later(self, scenes: Path, out: Path) -> None:
        counting = Counting()
        list(ask(Target(TARGET.facts, counting), questions(scenes, count=24), out))
        assert counting.asked == 4

    def test_other_questions_are_refused(self, scenes: Path, asked: Path) -> None:
        with pytest.raises(SettingError, match=r"was made with size 16, not 24; choose another folder\.$"):
            list(ask(TARGET, questions(scenes, size=24), asked))
        with pytest.raises(SettingError, match="was made with target 'mixing', not 'other'"):
            list(ask(Target({"target": "other"}, mixing), questions(scenes), asked))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Surrogates are small networks."""
    monkeypatch.setattr(distill, "distill", partial(distill.distill, network=partial(GatedUNet, **TINY)))


class TestCommandLine:
    def test_distill(self, tiny: None, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "run"
        command = ["distill", "--target", "test_distill:mixing", "--scenes", str(scenes), "--queries", "20"]
        command += ["--size", "16", "--steps", "1", "--out", str(out)]
        assert main(command) == 0
        facts = json.loads((out / "surrogate/training.json").read_text())
        said = capsys.readouterr().out
        assert f"20 queries; fidelity {facts['fidelity']['mean']:.2f} dB at 16²" in said
        assert main(command) == 2
        assert "holds a run already; add --resume" in capsys.readouterr().err
        assert main([*command, "--resume"]) == 0

    def test_a_target_that_does_not_exist(
        self, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = ["distill", "--target", "nowhere", "--scenes", str(scenes), "--out", str(tmp_path / "run")]
        assert main(command) == 2 and "nowhere: neither an embedded restorer" in capsys.readouterr().err

    def test_ducd(self, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Small networks and few scenes; what is measured a second time is read."""
        scenes = draw_scenes(tmp_path / "scenes", photos=9)
        crops = scenes / "crops.csv"
        crops.write_text(HEADER + "".join(f"val,photo{index}.png,box,,,,,0\n" for index in range(2)))
        target = tmp_path / "target"
        GatedUNet(**TINY).save_pretrained(target)
        for name, value in (("RESTORER", str(target)), ("SAMPLES", 2), ("STEPS", 3), ("QUERIES", 20), ("TRAINED", 1)):
            monkeypatch.setattr(ducd, name, value)
        monkeypatch.setattr(ducd, "PRECISION", "no")  # one process trains in one precision only
        measured: list[str] = []
        monkeypatch.setattr(digits, "measure", lambda: measured.append("digits") or {"mean_auc": {}})
        run = tmp_path / "run"
        assert list(ducd.distilled(scenes, crops, run, seed=0))[-1] == (21, 21)
        first = dict(ducd.measure(scenes, crops, run, seed=0))
        assert dict(ducd.measure(scenes, crops, run, seed=0)) == first and measured == ["digits"]
        assert first["distillation"]["queries"] == 20 and len(first["transfer"]["rows"]) == 2
        assert (first["membership"]["members"], first["membership"]["others"]) == (4, 2)
        assert set(first["membership"]) == {"members", "others", "capture", "target", "surrogate", "smoothed"}
        assert first["membership"]["capture"]["gain"]["auc"] == 0.5, "a capture gains nothing over itself"
        about = ducd.head(0, run) | {"transfer": first["transfer"]}
        assert str(tmp_path) not in json.dumps({key: about[key] for key in ("command", "protocol", "transfer")})


def test_asked_members_and_evaluated_scenes_are_apart(tmp_path: Path) -> None:
    scenes = draw_scenes(tmp_path, photos=5)
    (scenes / "crops.csv").write_text(HEADER + "val,photo0.png,box,,,,,0\n")
    asked, members = ducd.split_scenes(scenes, scenes / "crops.csv")
    assert not set(asked) & set(members)
    assert {path.name for path in (*asked, *members)} == {"street.hdr", *(f"photo{index}.png" for index in range(1, 5))}
