"""The command line as users call it: files in, files out, one sentence per problem."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from udc_defense import cli
from udc_defense.attacks import ATTACKS
from udc_defense.attacks.objectives import OBJECTIVE_WORDS
from udc_defense.images import read_image
from udc_defense.photo.result import KEYS, KEYS_WITHOUT_TRUTH
from udc_defense.purifiers import SAMPLERS
from udc_defense.threats import KINDS
from udc_defense.transforms import TRANSFORMS

QUICK = ["--steps", "2", "--defense", "one_step:noise_level=3"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    y, x = np.mgrid[0:48, 0:56]
    pixels = np.stack([4 * x, 5 * y, 2 * (x + y)], axis=-1).clip(0, 220).astype(np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def sentence(text: str) -> str:
    """Exactly one line on standard error, a whole sentence."""
    (line,) = text.strip().splitlines()
    assert line.startswith("udc-defense: ") and line.endswith(".")
    return line


def test_the_list_shows_every_attack_objective_and_threat(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["attack", "--list"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    for name in (*ATTACKS.names(), *OBJECTIVE_WORDS, *KINDS):
        assert f"  {name}" in printed
    assert "--option basis=pixel (pixel or dct):" in printed


@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_attack_runs_from_the_command_line(name: str, photo: Path, tmp_path: Path) -> None:
    takes = ATTACKS.get(name).defaults
    few = (["--steps", "2"] if "steps" in takes else []) + (["--objective", "l1"] if "objective" in takes else [])
    own = {"cw": ["--option", "searches=1", "--option", "psnr=20"], "simba": ["--option", "basis=dct"]}.get(name, [])
    options = ["--attack", name, *few, *own, "--defense", "none", "--out", str(tmp_path / "out")]
    assert cli.main(["attack", str(photo), *options]) == 0
    assert (tmp_path / "out" / "photo.png").is_file()


def test_the_list_of_purifiers_shows_every_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["purify", "--list"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}: " in printed for name in (*SAMPLERS.names(), *TRANSFORMS.names()))
    assert "quality=75: " in printed and "eta=0: " in printed


@pytest.mark.parametrize("name", [*SAMPLERS.names(), *TRANSFORMS.names()])
def test_every_purifier_runs_from_the_command_line(name: str, photo: Path, tmp_path: Path) -> None:
    spec = f"{name}:noise_level=3" if name in SAMPLERS.names() else name
    options = ["--defense", spec, "--steps", "2", "--out", str(tmp_path / "out")]
    assert cli.main(["run", str(photo), *options]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["images"][0]["psnr"]["defended_attacked"] is not None
    assert ("purifier diffusion" in report["checkpoints"]) == (name in SAMPLERS.names())


@pytest.mark.parametrize("kind", KINDS)
def test_every_threat_runs_from_the_command_line(kind: str, photo: Path, tmp_path: Path) -> None:
    options = [
        "--threat",
        kind,
        "--defense",
        "one_step",
        "--steps",
        "1",
        "--resubmit",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main(["run", str(photo), *options]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["threat"] == kind
    (image,) = report["images"]
    assert image["resubmission"]["defended_attacked"]["n"] == 2
    assert [flag.partition(":")[0] for flag in image["flags"]] == ["randomised"]


def test_run_writes_every_stage_and_the_report(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(["run", str(photo), *QUICK, "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert set(report) == {"settings", "versions", "checkpoints", "detector", "images"}
    assert all(len(value) == 64 for value in report["checkpoints"].values())
    (image,) = report["images"]
    assert set(image) == {
        "image",
        "seed",
        "psnr",
        "ssim",
        "recovered",
        "seconds",
        "nfe",
        "search",
        "resubmission",
        "detection",
        "flags",
    }
    assert list(image["psnr"]) == list(image["ssim"]) == list(KEYS)
    assert None not in image["psnr"].values() and image["nfe"] == 1
    captured, attacked = (read_image(out / "photo" / f"{stage}.png") for stage in ("captured", "attacked_input"))
    assert 0 < (attacked - captured).abs().max() * 255 <= 4 + 1e-4, "the file holds ε"
    assert {path.stem for path in (out / "photo").iterdir()} >= {"clean", "purified", *KEYS}


def test_the_same_seed_gives_the_same_files(photo: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        cli.main(["run", str(photo), *QUICK, "--seed", "5", "--out", str(tmp_path / name)])
    files = sorted(path.name for path in (tmp_path / "a" / "photo").iterdir())
    for name in files:
        assert (tmp_path / "a" / "photo" / name).read_bytes() == (tmp_path / "b" / "photo" / name).read_bytes()


def test_a_capture_has_no_ground_truth(photo: Path, tmp_path: Path) -> None:
    assert cli.main(["run", str(photo), "--captured", *QUICK, "--out", str(tmp_path / "out")]) == 0
    (image,) = json.loads((tmp_path / "out" / "report.json").read_text())["images"]
    known = {key for key, value in image["psnr"].items() if value is not None}
    assert known == set(KEYS_WITHOUT_TRUTH) and image["recovered"] is None


def test_pairs_bring_their_ground_truth(photo: Path, tmp_path: Path) -> None:
    for folder in ("captures", "clean"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.png").write_bytes(photo.read_bytes())
    pairs = ["--pairs", str(tmp_path / "captures"), str(tmp_path / "clean")]
    assert cli.main(["run", *pairs, *QUICK, "--out", str(tmp_path / "out")]) == 0
    (image,) = json.loads((tmp_path / "out" / "report.json").read_text())["images"]
    assert image["psnr"]["restored"] > 10 and image["psnr"]["captured"] is None, "equal images have no finite PSNR"


def test_a_bad_photo_does_not_stop_the_others(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    assert cli.main(["run", str(bad), str(photo), *QUICK, "--out", str(tmp_path / "out")]) == 1
    reported, listed = capsys.readouterr().err.splitlines()
    assert str(bad) in reported and listed == "udc-defense: 1 of 2 photos failed: bad.png."
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["images"]) == 1


def test_photos_of_one_name_keep_apart(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "photo.jpg"
    Image.open(photo).save(twin)
    assert cli.main(["restore", str(photo), str(twin), "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"photo.png.png", "photo.jpg.png", "numbers.csv"}


@pytest.mark.parametrize("stage", ["simulate", "attack", "purify", "restore"])
def test_single_stages(stage: str, photo: Path, tmp_path: Path) -> None:
    flags = {"attack": QUICK, "purify": QUICK[2:]}.get(stage, [])
    assert cli.main([stage, str(photo), *flags, "--out", str(tmp_path / "out"), "--bits", "16"]) == 0
    image = read_image(tmp_path / "out" / "photo.png")
    assert image.shape == (1, 3, 48, 56) and not torch.equal(image, read_image(photo))


@pytest.mark.parametrize(
    "flags",
    [
        ["--eps", "-1"],
        ["--eps", "nan"],
        ["--steps", "0"],
        ["--panel", "nokia"],
        ["--attack", "magic"],
        ["--objective", "beauty"],
        ["--objective", "feature:nowhere"],
        ["--objective", "masked:0,0,999,999"],
        ["--threat", "none"],
        ["--option", "restarts"],
        ["--option", "restarts=few"],
        ["--option", "bogus=1"],
        ["--attack", "fgsm", "--steps", "3"],
        ["--surrogate-steps", "0"],
        ["--resubmit", "-1"],
        ["--defense", "default:noise_level=400"],
        ["--defense", "soap"],
        ["--defense", "one_step:draws=0"],
        ["--defense", "jpeg:quality=0"],
        ["--defense", "ddpm:quality=3"],
        ["--defense", "ode:eta=1"],
        ["--defense", "none:draws=2"],
        ["--defense", "jpeg", "--threat", "exact"],
        ["--restorer", "nobody-has-this"],
        ["--defense", "ddim:weights=nobody-has-this"],
        ["--device", "abacus"],
        ["--pairs", "a", "b"],
    ],
)
def test_bad_flags_get_one_sentence(
    flags: list[str], photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(photo), *flags, "--out", str(tmp_path / "out")]) == 2
    sentence(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_gets_one_sentence(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["restore", str(photo), "--out", str(tmp_path / "file" / "out")]) == 2
    sentence(capsys.readouterr().err)


def test_interruption_keeps_what_is_finished(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from udc_defense.photo import stages

    whole, calls = stages.run, []

    def interrupted(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "run", interrupted)
    assert cli.main(["run", str(photo), str(photo), *QUICK, "--out", str(tmp_path / "out")]) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["images"]) == 1


def test_help_is_fast_and_complete() -> None:
    done = subprocess.run([sys.executable, "-m", "udc_defense", "--help"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    for command in ("run", "simulate", "attack", "purify", "restore", "train", "evaluate", "demo"):
        assert f"\n    {command}" in done.stdout


def test_a_reader_that_has_seen_enough_ends_a_list_quietly() -> None:
    code = "import sys; from udc_defense.cli import main; sys.stdout.reconfigure(line_buffering=True); sys.exit(main())"
    command = [sys.executable, "-c", code, "attack", "--list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == ""
    assert run.returncode == 1
