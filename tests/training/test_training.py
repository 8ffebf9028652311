"""Training: drawn data, tiny networks, kills."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from processes import another_process, small_disk
from safetensors.torch import load_file
from torch import Tensor
from training_runs import TRAIN, WEIGHTS_OF, Drawn, same, settings, small, train, weights

from udc_defense.checkpoints.load import load_purifier, load_restorer
from udc_defense.errors import OutputError, SceneError, SettingError
from udc_defense.images import write_png
from udc_defense.noise import seeded
from udc_defense.output import LOCK
from udc_defense.scenes import read_pairs
from udc_defense.training.data import PairedCrops, SimulatedCaptures, join, list_scenes
from udc_defense.training.left_out import FILE, LeftOut
from udc_defense.training.loop import LOG, read_log
from udc_defense.training.restorer import train_restorer

HEADER = "split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive\n"
__all__ = ["small"]  # the fixture, of every test here
both = pytest.mark.parametrize("kind", TRAIN)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder with a panorama and a photo."""
    folder = tmp_path / "scenes"
    (folder / "hdr").mkdir(parents=True)
    light = np.random.default_rng(0).gamma(0.5, 1.0, (32, 64, 3)).astype(np.float32)
    assert cv2.imwrite(str(folder / "hdr" / "street.hdr"), light)
    rows = torch.linspace(0, 1, 300).view(1, 1, -1, 1).expand(1, 3, 300, 280)
    write_png((rows + 0.1 * torch.rand(1, 3, 300, 280, generator=seeded(0))).clamp(0, 1), folder / "photo.png")
    return folder


class TestRun:
    @both
    def test_scenes_to_a_checkpoint_that_loads(self, kind: str, scenes: Path, tmp_path: Path) -> None:
        """The whole way once: simulated captures in, losses, checkpoint, card's facts, a forward pass."""
        out = tmp_path / "run"
        data = SimulatedCaptures(list_scenes(scenes), ["toled"], length=4, size=32, crops=2, seed=0)
        steps = list(TRAIN[kind](data, settings(out, steps=4, batch=1), {"scenes": 2, "panels": ["toled"]}))
        assert [(s.step, s.steps) for s in steps] == [(i, 4) for i in range(1, 5)]
        assert all(math.isfinite(s.loss) for s in steps)
        assert all(a.seconds < b.seconds for a, b in zip(steps, steps[1:], strict=False))
        facts = json.loads((out / kind / "training.json").read_text())
        assert {"scenes": 2, "panels": ["toled"], "steps": 4, "seed": 3, "threads": 1}.items() <= facts.items()
        assert facts["device"] and facts["torch"] == torch.__version__ and "out" not in facts
        image = torch.rand(1, 3, 30, 21, generator=seeded(0))
        if kind == "restorer":
            assert load_restorer(out / kind)(image).shape == image.shape
        else:
            loaded = load_purifier(out / kind, noise_level=150)
            assert loaded.last_timestep == facts["last_timestep"] == 150
            assert loaded(image, generator=seeded(1)).isfinite().all()
        assert all(value.dtype == torch.float16 for value in weights(kind, out).values())

    def test_stock_diffusers_loads_a_trained_purifier(self, tmp_path: Path) -> None:
        """Without trust in any code of ours."""
        train("purifier", tmp_path, steps=1)
        pipeline = DiffusionPipeline.from_pretrained(tmp_path / "purifier", local_files_only=True)
        assert type(pipeline).__name__ == "DDPMPipeline"
        loaded = load_purifier(tmp_path / "purifier").network.state_dict()
        assert same({k: v.float() for k, v in pipeline.unet.state_dict().items()}, loaded)
        assert pipeline.scheduler.config["clip_sample"] is False

    @both
    def test_it_learns(self, kind: str, tmp_path: Path) -> None:
        """The loss on an item that comes again and again falls."""

        class Repeated(Drawn):
            def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
                return super().__getitem__(index % 2)

        run = settings(tmp_path, steps=40, batch=2, checkpoint_every=100, learning_rate=5e-3)
        losses = [step.loss for step in TRAIN[kind](Repeated(80), run, {})]
        assert sum(losses[-5:]) < sum(losses[:5]) - 0.1 * abs(sum(losses[:5]))

    @both
    def test_the_average_of_the_weights_is_saved_and_not_the_last(self, kind: str, tmp_path: Path) -> None:
        train(kind, tmp_path, learning_rate=0.01)
        last = load_file(next(tmp_path.glob("checkpoint-*6/model.safetensors")))
        saved = weights(kind, tmp_path)
        assert saved.keys() == last.keys()
        assert max((saved[key].float() - last[key]).abs().max().item() for key in saved) > 1e-3

    def test_same_seed_same_weights(self, tmp_path: Path) -> None:
        for name, seed in (("a", 3), ("b", 3), ("c", 4)):
            train("restorer", tmp_path / name, steps=2, seed=seed)
        a, b, c = (weights("restorer", tmp_path / name) for name in "abc")
        assert same(a, b) and not same(a, c)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[3])
import training_runs as t
torch.set_num_threads(1)
t.shrink(setattr)
for step in t.TRAIN[sys.argv[1]](t.Drawn(12), t.settings(Path(sys.argv[2])), {"scenes": 2}):
    if step.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
"""


class TestResume:
    def test_after_kill_9_the_weights_are_those_of_an_uninterrupted_run(self, tmp_path: Path) -> None:
        """The purifier, whose loss draws its own noise and timesteps."""
        train("purifier", tmp_path / "whole")
        command = [
            sys.executable,
            "-c",
            KILLED,
            "purifier",
            str(tmp_path / "cut"),
            str(Path(__file__).parent),
        ]
        helpers = str(Path(__file__).parents[1] / "helpers")
        path = os.pathsep.join([str(Path(__file__).parents[2]), helpers, os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
        assert not (tmp_path / "cut" / "purifier").exists()
        again = train("purifier", tmp_path / "cut", resume=True)
        assert [step.step for step in again] == [5, 6]
        assert same(weights("purifier", tmp_path / "cut"), weights("purifier", tmp_path / "whole"))

    def test_after_a_kill_while_a_checkpoint_is_written(self, tmp_path: Path) -> None:
        """What is half written has the wrong name, or lacks its last file: the one before it counts."""
        train("restorer", tmp_path / "whole")
        steps = train_restorer(Drawn(12), settings(tmp_path / "cut"), {"scenes": 2})
        for _ in range(3):
            next(steps)
        steps.close()  # type: ignore[attr-defined]
        for name in ("checkpoint.tmp", "checkpoint-0000004"):
            (tmp_path / "cut" / name).mkdir()
            (tmp_path / "cut" / name / "model.safetensors").write_bytes(b"half")
        assert [step.step for step in train("restorer", tmp_path / "cut", resume=True)] == [3, 4, 5, 6]
        assert same(weights("restorer", tmp_path / "cut"), weights("restorer", tmp_path / "whole"))

    def test_the_clock_goes_on(self, tmp_path: Path) -> None:
        steps = train_restorer(Drawn(12), settings(tmp_path), {})
        before = [next(steps) for _ in range(2)]
        steps.close()  # type: ignore[attr-defined]
        assert train("restorer", tmp_path, resume=True)[0].seconds > before[-1].seconds

    def test_a_finished_run_is_finished_again(self, tmp_path: Path) -> None:
        train("restorer", tmp_path)
        before = weights("restorer", tmp_path)
        (tmp_path / WEIGHTS_OF["restorer"]).unlink()
        assert train("restorer", tmp_path, resume=True) == []
        assert same(weights("restorer", tmp_path), before)

    def test_nothing_to_resume_starts_anew(self, tmp_path: Path) -> None:
        assert len(train("restorer", tmp_path / "new", steps=1, resume=True)) == 1

    def test_other_captures_per_step_are_not_resumed(self, tmp_path: Path) -> None:
        train("restorer", tmp_path, steps=2, checkpoint_every=1)
        taken = settings(tmp_path).batch
        with pytest.raises(SettingError, match=rf"takes {taken} captures a step, not {taken + 1}\.$"):
            train("restorer", tmp_path, steps=2, batch=taken + 1, resume=True)
        same_step = {"batch": 1, "accumulate": taken}
        assert len(train("restorer", tmp_path, steps=3, resume=True, **same_step)) == 1

    def test_an_existing_run_is_not_overwritten(self, tmp_path: Path) -> None:
        train("restorer", tmp_path, steps=1)
        before = (tmp_path / WEIGHTS_OF["restorer"]).read_bytes()
        with pytest.raises(SettingError, match=r"holds a run already; add --resume or choose another folder\.$"):
            train("restorer", tmp_path, steps=2)
        assert (tmp_path / WEIGHTS_OF["restorer"]).read_bytes() == before

    def test_old_checkpoints_are_removed(self, tmp_path: Path) -> None:
        train("restorer", tmp_path, checkpoint_every=1)
        assert {path.name for path in tmp_path.glob("checkpoint*")} == {"checkpoint-0000005", "checkpoint-0000006"}


@both
def test_a_loss_that_is_not_finite_stops_the_run(kind: str, tmp_path: Path) -> None:
    """And leaves the last good checkpoint, none of the bad weights."""
    steps = TRAIN[kind](Drawn(12, broken_at=7), settings(tmp_path), {})
    with pytest.raises(SettingError) as caught:
        list(steps)
    message = str(caught.value)
    assert "diverged at step 4" in message and message.endswith(".") and "\n" not in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-0000002", LOG]
    assert [entry.step for entry in read_log(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("name", ["steps", "batch", "accumulate", "checkpoint_every"])
def test_settings_out_of_range(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=rf"^{name} 0 is not at least 1\.$"):
        settings(tmp_path, **{name: 0})


def captures(scenes: Path, **changes: Any) -> SimulatedCaptures:
    options = {"length": 50, "size": 48, "crops": 2, "seed": 5} | changes
    return SimulatedCaptures(list_scenes(scenes), ["toled"], **options)


class TestSimulatedCaptures:
    def test_an_item_depends_on_seed_and_index_only(self, scenes: Path) -> None:
        one, other = captures(scenes), captures(scenes, length=9)
        torch.rand(7)  # no global state, no memory of what was asked before
        for index in (8, 3):
            for a, b in zip(one[index], other[index], strict=True):
                assert torch.equal(a, b)
        assert not torch.equal(one[3][0], one[8][0])
        assert not torch.equal(one[3][0], captures(scenes, seed=6)[3][0])

    def test_capture_and_clean_image_are_of_the_same_place(self, scenes: Path) -> None:
        """Every capture is closer to its own clean crop than to the item's other one."""
        for index in range(6):
            captured, clean = captures(scenes)[index]
            assert captured.shape == clean.shape == (2, 3, 48, 48)
            assert captured.min() >= 0 and clean.min() >= 0 and captured.max() < 1 and clean.max() < 1
            error = (captured[:, None] - clean[None]).square().mean(dim=(2, 3, 4))
            assert error.argmin(dim=1).tolist() == [0, 1]

    def test_panorama_and_photo_are_both_drawn(self, scenes: Path) -> None:
        data = captures(scenes)
        for name in ("street.hdr", "photo.png"):
            (path,) = (path for path in data.scenes if path.name == name)
            single = SimulatedCaptures([path], ["toled"], length=1, size=8, crops=1, seed=0)
            assert all(part.shape == (1, 3, 8, 8) and part.isfinite().all() for part in single[0])

    def test_items_become_one_batch(self, scenes: Path) -> None:
        data = captures(scenes)
        captured, clean = join([data[0], data[1]])
        assert captured.shape == clean.shape == (4, 3, 48, 48) and torch.equal(captured[2:], data[1][0])

    def test_an_unknown_panel(self, scenes: Path) -> None:
        with pytest.raises(SettingError, match="'oled9'"):
            SimulatedCaptures(list_scenes(scenes), ["oled9"], length=1, size=8, crops=1, seed=0)


class TestListScenes:
    @pytest.mark.parametrize("place", ["scenes", "."])
    @pytest.mark.parametrize("below", ["scenes", "scenes/hdr"])
    def test_evaluated_scenes_are_kept_out(self, place: str, below: str, scenes: Path, tmp_path: Path) -> None:
        """Wherever the list lies, and whichever folder of the scenes is asked for."""
        (scenes / "hdr" / "other.hdr").write_bytes((scenes / "hdr" / "street.hdr").read_bytes())
        crops = tmp_path / place / "crops.csv"
        rows = "val,hdr/street.hdr,perspective,0,0,80,,1\nheldout,photo.png,box,,,,,0\n"
        crops.write_text(HEADER + rows)
        assert [path.name for path in list_scenes(tmp_path / below, crops)] == ["other.hdr"]
        assert "street.hdr" in {path.name for path in list_scenes(tmp_path / below)}

    def test_another_scene_of_the_same_file_name_stays(self, scenes: Path) -> None:
        (scenes / "crops.csv").write_text(HEADER + "val,elsewhere/street.hdr,perspective,0,0,80,,1\n")
        assert {path.name for path in list_scenes(scenes, scenes / "crops.csv")} == {"street.hdr", "photo.png"}

    def test_a_link_to_an_evaluated_scene_is_kept_out(self, scenes: Path) -> None:
        (scenes / "innocent.hdr").symlink_to(scenes / "hdr" / "street.hdr")
        (scenes / "crops.csv").write_text(HEADER + "val,hdr/street.hdr,perspective,0,0,80,,1\n")
        assert [path.name for path in list_scenes(scenes, scenes / "crops.csv")] == ["photo.png"]

    def test_nothing_left(self, scenes: Path, tmp_path: Path) -> None:
        (scenes / "crops.csv").write_text(HEADER + "val,hdr/street.hdr,perspective,0,0,80,,1\n")
        with pytest.raises(SceneError, match=r"holds no panorama \(\.hdr, \.exr\) or photo to train on\.$"):
            list_scenes(scenes / "hdr", scenes / "crops.csv")
        with pytest.raises(SceneError):
            list_scenes(tmp_path / "nowhere")


class TestPairedCrops:
    def test_crops_of_both_files_are_of_the_same_place(self, tmp_path: Path) -> None:
        """Capture and clean image differ by a constant, so their crops do too."""
        image = torch.randint(0, 200, (1, 3, 30, 40), generator=seeded(0)) / 255
        for folder, offset in (("captures", 0), ("clean", 55)):
            (tmp_path / folder).mkdir()
            write_png(image + offset / 255, tmp_path / folder / "a.png")
        pairs = read_pairs(tmp_path / "captures", tmp_path / "clean")
        data = PairedCrops(pairs, length=5, size=16, crops=3, seed=0)
        captured, clean = data[1]
        assert captured.shape == (3, 3, 16, 16)
        assert torch.allclose(clean - captured, torch.tensor(55 / 255), atol=1e-6)
        assert not torch.equal(captured[0], captured[1]) and torch.equal(data[1][0], captured)

    def test_images_smaller_than_the_crops(self, tmp_path: Path) -> None:
        for folder in ("captures", "clean"):
            (tmp_path / folder).mkdir()
            write_png(torch.zeros(1, 3, 20, 40), tmp_path / folder / "a.png")
        data = PairedCrops(read_pairs(tmp_path / "captures", tmp_path / "clean"), length=1, size=32, crops=1, seed=0)
        with pytest.raises(SceneError, match=r"^a: 40x20 pixels, smaller than the 32x32 crops\.$"):
            data[0]


class TestOneFolder:
    @both
    def test_a_full_disk_is_one_sentence_and_the_run_goes_on_from_its_last_checkpoint(
        self, kind: str, tmp_path: Path
    ) -> None:
        train(kind, tmp_path / "whole")
        steps = TRAIN[kind](Drawn(12), settings(tmp_path / "cut"), {"scenes": 2})
        for _ in range(3):
            next(steps)
        with small_disk(4000), pytest.raises(OutputError) as caught:
            list(steps)
        told = rf"{tmp_path}/cut/checkpoint-0000004: cannot be written \([^()\n]*\); the checkpoints before .*"
        assert re.fullmatch(told, str(caught.value))
        assert [path.name for path in (tmp_path / "cut").glob("checkpoint*")] == ["checkpoint-0000002"]
        train(kind, tmp_path / "cut", resume=True)
        assert same(weights(kind, tmp_path / "cut"), weights(kind, tmp_path / "whole"))

    def test_a_full_disk_at_the_end_keeps_the_last_checkpoint(self, tmp_path: Path) -> None:
        steps = TRAIN["restorer"](Drawn(12), settings(tmp_path), {})
        for _ in range(6):
            next(steps)
        with (
            small_disk(4000),
            pytest.raises(OutputError, match=r"restorer: cannot be written .* go on with --resume\.$"),
        ):
            list(steps)
        train("restorer", tmp_path, resume=True)
        assert weights("restorer", tmp_path)

    def test_the_folder_of_another_process_is_refused(self, tmp_path: Path) -> None:
        with another_process(tmp_path) as process:
            with pytest.raises(OutputError, match=f"process {process.pid} writes there"):
                train("restorer", tmp_path)
            assert [path.name for path in tmp_path.iterdir()] == [LOCK]  # nothing of it is touched
        train("restorer", tmp_path)
        assert not (tmp_path / LOCK).exists()


class TestBadFiles:
    def broken(self, scenes: Path) -> Path:
        """One more photo, cut short after its header; and what macOS leaves beside a file."""
        bad, data = scenes / "broken.png", (scenes / "photo.png").read_bytes()
        bad.write_bytes(data[: len(data) // 2])
        (scenes / "._photo.png").write_bytes(b"\0\5\26\7")
        return bad

    def test_one_is_named_and_left_out_for_good_and_the_others_go_on(self, scenes: Path, tmp_path: Path) -> None:
        bad, file = self.broken(scenes), tmp_path / "run" / FILE
        listed = list_scenes(scenes)
        assert len(listed) == 3 and bad in listed
        shape = {"length": 99, "size": 32, "crops": 1, "seed": 0}
        first = SimulatedCaptures(listed, ["axon20"], **shape, left_out=LeftOut(file))
        items = [first[index][0] for index in range(6)]
        (line,) = file.read_text().splitlines()
        assert line.startswith(f"{bad}\t{bad}: damaged")
        again = SimulatedCaptures(listed, ["axon20"], **shape, left_out=LeftOut(file))
        for index in (5, 0, 3):  # in whatever order, and whoever finds out
            assert torch.equal(again[index][0], items[index])
        assert len(file.read_text().splitlines()) == 1

    def test_of_pairs_too_and_a_small_one_as_well(self, tmp_path: Path) -> None:
        for side in ("captured", "clean"):
            write_png(torch.rand(1, 3, 40, 40, generator=seeded(1)), tmp_path / side / "good.png")
            write_png(torch.rand(1, 3, 8, 8, generator=seeded(2)), tmp_path / side / "small.png")
            (tmp_path / side / "bad.png").write_bytes(b"no image")
        left_out = LeftOut()
        pairs = read_pairs(tmp_path / "captured", tmp_path / "clean")
        crops = PairedCrops(pairs, length=99, size=32, crops=1, seed=0, left_out=left_out)
        assert all(crops[index][0].shape == (1, 3, 32, 32) for index in range(8))
        assert sorted(Path(name).name for name in left_out.reasons) == ["bad.png", "small.png"]

    def test_where_none_is_left_the_last_reason_is_told(self, tmp_path: Path) -> None:
        for name in ("bad.png", "worse.png"):
            (tmp_path / name).write_bytes(b"no image")
        captures = SimulatedCaptures(list_scenes(tmp_path), ["axon20"], length=9, size=32, crops=1, seed=0)
        for _ in range(2):
            with pytest.raises(SceneError, match=r"none of 2 can be trained on, as .*(bad|worse)\.png: not an image"):
                captures[0]
