"""Folders of photos on the command line: what is taken, where results go, what may never be written over."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import another_process

from udc_defense import cli, images, read_image, write_png
from udc_defense.cli import progress
from udc_defense.noise import seeded

QUICK = ["--defense", "none", "--attack", "fgsm"]


def photo(path: Path, seed: int = 0) -> Path:
    write_png(torch.rand(1, 3, 24, 20, generator=seeded(seed)), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos of all sorts, and what lies beside photos."""
    folder = tmp_path / "photos"
    for number, name in enumerate(("b.png", "a.png", "deep/a.png", "deep/er/c.v2.png", ".hidden/d.png")):
        photo(folder / name, number)
    shutil.copy(folder / "a.png", folder / "e.PNG.jpg")  # by its content a PNG
    shutil.copy(folder / "a.png", folder / "a.jpg")
    (folder / "._a.png").write_bytes(b"\0\5\26\7")
    (folder / "notes.txt").write_text("no photo")
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_taken_as_its_photos(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(["restore", str(folder), "--out", str(out)]) == 0
    assert files(out) == {"a.png.png", "a.jpg.png", "e.PNG.png", "b.png", "numbers.csv"}
    rows = table(out / "numbers.csv")
    assert [(row["image"], row["written"]) for row in rows] == [
        ("a.jpg", "a.jpg.png"),
        ("a.png", "a.png.png"),
        ("b.png", "b.png"),
        ("e.PNG.jpg", "e.PNG.png"),
    ]
    assert {(row["width"], row["height"]) for row in rows} == {("20", "24")}


def test_its_folders_too_where_that_is_asked_and_never_its_own_results(folder: Path) -> None:
    out = folder / "restored"
    for _ in range(2):
        assert cli.main(["restore", str(folder), "--recursive", "--out", str(out)]) == 0
    assert files(out) == {
        "a.png.png",
        "a.jpg.png",
        "e.PNG.png",
        "b.png",
        "deep/a.png",
        "deep/er/c.v2.png",
        "numbers.csv",
    }


def test_numbers_of_a_run_are_a_table(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(["run", str(folder / "deep"), str(folder / "b.png"), *QUICK, "--out", str(out)]) == 0
    rows = table(out / "numbers.csv")
    assert [row["image"] for row in rows] == ["a.png", "b.png"]
    assert all(float(row["psnr.attacked_restored"]) > 0 for row in rows)
    assert {"ssim.restored", "seconds.attack"} <= rows[0].keys()


@pytest.mark.parametrize("flags", [["restore"], ["purify", "--defense", "jpeg"], ["simulate"], ["run", *QUICK]])
def test_what_cannot_be_read_is_listed_at_the_end_and_the_rest_is_done(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    photo(folder / "good.png")
    (folder / "bad.png").write_bytes(b"no image")
    whole = photo(folder / "cut.png", 1).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert cli.main([*flags, str(folder), "--out", str(out)]) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last == "udc-defense: 2 of 3 photos failed: bad.png, cut.png."
    assert any(name.startswith("good") for name in files(out))
    assert len(table(out / "numbers.csv")) == 1


def test_a_folder_without_a_photo_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    assert cli.main(["restore", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "holds no photo; --recursive" in capsys.readouterr().err


class TestNothingIsWrittenOver:
    def spelled(self, own: Path) -> dict[str, list[Any]]:
        """Ways to name a photo, and the folder that it lies in."""
        os.symlink(own, own.parent / "link")
        return {
            "plain": [own / "me.png", own],
            "dots": [own / ".." / own.name / "me.png", own],
            "link": [own / "me.png", own.parent / "link"],
            "link of the photo": [own.parent / "link" / "me.png", own],
            "folder": [own, own],
        }

    @pytest.mark.parametrize("spelling", ["plain", "dots", "link", "link of the photo", "folder"])
    def test_a_photo_by_its_result(self, spelling: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        own = photo(tmp_path / "own" / "me.png").parent
        before = (own / "me.png").read_bytes()
        named, out = self.spelled(own)[spelling]
        assert cli.main(["restore", str(named), "--out", str(out)]) == 2
        assert "is an input of this command; name another" in capsys.readouterr().err
        assert (own / "me.png").read_bytes() == before

    def test_the_others_are_still_done(self, tmp_path: Path) -> None:
        own, other = photo(tmp_path / "own" / "me.png"), photo(tmp_path / "you.png", 1)
        before = own.read_bytes()
        assert cli.main(["restore", str(own), str(other), "--out", str(own.parent)]) == 1
        assert own.read_bytes() == before and (own.parent / "you.png").is_file()

    def test_an_input_of_another_photo(self, tmp_path: Path) -> None:
        """The result of `x/me.png` would be `own/me.png`, which is named, too."""
        first, second = photo(tmp_path / "x" / "you.png", 1), photo(tmp_path / "own" / "you.png")
        before = second.read_bytes()
        cli.main(["restore", str(first), str(second), "--out", str(second.parent)])
        assert second.read_bytes() == before

    def test_a_stage_of_a_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        capture = photo(out / "captured" / "captured.png")
        before = capture.read_bytes()
        assert cli.main(["run", str(capture), "--captured", *QUICK, "--out", str(out)]) == 2
        assert "is an input" in capsys.readouterr().err and capture.read_bytes() == before

    def test_a_pair(self, tmp_path: Path) -> None:
        captures, clean = tmp_path / "me", tmp_path / "clean"
        photo(captures / "captured.png"), photo(clean / "captured.png", 1)
        photo(captures / "me.png"), photo(clean / "me.png", 1)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
        assert cli.main(["run", "--pairs", str(captures), str(clean), *QUICK, "--out", str(tmp_path)]) == 1
        assert all(path.read_bytes() == content for path, content in before.items())

    def test_a_target_image(self, tmp_path: Path) -> None:
        target, own = photo(tmp_path / "out" / "me.png"), photo(tmp_path / "me.png", 1)
        before = target.read_bytes()
        flags = ["attack", str(own), "--objective", f"targeted:{target}", "--defense", "none", "--steps", "1"]
        cli.main([*flags, "--out", str(target.parent)])
        assert target.read_bytes() == before

    def test_names_that_some_systems_take_for_one(self, tmp_path: Path) -> None:
        photo(tmp_path / "x" / "Me.png"), photo(tmp_path / "y" / "me.png", 1)
        out = tmp_path / "out"
        assert cli.main(["restore", str(tmp_path / "x"), str(tmp_path / "y"), "--out", str(out)]) == 0
        assert len({name.casefold() for name in files(out) - {"numbers.csv"}}) == 2

    def test_a_photo_that_is_called_as_the_report(self, tmp_path: Path) -> None:
        named, out = photo(tmp_path / "report.json.png"), tmp_path / "out"
        assert cli.main(["run", str(named), *QUICK, "--out", str(out)]) == 0
        assert (out / "report.json").is_file() and (out / "report.json-2" / "restored.png").is_file()

    def test_inputs_of_one_call_are_free_in_the_next(self, tmp_path: Path) -> None:
        own = photo(tmp_path / "own" / "me.png")
        cli.main(["restore", str(own), "--out", str(tmp_path / "out")])
        images.write_png(torch.zeros(1, 3, 2, 2), own)
        assert read_image(own).shape == (1, 3, 2, 2)


def test_one_run_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named, out = photo(tmp_path / "me.png"), tmp_path / "out"
    with another_process(out) as process:
        assert cli.main(["restore", str(named), "--out", str(out)]) == 2
    assert f"process {process.pid} writes there" in capsys.readouterr().err
    assert cli.main(["restore", str(named), "--out", str(out)]) == 0
    assert files(out) == {"me.png"}


class TestProgress:
    def test_lines_with_the_time_left_where_there_is_no_terminal(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress, "EVERY", 0.0)
        named = photo(tmp_path / "me.png")
        flags = ["--attack", "pgd", "--steps", "4", "--defense", "none", "--out", str(tmp_path / "out")]
        assert cli.main(["run", str(named), *flags]) == 0
        lines = capsys.readouterr().err.splitlines()
        assert "me.png: attacking: 1 of 4 steps" in lines
        assert any(line.startswith("me.png: attacking: 3 of 4 steps, about ") for line in lines)

    def test_several_photos_are_counted(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress, "EVERY", 0.0)
        assert cli.main(["restore", str(folder), "--out", str(tmp_path / "out")]) == 0
        assert "3 of 4 photos, about 0 s left" in capsys.readouterr().err.splitlines()

    def test_quick_commands_say_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["restore", str(photo(tmp_path / "me.png")), "--out", str(tmp_path / "out")]) == 0
        assert capsys.readouterr().err == ""

    def test_what_a_run_before_has_done_does_not_speed_up_the_rest(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter(range(0, 1000, 10))
        monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
        with progress.Meter("job", 100) as meter:
            meter.at(90)
            meter.at(91)
        assert capsys.readouterr().err.splitlines()[-1].startswith("91 of 100 jobs, about ")
        assert meter.found == 90

    def test_a_terminal_has_a_bar(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        with progress.Meter("step", 10, "me.png: attacking") as meter:
            meter.at(5)
        assert "me.png: attacking:  50%" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("seconds", "words"), [(0.2, "0 s"), (99, "99 s"), (700, "12 min"), (12_000, "3 h 20 min")]
    )
    def test_times_in_words(self, seconds: float, words: str) -> None:
        assert progress.in_words(seconds) == words


class TestUnits:
    def test_4_of_255_is_4(self, tmp_path: Path) -> None:
        named = photo(tmp_path / "me.png")
        for eps, out in (("4", "plain"), ("4/255", "fraction")):
            flags = ["--attack", "fgsm", "--defense", "none", "--eps", eps, "--out", str(tmp_path / out)]
            assert cli.main(["attack", str(named), *flags]) == 0
        assert (tmp_path / "plain" / "me.png").read_bytes() == (tmp_path / "fraction" / "me.png").read_bytes()

    def test_a_radius_that_is_meant_in_units_of_the_range_is_warned_of(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flags = ["--attack", "fgsm", "--defense", "none", "--eps", "0.0157", "--out", str(tmp_path / "out")]
        assert cli.main(["attack", str(photo(tmp_path / "me.png")), *flags]) == 0
        assert "--eps 0.0157 is 0.0157/255" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("flag", "value"), [("--eps", "4/256"), ("--eps", "4/0"), ("--sigma", "12"), ("--sigma", "1/0")]
    )
    def test_other_units_are_refused(self, flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main(["certify", "photo.png", flag, value, "--out", "out"])
        assert f"argument {flag}: " in capsys.readouterr().err
