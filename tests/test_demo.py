"""The demo without a browser: samples, pictures, numbers, words, limits, and its API on a loopback port."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
pytest.importorskip("gradio", reason="the extra `demo` is not installed")

from udc_defense.demo import build, engine, launch, samples, view
from udc_defense.demo.engine import Choices
from udc_defense.errors import SettingError
from udc_defense.evaluation.case import Result, Step
from udc_defense.images import read_image, write_png


def shifted(db: float) -> Tensor:
    """An image at this PSNR from mid grey."""
    return torch.full((1, 3, 16, 16), 0.5 + 10 ** (-db / 20))


def result(has_truth: bool = True, **psnr: float) -> Result:
    """A result whose stages have these PSNR values."""
    grey = torch.full((1, 3, 16, 16), 0.5)
    images = {key: shifted(value) for key, value in psnr.items()}
    return Result("photo", 1, has_truth=has_truth, images=images, reference=grey, seconds={"attack": 1.23})


ATTACKED = {"captured": 20.0, "restored": 28.0, "attacked_input": 19.9, "attacked_restored": 22.0}


# --- Words ------------------------------------------------------------------------------------------------------------


def test_verdict_says_what_was_taken_and_given_back() -> None:
    words = view.verdict(result(**ATTACKED, noise_restored=27.5, defended_clean=27.0, defended_attacked=25.0))
    assert "Restoring won **8.0 dB** (20.0 → 28.0 dB)" in words
    assert "The attack took **6.0 dB**, where random noise of the same size takes **0.5 dB**" in words
    assert "The defence gave back **3.0 dB**, 50 % of what was lost" in words
    assert "without an attack the defence costs **1.0 dB**" in words


def test_verdict_on_an_attacker_who_knows_the_defence_claims_no_recovery() -> None:
    adaptive = result(**ATTACKED, defended_clean=27.0, defended_attacked=20.0)
    adaptive.threat = "exact"
    words = view.verdict(adaptive)
    assert "who knows the defence took **8.0 dB** in spite of it" in words and "without the defence: 22.0 dB" in words
    assert "gave back" not in words and adaptive.recovered is None


def test_verdict_admits_that_the_defence_hurts() -> None:
    words = view.verdict(result(**ATTACKED, defended_clean=20.0, defended_attacked=20.5))
    assert "The defence made it worse: it took another **1.5 dB**" in words
    assert "gave back" not in words


def test_verdict_admits_that_nothing_happened() -> None:
    words = view.verdict(result(restored=28.0, attacked_restored=28.0, defended_attacked=28.01))
    assert "The attack took **nothing**" in words
    assert "The defence gave back **nothing**" in words


def test_verdict_names_a_share_of_a_real_loss_only() -> None:
    assert "%" not in view.verdict(result(restored=28.0, attacked_restored=27.9, defended_attacked=28.5))


def test_verdict_without_attack_or_without_defence() -> None:
    unattacked = view.verdict(result(captured=20.0, restored=28.0, defended_clean=27.0))
    assert "costs **1.0 dB**" in unattacked
    assert "attack took" not in unattacked
    undefended = view.verdict(result(**ATTACKED))
    assert "The attack took **6.0 dB**" in undefended
    assert "defence" not in undefended


def test_verdict_without_truth_compares_with_the_restorers_own_output() -> None:
    grey = torch.full((1, 3, 16, 16), 0.5)
    case = result(
        has_truth=False, attacked_restored=30.0, noise_restored=45.0, defended_clean=36.0, defended_attacked=33.0
    )
    case.images["restored"] = grey
    words = view.verdict(case)
    assert words.startswith("There is no ground truth")
    assert "moves the result to **30.0 dB** from it; random noise of the same size moves it to 45.0 dB" in words
    assert "comes out at **33.0 dB**, 3.0 dB nearer" in words
    case.images["defended_attacked"] = shifted(28.0)
    assert "2.0 dB further away: the defence made it worse" in view.verdict(case)


# --- Numbers and pictures ---------------------------------------------------------------------------------------------


def test_table_has_a_dash_where_there_is_no_reference() -> None:
    case = result(has_truth=False, **ATTACKED)
    numbers = {words: psnr for words, psnr, _ in view.rows(case)}
    assert numbers["Capture"] is None
    assert numbers["Restored"] is None
    assert numbers["Attacked, restored"] == pytest.approx(22.0, abs=0.01)
    assert "<td>–</td>" in view.table(case)
    assert "untouched capture" in view.table(case)
    assert "attack 1.2 s" in view.table(case)


def test_table_of_an_empty_result() -> None:
    assert "<tbody></tbody>" in view.table(result())


def test_film_strip_has_every_stage_in_words() -> None:
    case = result(**ATTACKED, defended_clean=27.0)
    captions = [words for _, words in view.pictures(case)]
    assert captions == ["Capture", "Restored", "Attacked capture", "Attacked, restored", "Not attacked, defended"]


def test_perturbation_states_its_scale() -> None:
    case = result()
    case.images["captured"] = torch.full((1, 3, 4, 4), 0.5)
    case.images["attacked_input"] = case.images["captured"] + 4 / 255
    picture, caption = view.perturbation(case) or pytest.fail("no picture")
    assert caption == "Perturbation × 22 (at most 4 of 255)"
    assert picture.getpixel((0, 0))[0] == pytest.approx(127.5 + 22 * 4, abs=1)
    assert view.perturbation(result()) is None


def test_pair_takes_what_is_there() -> None:
    everything = list(view.STAGES.values())
    assert view.pair(everything, "clean", "purified") == ("Ground truth", "Purified")
    assert view.pair([], "clean", "purified") is None
    assert view.pair(["Capture"], "attacked_restored", "defended_attacked") == ("Capture", "Capture")
    early = ["Capture", "Restored"]
    assert view.pair(early, "attacked_restored", "defended_attacked") == ("Capture", "Restored")


def test_progress_follows_the_plan() -> None:
    progress = view.Progress(engine.phases(Choices(attack=False, defence="none")))
    case = result(captured=20.0)
    assert progress.share == 0
    assert progress.update(Step("simulate", 1, 1, case))
    assert "2 of 2 · Restoring" in progress.words()
    case.images["restored"] = shifted(28.0)
    assert progress.update(Step("restore", 1, 1, case))
    assert progress.share == 1


def test_stop_changes_a_running_line_only() -> None:
    assert 'data-state="stopped"' in view.stopped(view.status("running", "x"))
    done = view.status("done", "x")
    assert view.stopped(done) == done


def test_status_escapes() -> None:
    assert "<b>" not in view.status("failed", "<b>")


def test_messages_hide_paths() -> None:
    assert view.without_path("/tmp/x/cat.png: damaged.", "/tmp/x/cat.png") == "The photo: damaged."


def test_weights_line_tolerates_missing_facts() -> None:
    assert view._trained({}) == "as embedded, its training unrecorded"
    facts = {"steps": 16000, "panels": ["axon20", "axon20", "toled"], "seconds": 11000, "device": "a CPU"}
    assert view._trained(facts) == "trained for 16,000 steps on captures through axon20, toled in 3.1 h on a CPU"
    assert view.weights_line().startswith("Weights in use: restorer ")


# --- Samples and limits -----------------------------------------------------------------------------------------------


def test_samples_are_files_of_crop_size(tmp_path: Path) -> None:
    files = samples.write_samples(tmp_path)
    assert samples.NIGHT in files
    for path in files.values():
        assert read_image(path).shape == (1, 3, 256, 256)


def test_night_street_keeps_its_lamps_through_the_file(tmp_path: Path) -> None:
    photo = read_image(samples.write_samples(tmp_path)[samples.NIGHT])
    assert torch.equal(samples.light(photo), samples.night_street())
    assert samples.night_street().max() > 450
    assert samples.light(1 - photo).max() <= 500


def test_large_photos_are_scaled_down(tmp_path: Path) -> None:
    write_png(torch.rand(1, 3, 500, 2000), tmp_path / "wide.png")
    photo, note = engine.read_photo(str(tmp_path / "wide.png"))
    side = engine.MAX_SIDE[engine.device()]
    assert photo.shape == (1, 3, side // 4, side)
    assert "2000×500" in note


@pytest.mark.parametrize(
    "wrong",
    [
        {"eps": 17},
        {"eps": float("nan")},
        {"steps": 51},
        {"steps": None},
        {"noise_level": 101},
        {"draws": 9},
        {"seed": -1},
        {"defence": "magic"},
        {"norm": "l7"},
    ],
)
def test_limits_hold_on_the_server(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        Choices(**wrong)


def test_attacker_of_no_defence_is_the_oblivious_one() -> None:
    assert Choices(knows_defence=True, defence="none").settings().threat == "oblivious"
    assert Choices(knows_defence=True).settings().threat == "exact"


# --- The API ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    from gradio_client import Client

    demo = build()
    _, url, _ = launch(demo, host="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield Client(url, verbose=False)
    demo.close()


@pytest.fixture
def tiny(tmp_path: Path) -> Any:
    from gradio_client import handle_file

    write_png(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), tmp_path / "tiny.png")
    return handle_file(str(tmp_path / "tiny.png"))


def test_api_runs_everything(client: Any, tiny: Any) -> None:
    options = {"steps": 1, "draws": 1, "random_seed": False, "seed": 3}
    line, verdict, stages, table, delta, report = client.predict(tiny, api_name="/run", **options)
    assert 'data-state="done"' in line
    assert "The attack" in verdict
    assert [stage["caption"] for stage in stages] == list(view.STAGES.values())
    assert all(stage["image"].endswith(".png") for stage in stages)
    assert "<table" in table
    assert (delta.get("value") if isinstance(delta, dict) else delta).endswith(".png")
    assert report["settings"]["seed"] == 3
    assert report["images"][0]["psnr"]["defended_attacked"] > 0
    assert set(report) == {"settings", "versions", "checkpoints", "images"}


def test_api_takes_a_real_capture(client: Any, tiny: Any) -> None:
    *_, report = client.predict(tiny, captured=True, steps=1, draws=1, api_name="/run")
    assert report["images"][0]["psnr"]["captured"] is None
    assert report["images"][0]["psnr"]["attacked_restored"] > 0


def test_api_errors_are_one_sentence_without_paths(client: Any, tiny: Any, tmp_path: Path) -> None:
    from gradio_client import handle_file

    (tmp_path / "no_image.png").write_bytes(b"nothing of the kind")
    for photo, options, expected in (
        (handle_file(str(tmp_path / "no_image.png")), {}, "The photo: not an image"),
        (tiny, {"eps": 99}, "99"),
        (None, {}, "no photo"),
    ):
        with pytest.raises(Exception, match=expected) as caught:
            client.predict(photo, api_name="/run", **options)
        assert "/" not in str(caught.value).replace("1/255", "")


def test_api_has_one_public_endpoint(client: Any) -> None:
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/run"]
