"""One photo through everything, and rows that neither a kill nor a stop loses or repeats."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from tiny_networks import tiny_unet
from torch import Tensor

from udc_defense.checkpoints.files import write_checksums
from udc_defense.checkpoints.load import checkpoint_sums, load_purifier, load_restorer
from udc_defense.defense import Defense
from udc_defense.errors import SceneError, SettingError
from udc_defense.evaluation import jobs as module
from udc_defense.evaluation import workers as workers_module
from udc_defense.evaluation.jobs import Job, rows_of
from udc_defense.evaluation.rows import append, read_parts
from udc_defense.evaluation.workers import run_jobs
from udc_defense.imaging import expose
from udc_defense.noise import seeded
from udc_defense.photo import stages
from udc_defense.photo.result import KEYS, KEYS_WITHOUT_TRUTH, Result
from udc_defense.photo.settings import Settings
from udc_defense.photo.source import from_crop
from udc_defense.photo.stages import row_seed
from udc_defense.provenance import versions
from udc_defense.purification import Purification
from udc_defense.restorers.gated_unet import GatedUNet
from udc_defense.scenes import Crop, read_crops

SETTINGS = Settings(panel="toled", eps=4, steps=2, seed=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the runner's workers have it: the same bits here and there."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny networks as checkpoints: `restorer` and `purifier`."""
    folder = tmp_path_factory.mktemp("nets")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GatedUNet(widths=(4, 8), blocks=(1, 1)).save_pretrained(folder / "restorer")
    DDPMPipeline(tiny_unet(), DDPMScheduler(clip_sample=False)).save_pretrained(folder / "purifier")
    for name in ("restorer", "purifier"):
        write_checksums(folder / name)
    return folder


@pytest.fixture(scope="module")
def defense(nets: Path) -> Defense:
    return Defense(
        load_restorer(nets / "restorer"), load_purifier(nets / "purifier", sampler="ddim", noise_level=10, steps=3)
    )


def light(*shape: int, seed: int = 0) -> Tensor:
    """An exposed scene with lamps."""
    return expose(torch.rand(*shape, generator=seeded(seed)) ** 8 * 100 + 0.01)


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("seconds", "peak_memory_mb")}


class TestRowSeed:
    def test_it_depends_on_every_part(self) -> None:
        base: dict[str, Any] = {"seed": 0, "image": "a", "attack": "pgd", "eps": 4, "threat": "exact", "draw": 0}
        others = {"seed": 1, "image": "b", "attack": "none", "eps": 4.5, "threat": "oblivious", "draw": 1}
        seeds = {row_seed(**base)} | {row_seed(**base | {key: value}) for key, value in others.items()}
        assert len(seeds) == 1 + len(others)

    def test_it_fits_a_generator_and_never_changes(self) -> None:
        """The number itself is pinned: published rows name their seeds."""
        value = row_seed(0, "a.png", "pgd", 4, "oblivious", 0)
        assert value == row_seed(0, "a.png", "pgd", 4.0, "oblivious", 0) == 11466860530606442
        seeded(row_seed(2**40, "ä", "pgd", 255, "exact", 64) + 2)

    def test_parts_are_not_run_together(self) -> None:
        assert row_seed(0, "a', 'b", "c", 1, "x", 0) != row_seed(0, "a", "b', 'c", 1, "x", 0)


class TestCase:
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    @pytest.mark.parametrize("threat", ["oblivious", "exact"])
    def test_a_scene_gives_every_key(self, norm: Any, threat: Any, defense: Defense) -> None:
        settings = replace(SETTINGS, norm=norm, threat=threat)
        result = stages.finish(stages.run(defense, settings, "a", scene=light(1, 3, 32, 32)))
        report = json.loads(json.dumps(result.report()))
        assert report["image"] == "a" and report["nfe"] == 3
        for metric in ("psnr", "ssim"):
            assert list(report[metric]) == list(KEYS)
            assert all(isinstance(value, float) and math.isfinite(value) for value in report[metric].values())
        assert set(report["seconds"]) == {"simulate", "restore", "attack", "purify"}
        psnr = report["psnr"]
        share = (psnr["defended_attacked"] - psnr["attacked_restored"]) / (psnr["restored"] - psnr["attacked_restored"])
        assert report["recovered"] is None or report["recovered"] == pytest.approx(share, abs=1e-3)

    def test_recovered_is_the_share_of_what_was_lost(self) -> None:
        """By hand: from 30 dB to 20 dB, back to 25 dB."""
        flat = torch.full((1, 3, 16, 16), 0.5)
        images = {key: flat + 10 ** (-dB / 20) for key, dB in (("restored", 30), ("attacked_restored", 20))}
        result = Result("a", 0, images=images | {"defended_attacked": flat + 10 ** (-25 / 20)}, reference=flat)
        assert result.recovered == pytest.approx(0.5, abs=1e-3)
        result.images["attacked_restored"] = result.images["restored"]
        assert result.recovered is None

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    @pytest.mark.parametrize("eps", [1, 4, 60])
    def test_control_has_the_norm_of_the_attack_on_the_grid(self, norm: Any, eps: float, defense: Defense) -> None:
        settings = replace(SETTINGS, norm=norm, eps=eps)
        result = stages.finish(stages.run(defense, settings, "a", scene=light(1, 3, 32, 32)))
        captured, attacked, noisy = (result.images[key] for key in ("captured", "attacked_input", "noise_input"))
        for image in (captured, attacked, noisy):
            assert ((image * 255) - (image * 255).round()).abs().max() < 1e-3
            assert image.min() >= 0 and image.max() <= 1
        delta, control = attacked - captured, noisy - captured
        assert torch.allclose(delta.abs(), control.abs(), atol=1e-6)
        size = delta.abs().amax() if norm == "linf" else delta.square().mean().sqrt()
        assert 0 < size <= eps / 255 + 1e-6
        assert 0.3 < (delta.sign() == control.sign())[delta != 0].float().mean() < 0.8

    def test_a_capture_without_truth(self, defense: Defense) -> None:
        captured = torch.rand(1, 3, 32, 32, generator=seeded(0))
        result = stages.finish(stages.run(defense, SETTINGS, "a", captured=captured))
        report = result.report()
        for metric in ("psnr", "ssim"):
            assert [key for key, value in report[metric].items() if value is None] == list(KEYS[:3])
            assert all(math.isfinite(report[metric][key]) for key in KEYS_WITHOUT_TRUTH)
        assert report["recovered"] is None
        assert result.reference is not None and torch.equal(result.reference, result.images["restored"])

    def test_without_attack_and_without_purifier(self, defense: Defense) -> None:
        bare = Defense(defense.restorer)
        result = stages.finish(stages.run(bare, replace(SETTINGS, attack="none"), "a", scene=light(1, 3, 32, 32)))
        assert [key for key, value in result.scores("psnr").items() if value is not None] == ["captured", "restored"]
        assert result.recovered is None and result.nfe == 0

    def test_consumers_keep_their_gradients(self, defense: Defense) -> None:
        """A `no_grad` held across a yield would switch them off in whoever iterates."""
        seen = set()
        for step in stages.run(defense, SETTINGS, "a", scene=light(1, 3, 32, 32)):
            assert torch.is_grad_enabled()
            seen.add(step.stage)
        assert seen == {"simulate", "restore", "attack", "control", "purify"}
        assert not any(image.requires_grad for image in step.result.images.values())

    @pytest.mark.parametrize("stage", ["attack", "purify"])
    def test_closing_stops_the_work(self, stage: str, defense: Defense) -> None:
        """After the first step of a stage, no evaluation beyond that step's has been or will be made."""
        assert defense.purifier is not None
        network = defense.restorer if stage == "attack" else defense.purifier.get_submodule("network")
        calls: list[None] = []
        hook = network.register_forward_hook(lambda *_: calls.append(None))
        steps = stages.run(defense, replace(SETTINGS, steps=7), "a", scene=light(1, 3, 16, 16))
        step = next(step for step in steps if step.stage == stage)
        steps.close()  # type: ignore[attr-defined]
        assert list(steps) == [] and torch.is_grad_enabled()
        hook.remove()
        assert len(calls) == (2 if stage == "attack" else 1)  # before the attack, the capture was restored
        assert "defended_attacked" not in step.result.images

    def test_the_same_again_gives_the_same_bits(self, defense: Defense) -> None:
        scene = light(1, 3, 32, 32)
        first, again, other = (
            stages.finish(stages.run(defense, replace(SETTINGS, seed=seed), "a", scene=scene)) for seed in (1, 1, 2)
        )
        assert all(torch.equal(first.images[key], again.images[key]) for key in first.images)
        for key in ("captured", "noise_input", "purified_clean"):
            assert not torch.equal(first.images[key], other.images[key])

    def test_forks_share_the_attack_and_not_what_follows(self, defense: Defense) -> None:
        bare = Defense(defense.restorer)
        attacked = stages.finish(stages.run(bare, SETTINGS, "a", scene=light(1, 3, 32, 32)))
        before = set(attacked.images)
        defended = stages.finish(stages.defend(defense, stages.fork(attacked)))
        whole = stages.finish(stages.run(defense, SETTINGS, "a", scene=light(1, 3, 32, 32)))
        assert set(attacked.images) == before and "purify" not in attacked.seconds
        assert without_times(defended.report()) == without_times(whole.report())


BAD_SETTINGS: dict[str, dict[str, Any]] = {
    "'oled9'": {"panel": "oled9"},
    "'gradient'": {"attack": "gradient"},
    "'psnr'": {"objective": "psnr"},
    "'spy'": {"threat": "spy"},
    "eps -1": {"eps": -1},
    "eps nan": {"eps": math.nan},
    "0 attack steps": {"steps": 0},
    "100001 attack steps": {"steps": 100_001},
    "0 draws": {"draws": 0},
    "0 surrogate steps": {"surrogate_steps": 0},
    "precision 'int8' is not one of": {"precision": "int8"},
    "-1 resubmissions": {"resubmit": -1},
    "fgsm takes no steps": {"attack": "fgsm", "steps": 3},
    "cw takes no eps": {"attack": "cw", "eps": 4},
    "square takes no norm": {"attack": "square", "norm": "l2"},
    "no option 'restart'": {"options": {"restart": 2}},
}


@pytest.mark.parametrize("words", BAD_SETTINGS)
def test_settings_out_of_range(words: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings(**BAD_SETTINGS[words])
    message = str(caught.value)
    assert words in message and message.endswith(".") and "\n" not in message


@pytest.fixture
def jobs(nets: Path, tmp_path: Path) -> list[Job]:
    """Two views of a drawn panorama, two jobs each: an oblivious one that two purifiers face, an exact one."""
    pixels = np.random.default_rng(0).gamma(0.5, 1.0, (32, 64, 3)).astype(np.float32)
    assert cv2.imwrite(str(tmp_path / "street.hdr"), pixels)
    (tmp_path / "crops.csv").write_text(
        "split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive\n"
        "val,street.hdr,perspective,0,0,80,,1\nval,street.hdr,perspective,90,0,80,,0\n"
    )
    weights = str(nets / "purifier")
    purifications = (
        Purification("one_step", 5, weights=weights),
        Purification("ddim", 10, steps=2, draws=2, aggregate="median", weights=weights),
    )
    settings = replace(SETTINGS, steps=1)
    faced = ((settings, purifications), (replace(settings, threat="exact", resubmit=3), purifications[:1]))
    return [
        Job(from_crop(crop, tmp_path), *pair, size=32, restorer=str(nets / "restorer"))
        for crop in read_crops(tmp_path / "crops.csv")
        for pair in faced
    ]


def threads(workers: int, **_: object) -> ThreadPoolExecutor:
    """Instead of processes, which take seconds to start."""
    return ThreadPoolExecutor(workers)


class TestRows:
    def test_one_row_per_job_and_purification(self, jobs: list[Job]) -> None:
        rows = [row for job in jobs[:2] for row in rows_of(job) if row["draw"] == 0]
        assert [(row["threat"], row["purifier"]["sampler"], row["nfe"]) for row in rows] == [
            ("oblivious", "one_step", 1),
            ("oblivious", "ddim", 4),
            ("exact", "one_step", 1),
        ]
        assert rows[0]["psnr"]["attacked_restored"] == rows[1]["psnr"]["attacked_restored"]
        assert rows[0]["seed"] == rows[1]["seed"] != rows[2]["seed"]
        for row in rows:
            assert row["seed"] == row_seed(1, row["image"], "pgd", 4, row["threat"], 0)
            assert None not in row["psnr"].values() and row["size"] == 32 and row["split"] == "val"

    def test_stopped_and_resumed_gives_the_rows_of_an_uninterrupted_run(
        self, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """First in a worker process, then, to save the time that another takes to start, in a thread."""
        partial = tmp_path / "out" / "rows.jsonl"
        steps = run_jobs(jobs, partial, workers=1)
        assert [next(steps), next(steps)] == [(0, 4), (1, 4)]
        steps.close()  # type: ignore[attr-defined]
        saved = partial.read_bytes()
        assert len(saved.splitlines()) == 1
        partial.write_bytes(saved + b'[{"split": "val", "image": "street.hdr@90')  # and a kill in the next write
        monkeypatch.setattr(workers_module, "ProcessPoolExecutor", threads)
        assert list(run_jobs(jobs, partial, workers=1)) == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert partial.read_bytes().startswith(saved)
        assert list(run_jobs(jobs, partial, workers=1)) == [(4, 4)]
        expected = [row for job in jobs for row in rows_of(job)]
        assert [without_times(row) for row in read_parts(partial)] == [without_times(row) for row in expected]

    def test_known_rows_are_not_measured_again(self, jobs: list[Job], tmp_path: Path) -> None:
        """Rows of an older file, too, that do not name what had only one value then."""
        known = [row for job in jobs for row in rows_of(job)]
        for row in known:
            if row["threat"] == "oblivious":
                del row["options"], row["resubmit"], row["surrogate_steps"]
        assert list(run_jobs(jobs, tmp_path / "rows.jsonl", workers=1, known=known)) == [(4, 4)]

    def test_asking_again_gives_a_spread_and_the_worst(self, jobs: list[Job]) -> None:
        row, *draws = rows_of(jobs[1])
        assert len(draws) == 3
        for key in ("defended_clean", "defended_attacked"):
            found = row["resubmission"][key]
            assert found["n"] == 3 and found["worst"] < found["mean"] and found["std"] > 0
        assert rows_of(jobs[0])[0]["resubmission"] is None

    def test_a_universal_perturbation_is_one_for_all_and_fitted_on_its_own_captures(self, jobs: list[Job]) -> None:
        crops = tuple({job.photo.name: job.photo for job in jobs}.values())
        settings = Settings(panel="toled", attack="universal", eps=4, steps=2, seed=1)
        job = replace(jobs[0], settings=settings, purifications=jobs[0].purifications[:1], fitted_on=crops[:1])
        delta = module._fitted(job)
        assert delta.shape == (1, 3, 32, 32) and 0 < delta.abs().max() <= 4 / 255 + 1e-6
        rows = [row for crop in crops for row in rows_of(replace(job, photo=crop))]
        assert all(row["psnr"]["attacked_input"] is not None for row in rows)
        assert not torch.equal(delta, module._fitted(replace(job, fitted_on=crops[1:])))

    def test_what_fails_in_a_worker_fails_here(
        self, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workers_module, "ProcessPoolExecutor", threads)
        lost = replace(jobs[0], photo=from_crop(Crop("val", "gone.hdr", "perspective", 0, 0, 80, adaptive=False), "."))
        with pytest.raises(SceneError, match=r"gone\.hdr: cannot be read"):
            list(run_jobs([lost], tmp_path / "rows.jsonl", workers=1))


def drawn_rows(image: str, count: int = 3) -> list[dict[str, Any]]:
    return [{"split": "val", "image": image, "threat": "exact", "eps": i, "purifier": {}} for i in range(count)]


class TestPartialFile:
    def test_every_cut_keeps_whole_images_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Cut after any byte, as a kill or a full disk may: resumed, nothing is lost and nothing comes twice."""
        monkeypatch.setattr(os, "fsync", lambda _: None)
        path, images = tmp_path / "rows.jsonl", ["a.png", "b.png", "ü\u2028.png"]
        ends = [0]
        for image in images:
            append(path, drawn_rows(image))
            ends.append(path.stat().st_size)
        data = path.read_bytes()
        for cut in range(len(data) + 1):
            path.write_bytes(data[:cut])
            whole = sum(end <= cut for end in ends[1:])
            assert read_parts(path) == [row for image in images[:whole] for row in drawn_rows(image)]
            for image in images[whole:]:
                append(path, drawn_rows(image))
            assert path.read_bytes() == data

    def test_a_line_that_is_none_in_the_middle(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        append(path, drawn_rows("a.png"))
        with path.open("ab") as file:
            file.write(b"\0\0\xff\n")
        append(path, drawn_rows("b.png"))
        assert read_parts(path) == drawn_rows("a.png") + drawn_rows("b.png")

    def test_no_file_no_rows(self, tmp_path: Path) -> None:
        assert read_parts(tmp_path / "none.jsonl") == []


def test_versions_and_checksums(nets: Path) -> None:
    assert versions()["torch"] == torch.__version__ and "python" in versions()
    sums = checkpoint_sums(str(nets / "restorer"), str(nets / "purifier"))
    assert [len(value) for value in sums.values()] == [64, 64]
    assert len(checkpoint_sums(str(nets / "restorer"))) == 1


def test_a_crop_has_a_name_of_its_own() -> None:
    """Rows are told apart by it: two views of one panorama must differ."""
    view = Crop("val", "a.hdr", "perspective", 0, 0, 80, adaptive=False)
    assert len({view.name, replace(view, yaw=90).name, replace(view, pitch=1).name, replace(view, fov=70).name}) == 4
