"""Rows that neither kills, nor processes, nor a full disk change; a masked gradient that is found out."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from processes import another_process, exit_status
from torch import Tensor, nn
from torch.nn import functional as F
from toy_models import anywhere

from udc_defense import cli
from udc_defense.errors import OutputError, SettingError, UDCDefenseError
from udc_defense.evaluation import api, evaluate
from udc_defense.evaluation import workers as processes
from udc_defense.evaluation.evaluate import RUN, SUMMARY, Team, finish, run
from udc_defense.evaluation.rows import key_of, read_parts, read_run
from udc_defense.evaluation.study import PRESETS, Attack, Part, Plan, Study, read_study
from udc_defense.images import quantize, read_image, write_png
from udc_defense.metrics import psnr
from udc_defense.photo.source import from_pair, from_title
from udc_defense.purification import Purification
from udc_defense.samples import STREETS
from udc_defense.scenes import read_pairs


class Sharpen(nn.Module):
    """Its gain on differences between neighbours is what attacks use."""

    strength = 2.0

    def forward(self, image: Tensor) -> Tensor:
        return image + self.strength * (image - F.avg_pool2d(image, 3, 1, 1, count_include_pad=False))


class Sharper(Sharpen):
    strength = 4.0


class Aliased(nn.Module):
    """Its gradient points anywhere between the 32 levels of 5 bits and, on every level, to where the mean grows.

    Only a shift that neighbours share survives the mean of their outputs.
    """

    def forward(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(image + 0.05 * torch.sin(62 * torch.pi * image), 5, 1, 2, count_include_pad=False)


SHARPEN, SHARPER, ALIASED = (f"{__name__}:{name}" for name in ("Sharpen", "Sharper", "Aliased"))
NOISE, MASK = Purification("gaussian_noise", strength=4), Purification("bit_depth", strength=5)
EXACT = Attack("PGD-2, exact", "pgd", {"threat": "exact", "steps": 2})
OBLIVIOUS = (Attack("FGSM", "fgsm"), Attack("PGD-2", "pgd", {"steps": 2, "resubmit": 2}))
KNOWING = (
    Attack("PGD-2, exact", "pgd", {"threat": "exact", "steps": 2, "resubmit": 2}),
    Attack("PGD-2, bpda", "pgd", {"threat": "bpda", "steps": 2}),
    Attack("PGD-2, surrogate", "pgd", {"threat": "surrogate", "steps": 2}),
)
MORE_DRAWS = tuple(Attack(f"EOT: {k}", "pgd", {"threat": "exact", "steps": 1, "draws": k}) for k in (1, 3))
STUDY = Study(
    size=24,
    images=3,
    parts=(
        Part(OBLIVIOUS),
        Part(KNOWING, ("tested",), "adaptive"),
        Part((EXACT,), ("plain",), "adaptive"),
        Part(MORE_DRAWS, ("tested",), 1),
        Part(OBLIVIOUS[:1], elsewhere=True),
    ),
    plain=("bit_depth:5", "jpeg:75"),
)
WITHOUT_DRAWS = replace(STUDY, parts=(*STUDY.parts[:3], STUDY.parts[4]), plain=())
PLAN = Plan(
    STUDY,
    photos=tuple(from_title(title) for title in list(STREETS)[:3]),
    restorers={"udc": (SHARPEN,), "noise": (SHARPEN,)},
    defenses=(NOISE,),
    brief=("noise",),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As workers have it: the same bits here and there."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def measure(out: Path, plan: Plan = PLAN, team: Team = Team(), workers: int = 0) -> list[dict[str, Any]]:  # noqa: B008
    for _ in run(plan, out, evaluate.facts(plan, 1), workers, team):
        pass
    return read_run(out)  # type: ignore[return-value]


def without_costs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row if key not in ("seconds", "peak_memory_mb")} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of an uninterrupted run."""
    return measure(tmp_path_factory.mktemp("whole"))


class TestRows:
    def test_there_is_one_for_every_image_setting_defense_and_draw(self, whole: list[dict[str, Any]]) -> None:
        keys = [key_of(row) for row in whole]
        assert len(set(keys)) == len(keys)
        assert set(keys) == {key for job in PLAN.jobs() for key in job.keys()}  # noqa: SIM118
        # No defense, the defense and two plain ones: 4 FGSM, 4 PGD with 2 more draws for all but the first; exact with
        # 2 more draws and BPDA; the exact attack on the mask, for JPEG has no gradient; on noisy images 2 FGSM.
        per_image = 4 + (4 + 3 * 2) + (3 + 1) + 1 + 2
        assert len(keys) == 3 * per_image + 2  # and two numbers of draws on one image

    def test_only_attacks_by_gradient_have_a_precision(self) -> None:
        more = replace(STUDY, parts=(*STUDY.parts, Part((Attack("SimBA", "simba", {"steps": 2}),))))
        jobs = replace(PLAN, study=more, precision="bfloat16").jobs()
        found = {(job.settings.attack, job.settings.precision) for job in jobs}
        assert found == {("fgsm", "bfloat16"), ("pgd", "bfloat16"), ("simba", "float32")}

    def test_the_first_draw_knows_everything_and_the_others_what_changes(self, whole: list[dict[str, Any]]) -> None:
        for row in whole:
            defended = row["defense"] != "none"
            if row["draw"] > 0:
                assert set(row["psnr"]) == {"defended_clean", "defended_attacked"} and "ssim" not in row
                continue
            assert (row["purifier"] is None) == (not defended)
            for metric in ("psnr", "ssim", "ms_ssim", "gmsd", "delta_e"):
                assert (row[metric]["defended_attacked"] is not None) == defended
                assert row[metric]["restored"] is not None
            assert row["psnr_to_clean_output"]["restored"] is None  # equal to itself
            assert row["psnr_to_clean_output"]["attacked_restored"] > 0
            if row["resubmission"]:
                draws = [r["psnr"] for r in whole if r["draw"] > 0 and key_of(r | {"draw": 0}) == key_of(row)]
                assert (
                    min(draw["defended_attacked"] for draw in draws)
                    == row["resubmission"]["defended_attacked"]["worst"]
                )

    @pytest.mark.parametrize("name", PRESETS)
    def test_every_preset_makes_each_row_once_and_shares_images_out(self, name: str) -> None:
        plan = replace(PLAN, study=read_study(name), restorers={"udc": (SHARPEN, SHARPER)}, brief=())
        keys = [key for job in plan.jobs() for key in job.keys()]  # noqa: SIM118
        shares = [key for part in range(2) for job in plan.jobs(plan.measured[part::2]) for key in job.keys()]  # noqa: SIM118
        assert len(set(keys)) == len(keys) and sorted(shares) == sorted(keys)

    def test_what_takes_long_meets_the_images_that_are_marked(self) -> None:
        photos = tuple(replace(photo, adaptive=index == 1) for index, photo in enumerate(PLAN.photos))
        more = Part((Attack("Square", "square", {"steps": 1}),), images="adaptive")
        jobs = replace(PLAN, study=replace(STUDY, parts=(*STUDY.parts, more)), photos=photos).jobs()
        met = {title: {job.photo for job in jobs if job.title == title} for title in ("FGSM", "Square", "PGD-2, exact")}
        assert met == {"FGSM": set(photos), "Square": {photos[1]}, "PGD-2, exact": {photos[1]}}

    def test_an_image_on_another_degradation_is_another_image(self, whole: list[dict[str, Any]]) -> None:
        scores = {row["degradation"]: row["psnr"]["captured"] for row in whole if row["draw"] == 0}
        assert scores.keys() == {"udc", "noise"} and scores["udc"] != scores["noise"]

    def test_a_transferred_attack_is_the_one_that_the_other_was_attacked_with(self, tmp_path: Path) -> None:
        plan = replace(PLAN, restorers={"udc": (SHARPEN, SHARPER)}, photos=PLAN.photos[:1], defenses=())
        plan = replace(plan, study=WITHOUT_DRAWS)
        rows = measure(tmp_path, plan)
        finish(plan, tmp_path)
        (foreign,) = (row for row in rows if row.get("made_on") == SHARPER)
        (own,) = (row for row in rows if row["restorer"] == SHARPER and "made_on" not in row and row["steps"] == 20)
        assert foreign["restorer"] == SHARPEN
        assert foreign["psnr"]["attacked_input"] == own["psnr"]["attacked_input"]
        assert foreign["psnr"]["attacked_restored"] != own["psnr"]["attacked_restored"]
        (found,) = json.loads((tmp_path / SUMMARY).read_text())["transfer"]
        assert found["rows"] == found["columns"] == [SHARPEN, SHARPER]
        assert found["psnr"][1] == [foreign["psnr"]["attacked_restored"], own["psnr"]["attacked_restored"]]

    def test_pairs_are_their_own_captures(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)
        for folder, array in zip(("captures", "clean"), pixels, strict=True):
            (tmp_path / folder).mkdir()
            Image.fromarray(array).save(tmp_path / folder / "a.png")
        (pair,) = read_pairs(tmp_path / "captures", tmp_path / "clean")
        plan = replace(PLAN, photos=(from_pair(pair),), restorers={"pairs": (SHARPEN,)}, defenses=(), brief=())
        rows = measure(tmp_path / "out", replace(plan, study=WITHOUT_DRAWS))
        images = [torch.from_numpy(array[8:32, 3:27] / 255).permute(2, 0, 1)[None] for array in pixels]
        assert {row["psnr"]["captured"] for row in rows} == {round(float(psnr(*images)), 4)}


def die_at_random(out: Path, seed: int) -> None:
    """In a process of its own: kill -9 at any moment of the run."""
    signal.setitimer(signal.ITIMER_REAL, 0.02 + 1.5 * float(np.random.default_rng(seed).random()))
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    measure(out)


class TestInterruptions:
    def test_killed_ten_times_and_resumed_it_is_the_same_file(
        self, whole: list[dict[str, Any]], tmp_path: Path
    ) -> None:
        statuses = [exit_status(lambda seed=seed: die_at_random(tmp_path, seed)) for seed in range(10)]
        assert -signal.SIGKILL in statuses
        assert without_costs(measure(tmp_path)) == without_costs(whole)

    def test_a_kill_within_a_write(
        self, whole: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed() -> None:
            written = processes.append

            def half(path: Path, rows: list[dict[str, Any]]) -> None:
                written(path, rows)
                if path.read_bytes().count(b"\n") == 5:
                    os.truncate(path, path.stat().st_size - 40)
                    os.kill(os.getpid(), signal.SIGKILL)

            processes.append = half  # type: ignore[assignment]
            measure(tmp_path)

        assert exit_status(killed) == -signal.SIGKILL
        assert not (tmp_path / SUMMARY).exists() and (tmp_path / RUN).is_file()
        assert without_costs(measure(tmp_path)) == without_costs(whole)

    def test_shares_of_two_processes_make_the_same_file(self, whole: list[dict[str, Any]], tmp_path: Path) -> None:
        for index in (1, 0):
            measure(tmp_path, team=Team(index, 2))
        assert without_costs(read_run(tmp_path)) == without_costs(whole)
        assert not (tmp_path / "parts").exists()

    def test_the_folder_of_another_process_is_refused(self, tmp_path: Path) -> None:
        with another_process(tmp_path) as process, pytest.raises(OutputError, match=f"process {process.pid} writes"):
            measure(tmp_path)
        assert not (tmp_path / RUN).exists()

    def test_a_full_disk_gets_one_sentence_and_loses_nothing(
        self, whole: list[dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def full() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
            try:
                measure(tmp_path)
            except UDCDefenseError as error:
                sys.stderr.write(f"{error}\n")

        assert exit_status(full) == 0
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"{tmp_path}/parts/0.jsonl: cannot be written (") and line.endswith("is kept.")
        kept = read_run(tmp_path) + read_parts(tmp_path / "parts" / "0.jsonl")
        assert 10 < len(kept) < len(whole)
        assert without_costs(measure(tmp_path)) == without_costs(whole)

    @pytest.mark.parametrize("change", [{"seed": 1}, {"panel": "toled"}, {"defenses": (MASK,)}, {"brief": ()}])
    def test_another_run_is_not_mixed_in(self, change: dict[str, Any], tmp_path: Path) -> None:
        one = replace(PLAN, photos=PLAN.photos[:1], restorers={"noise": (SHARPEN,)})
        measure(tmp_path, one)
        with pytest.raises(SettingError, match="holds a run with other"):
            measure(tmp_path, replace(one, **change))

    def test_a_folder_of_something_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / RUN).write_text("{")
        with pytest.raises(SettingError, match="cannot be read as JSON"):
            measure(tmp_path)

    @pytest.mark.slow
    @pytest.mark.timeout(3600)
    def test_the_command_killed_or_with_workers_or_with_processes(self, tmp_path: Path) -> None:
        """Ten times kill -9 and resume; two workers; two processes of accelerate: the rows of one left alone."""
        captures, clean = (tmp_path / name for name in ("captures", "clean"))
        for index in range(3):
            image = anywhere(1, 3, 24, 24, seed=index)
            write_png(image, captures / f"{index}.png")
            write_png(1 - image, clean / f"{index}.png")
        words = ["evaluate", "--restorer", SHARPEN, "--defense", "gaussian_noise:4", "--attacks", "pgd", "fgsm"]
        words += ["--pairs", str(captures), str(clean)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "helpers"), "OMP_NUM_THREADS": "1"}
        alone = [sys.executable, "-m"]
        team = [*alone, "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m"]

        def start(out: str, workers: int = 0, launcher: list[str] = alone) -> subprocess.Popen[bytes]:
            command = [*launcher, "udc_defense", *words, "--workers", str(workers), "--out", str(tmp_path / out)]
            return subprocess.Popen(command, env=environment)

        for out, workers, launcher in (("alone", 0, alone), ("workers", 2, alone), ("team", 0, team)):
            assert start(out, workers, launcher).wait() == 0
        expected, part = without_costs(read_run(tmp_path / "alone")), tmp_path / "killed" / "parts" / "0.jsonl"
        assert len(expected) > 100
        kills = 0
        for moment in np.random.default_rng(0).random(10):
            process = start("killed")
            while process.poll() is None and not part.is_file():
                time.sleep(0.01)
            time.sleep(moment)
            process.kill()
            kills += process.wait() == -signal.SIGKILL
        assert kills > 1
        assert start("killed").wait() == 0
        for out in ("workers", "team", "killed"):
            assert without_costs(read_run(tmp_path / out)) == expected


class TestFinish:
    def test_examples_are_the_best_and_the_worst_of_the_headline(self, tmp_path: Path) -> None:
        rows = measure(tmp_path)
        finish(PLAN, tmp_path)
        summary = json.loads((tmp_path / SUMMARY).read_text())
        headline = next(
            h for h in summary["headline"] if (h["degradation"], h["defense"]) == ("udc", "gaussian_noise:4")
        )
        shown = json.loads((tmp_path / "examples" / "examples.json").read_text())
        for example in shown:
            folder = tmp_path / "examples" / example["folder"]
            clean = read_image(folder / "clean.png")
            for stage, value in example["psnr"].items():
                assert float(psnr(read_image(folder / f"{stage}.png"), clean)) == pytest.approx(value, abs=0.1)
        scores = [e["psnr"]["defended_attacked"] for e in shown]
        named = {name: headline[name] for name in ("title", "restorer", "degradation", "defense")} | {"draw": 0}
        of_headline = [row for row in rows if named.items() <= row.items()]
        assert scores == [pick(row["psnr"]["defended_attacked"] for row in of_headline) for pick in (max, min)]
        assert {cost["defense"] for cost in summary["cost"]} == {"none", "gaussian_noise:4", "bit_depth:5", "jpeg:75"}


def test_a_masked_gradient_is_exposed(tmp_path: Path) -> None:
    """Few grey levels: high numbers for whoever ignores or differentiates it, low ones for whoever goes around."""
    attacked = {"steps": 10, "eps": 4.0}
    knowing = tuple(Attack(f"PGD-10, {t}", "pgd", attacked | {"threat": t}) for t in ("exact", "bpda"))
    study = Study(24, (Part((Attack("PGD-10", "pgd", attacked),)), Part(knowing, ("tested",))))
    # Captures and what the defended restorer makes of them: without an attack nothing is lost.
    for index in range(3):
        captured = quantize(0.2 + 0.6 * F.interpolate(anywhere(1, 3, 3, 3, seed=index).float(), 24, mode="bicubic"))
        write_png(captured, tmp_path / "captures" / f"{index}.png")
        write_png(Aliased()(MASK.load()(captured)), tmp_path / "clean" / f"{index}.png")
    photos = tuple(from_pair(pair) for pair in read_pairs(tmp_path / "captures", tmp_path / "clean"))
    plan = replace(PLAN, study=study, photos=photos, restorers={"pairs": (ALIASED,)}, defenses=(MASK,), brief=())
    rows = measure(tmp_path, plan)
    finish(plan, tmp_path)
    summary = json.loads((tmp_path / SUMMARY).read_text())
    psnr_of: dict[str, list[float]] = {row["threat"]: [] for row in rows}
    for row in rows:
        if row["defense"] != "none":
            psnr_of[row["threat"]].append(row["psnr"]["defended_attacked"])
    oblivious, exact, bpda = (np.mean(psnr_of[threat]) for threat in ("oblivious", "exact", "bpda"))
    assert min(oblivious, exact) > 40 and bpda < 38
    (headline,) = (h for h in summary["headline"] if h["defense"] == "bit_depth:5")
    assert headline["threat"] == "bpda" and headline["psnr"]["mean"] == pytest.approx(bpda, abs=1e-3)
    raised = {flag["check"]: flag["words"] for flag in summary["flags"] if flag["raised"] and flag["defense"] != "none"}
    assert {"masked gradient", "zero gradients"} <= raised.keys()
    assert raised["zero gradients"].startswith("30 of ")  # every gradient of the exact attacks
    assert not [flag for flag in summary["flags"] if flag["raised"] and flag["defense"] == "none"]


class TestCommand:
    @pytest.fixture
    def words(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        monkeypatch.setattr(api, "read_study", lambda _: STUDY)
        return ["evaluate", "--restorer", SHARPEN, "--workers", "0", "--out", str(tmp_path / "out")]

    def test_its_last_line_is_the_report(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        words += ["--defense", "bit_depth:5", "--attacks", "fgsm", "--degradation", "blur"]
        assert cli.main(words) == 0
        first, *_, last = capsys.readouterr().out.splitlines()
        assert "no benchmark" in first
        assert Path(last).name == "report.html" and Path(last).stat().st_size > 0
        about = json.loads((Path(last).parent / RUN).read_text())
        assert about["command"] == "udc-defense " + " ".join(words) and about["bundled"]
        assert {row["attack"] for row in read_run(Path(last).parent)} == {"fgsm"}
        assert about["degradations"] == ["blur"] and len(about["photos"]) == 3

    def test_without_the_extra_it_says_so_and_names_the_folder(
        self, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "jinja2", None)
        words += ["--defense", "none", "--attacks", "fgsm", "--threats", "oblivious", "--degradation", "noise"]
        assert cli.main(words) == 0
        printed = capsys.readouterr()
        assert printed.out.splitlines()[-1] == words[words.index("--out") + 1]
        assert 'pip install "udc-defense[report]"' in printed.err

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (["--preset", "paper"], "the preset paper needs images"),
            (["--scenes", "."], "go together"),
            (["--threats", "spy"], "'spy'"),
            (["--attacks", "gradient"], "'gradient'"),
            (["--defense", "jpeg:0"], "'jpeg:0'"),
            (["--restorer", "no_such:Net"], "no_such:Net"),
            (["--workers", "-1"], "-1 workers"),
            (["--pairs", ".", ".", "--degradation", "blur"], "--pairs stands alone"),
            (["--attacks", "fgsm", "--threats", "surrogate", "--defense", "bit_depth:5"], None),
        ],
    )
    def test_a_problem_is_one_sentence(
        self, more: list[str], said: str | None, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main([*words, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("udc-defense: ") and line.endswith(".") and (said or "nothing is left") in line
