"""The demo without a browser: samples, pictures, numbers, words, limits, and its API on a loopback port."""

from __future__ import annotations

import base64
import csv
import io
import os
import re
import urllib.parse
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
pytest.importorskip("gradio", reason="the extra `demo` is not installed")


from udc_defense.attacks import ATTACKS, AttackResult
from udc_defense.attacks.objectives import OBJECTIVES
from udc_defense.certification import Budget, Certification, Denoised, Gaussian
from udc_defense.certification.certify import certify
from udc_defense.demo import (
    build,
    choices,
    controls,
    engine,
    handlers,
    launch,
    link,
    networks,
    presets,
    progress,
    results,
    robustness_tab,
    view,
)
from udc_defense.demo import verdict as words_of
from udc_defense.demo.batch_tab import Batches, table_csv
from udc_defense.demo.certify_tab import RADII, SIDE, Certificates
from udc_defense.demo.choices import Choices
from udc_defense.demo.fields import FIELDS
from udc_defense.demo.handlers import for_visitors, guarded
from udc_defense.demo.networks import Networks
from udc_defense.demo.robustness_tab import LINES
from udc_defense.demo.run import OUTPUTS, Runs
from udc_defense.device import best_device
from udc_defense.errors import CheckpointError, ImageError, SettingError, UDCDefenseError
from udc_defense.images import quantize, read_image, to_pil, write_png
from udc_defense.photo.result import STAGES, Result
from udc_defense.photo.settings import Settings
from udc_defense.photo.stages import Step
from udc_defense.purification import DEFAULT, DIFFUSION
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.restorers.gated_unet import GatedUNet
from udc_defense.threats import KINDS, TITLES


def shifted(db: float) -> Tensor:
    """An image at this PSNR from mid grey."""
    return torch.full((1, 3, 16, 16), 0.5 + 10 ** (-db / 20))


def result(has_truth: bool = True, **psnr: float) -> Result:
    """A result whose stages have these PSNR values."""
    grey = torch.full((1, 3, 16, 16), 0.5)
    images = {key: shifted(value) for key, value in psnr.items()}
    return Result("photo", 1, has_truth=has_truth, images=images, reference=grey, seconds={"attack": 1.23})


def verdict(case: Result, **settings: Any) -> str:
    return words_of.verdict(case, Settings(**settings))


def searched(case: Result, **facts: Any) -> Result:
    """The same result with an attack that found this out; its change has a root mean square of 0.5 of 255."""
    image = case.images["captured"] + 0.5 / 255
    defaults = {"losses": torch.zeros(1, 1), "forwards": 11, "backwards": 10, "step": 10, "steps": 10}
    case.search = AttackResult(image, **(defaults | facts))
    return case


ATTACKED = {"captured": 20.0, "restored": 28.0, "attacked_input": 19.9, "attacked_restored": 22.0}


# --- Words ------------------------------------------------------------------------------------------------------------


def test_verdict_says_what_was_taken_and_given_back() -> None:
    words = verdict(result(**ATTACKED, noise_restored=27.5, defended_clean=27.0, defended_attacked=25.0))
    assert "Restoring won **8.0 dB** (20.0 → 28.0 dB)" in words
    assert "The attack took **6.0 dB**, where random noise of the same size takes **0.5 dB**" in words
    assert "The defense gave back **3.0 dB**, 50 % of what was lost" in words
    assert "without an attack the defense costs **1.0 dB**" in words


@pytest.mark.parametrize("threat", KINDS[1:])
def test_verdict_on_an_attacker_who_knows_the_defense_claims_no_recovery(threat: Any) -> None:
    adaptive = result(**ATTACKED, defended_clean=27.0, defended_attacked=20.0)
    adaptive.threat = threat
    words = verdict(adaptive)
    assert "who knows the defense took **7.0 dB** in spite of it (27.0 → 20.0 dB; the same image without" in words
    assert "without the defense: 22.0 dB" in words and "the defense costs **1.0 dB**" in words
    assert "gave back" not in words and adaptive.recovered is None


def test_verdict_admits_that_the_defense_hurts() -> None:
    words = verdict(result(**ATTACKED, defended_clean=20.0, defended_attacked=20.5))
    assert "The defense made it worse: it took another **1.5 dB**" in words
    assert "gave back" not in words


def test_verdict_admits_that_nothing_happened() -> None:
    words = verdict(result(restored=28.0, attacked_restored=28.0, defended_attacked=28.01))
    assert "The attack took **nothing**" in words
    assert "The defense gave back **nothing**" in words


def test_verdict_names_a_share_of_a_real_loss_only() -> None:
    assert "%" not in verdict(result(restored=28.0, attacked_restored=27.9, defended_attacked=28.5))


def test_verdict_without_attack_or_without_defense() -> None:
    unattacked = verdict(result(captured=20.0, restored=28.0, defended_clean=27.0))
    assert "costs **1.0 dB**" in unattacked
    assert "attack took" not in unattacked
    undefended = verdict(result(**ATTACKED))
    assert "The attack took **6.0 dB**" in undefended
    assert "defense" not in undefended


def test_verdict_without_truth_compares_with_the_restorers_own_output() -> None:
    grey = torch.full((1, 3, 16, 16), 0.5)
    case = result(
        has_truth=False, attacked_restored=30.0, noise_restored=45.0, defended_clean=36.0, defended_attacked=33.0
    )
    case.images["restored"] = grey
    words = verdict(case)
    assert words.startswith("There is no ground truth")
    assert "moves the result to **30.0 dB** from it; random noise of the same size moves it to 45.0 dB" in words
    assert "comes out at **33.0 dB**, 3.0 dB nearer" in words
    case.images["defended_attacked"] = shifted(28.0)
    assert "2.0 dB further away: the defense made it worse" in verdict(case)


def test_verdict_without_truth_on_an_attacker_who_knows_the_defense() -> None:
    case = result(has_truth=False, restored=60.0, attacked_restored=50.0, defended_clean=36.0, defended_attacked=30.0)
    case.threat = "bpda"
    words = verdict(case)
    assert "knows the defense moves the result to **30.0 dB** in spite of it (the same image without" in words
    assert "worse" not in words and "nearer" not in words


def test_verdict_says_how_the_attack_searched() -> None:
    assert "queries" not in verdict(searched(result(**ATTACKED)))
    black_box = searched(result(**ATTACKED), forwards=1200, backwards=0)
    assert "saw outputs only, those of 1,200 queries." in verdict(black_box, attack="square")
    uneven = searched(result(**ATTACKED), forwards=1200, backwards=0, queries=torch.tensor([340]))
    assert "those of 340 queries." in verdict(uneven, attack="simba")
    misled = searched(result(**ATTACKED), zero_gradients=3)
    assert "3 of its 10 gradients were zero everywhere" in verdict(misled)


def test_verdict_names_the_size_that_an_attack_without_radius_chose() -> None:
    case = searched(result(**ATTACKED))
    assert "It has no ε: its change has a root mean square of **0.50** of 255" in verdict(case, attack="cw")
    case.search = replace(case.search, image=case.images["captured"]) if case.search else None
    assert "It changed nothing" in verdict(case, attack="cw")


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
    everything = list(STAGES.values())
    assert view.pair(everything, "clean", "purified") == ("Ground truth", "Purified")
    assert view.pair([], "clean", "purified") is None
    assert view.pair(["Capture"], "attacked_restored", "defended_attacked") == ("Capture", "Capture")
    early = ["Capture", "Restored"]
    assert view.pair(early, "attacked_restored", "defended_attacked") == ("Capture", "Restored")


def test_progress_follows_the_plan() -> None:
    state = progress.Progress(engine.phases(Choices(method="none", sampler="none")))
    case = result(captured=20.0)
    assert state.share == 0
    assert state.update(Step("simulate", 1, 1, case))
    assert "2 of 2 · Restoring" in state.words()
    case.images["restored"] = shifted(28.0)
    assert state.update(Step("restore", 1, 1, case))
    assert state.share == 1


def test_progress_counts_the_steps_that_the_library_reports() -> None:
    state = progress.Progress(engine.phases(Choices(captured=True, steps=10)))
    case = result(restored=28.0)
    state.update(Step("restore", 1, 1, case))
    state.update(Step("attack", 3, 40, case))
    assert "Attacking, step 3 of 40" in state.words()
    assert not state.due()
    state.shown -= 2 * progress.REFRESH
    assert state.due() and not state.due()


def test_a_clock_says_what_is_left() -> None:
    clock = progress.Clock()
    clock.started -= 10
    assert clock.left(0) == ""
    assert clock.left(0.5) == " · about 10 s left"


def test_stop_changes_a_running_line_only() -> None:
    assert 'data-state="stopped"' in progress.stopped(progress.status("running", "x"))
    done = progress.status("done", "x")
    assert progress.stopped(done) == progress.stopping(done) == done
    assert "Stopping" in progress.stopping(progress.status("running", "x"))


def test_status_escapes() -> None:
    assert "<b>" not in progress.status("failed", "<b>")


def test_messages_hide_paths() -> None:
    assert for_visitors("/tmp/x/cat.png: damaged.", "/tmp/x/cat.png") == "The photo: damaged."
    hidden = for_visitors("a/b@main: no room in /home/me/.cache/hub; of 1/255, see https://huggingface.co/a/b.")
    assert hidden == "A/b@main: no room in (a place on this server); of 1/255, see https://huggingface.co/a/b."


def test_unknown_errors_are_told_by_number_only(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Iterator[Any]:
        yield ("a", "b")
        raise RuntimeError("secret of /etc")

    updates = guarded(broken(), 2)
    assert next(updates) == ("a", "b")
    line, _ = next(updates)
    assert 'data-state="failed"' in line and "secret" not in line
    with pytest.raises(Exception, match="log has it as [0-9a-f]{8}") as caught:
        next(updates)
    assert "secret" not in str(caught.value) and "secret of /etc" in caplog.text
    (number,) = re.findall(r"as ([0-9a-f]{8})\.", str(caught.value))
    assert number in caplog.text and number in line


def test_closing_a_handler_closes_what_it_drives() -> None:
    closed = []

    def steps() -> Iterator[Any]:
        try:
            yield ("running",)
        finally:
            closed.append(True)

    updates = guarded(steps(), 1)
    next(updates)
    assert handlers.working
    updates.close()  # type: ignore[attr-defined]
    assert closed and not handlers.working


# --- Choices ----------------------------------------------------------------------------------------------------------


def test_presets_are_choices_and_details_override_them() -> None:
    for attack in presets.ATTACKS:
        for defense in presets.DEFENSES:
            chosen = presets.choose(attack, defense)
            assert (chosen.method == "none") == (attack == "off")
            assert (chosen.sampler == "none") == (defense == "off")
    assert presets.choose("adaptive").settings().threat == "exact"
    fast = presets.choose()
    assert fast.purifier is not None and fast.purification(fast.purifier) == DEFAULT
    for other in ({"sampler": "ddim"}, {"purifier": "owner/name"}):
        chosen = presets.choose(defense="best", **other)
        assert (chosen.purifier, chosen.noise_level, chosen.draws) == (other.get("purifier"), 30, 1)
    assert presets.choose(purifier="direct") == fast
    assert presets.choose(defense="paper", purifier="diffusion").noise_level == 50, "a preset of any diffusion model"
    chosen = presets.choose("strong", "paper", eps="2,5", steps="7", noise_level="9", draws=2, threat="", seed=None)
    assert (chosen.method, chosen.eps, chosen.steps) == ("apgd", 2.5, 7)
    assert (chosen.sampler, chosen.noise_level, chosen.draws) == ("ddpm", 9, 2)


def test_off_is_off_and_another_method_has_its_own_steps() -> None:
    chosen = presets.choose("off", "off", method="pgd", sampler="ddpm", options="restarts=2", steps=3)
    assert (chosen.method, chosen.sampler, chosen.settings().options) == ("none", "none", {})
    assert presets.choose("quick", method="square").attack_steps == choices.QUERY_STEPS[0]
    assert presets.choose("quick", method="pgd").attack_steps == presets.choose("quick").attack_steps == 10


def test_words_of_presets_name_their_numbers() -> None:
    for preset in (*presets.ATTACKS.values(), *presets.DEFENSES.values()):
        assert "{" not in preset.words
    assert "50 steps" in presets.ATTACKS["strong"].words and "50 steps" in presets.DEFENSES["paper"].words


@pytest.mark.parametrize(
    "wrong",
    [
        {"attack": "magic"},
        {"defense": "magic"},
        {"eps": 17},
        {"eps": float("nan")},
        {"eps": "nan"},
        {"eps": "much"},
        {"eps": "1e999"},
        {"eps": True},
        {"steps": 51},
        {"steps": 2.5},
        {"steps": float("nan")},
        {"steps": 1001, "method": "square"},
        {"method": "magic"},
        {"panel": "magic"},
        {"threat": "magic"},
        {"objective": "lpips"},
        {"options": "restarts"},
        {"options": "restarts=many"},
        {"options": "magic=1"},
        {"options": "restarts=2", "method": "universal"},
        {"options": "restarts=1000"},
        {"noise_level": 101},
        {"draws": 9},
        {"draws": [1]},
        {"seed": -1},
        {"sampler": "magic"},
        {"norm": "l7"},
        {"restorer": "/etc"},
        {"restorer": "os:system"},
        {"purifier": "x" * 300},
    ],
)
def test_limits_hold_on_the_server(wrong: dict[str, Any]) -> None:
    with pytest.raises(UDCDefenseError) as caught:
        presets.choose(**wrong)
    assert len(str(caught.value)) < 400


def test_attacker_of_no_defense_is_the_oblivious_one() -> None:
    assert Choices(threat="exact", sampler="none").settings().threat == "oblivious"
    assert [Choices(threat=kind).settings().threat for kind in KINDS] == list(KINDS)


def test_links_carry_what_was_chosen() -> None:
    fields = FIELDS | {"attack": "strong", "captured": True, "eps": "2.5", "options": "restarts=2", "seed": "7"}
    text = link.query(fields, "Night street")
    assert text.startswith("sample=Night+street&captured=1&attack=strong")
    assert link.query(FIELDS, None) == ""
    parsed = dict(urllib.parse.parse_qsl(text)) | {"__theme": "dark"}
    assert FIELDS | link.read_query(parsed) == fields
    for wrong in ({"attack": "magic"}, {"eps": "much"}, {"restorer": "/etc/passwd"}):
        with pytest.raises(UDCDefenseError):
            link.read_query(wrong)


def test_large_photos_are_scaled_down(tmp_path: Path) -> None:
    write_png(torch.rand(1, 3, 500, 2000), tmp_path / "wide.png")
    photo, note = engine.read_photo(str(tmp_path / "wide.png"))
    side = engine.MAX_SIDE[best_device()]
    assert photo.shape == (1, 3, side // 4, side)
    assert "2000×500" in note


def test_a_run_that_takes_too_long_is_refused_before_it_begins(here: Networks) -> None:
    choices = presets.choose("adaptive", "paper", steps=50, draws=8)
    with pytest.raises(SettingError, match=r"would take about \d+ min, and one run may take 30: choose fewer steps"):
        engine.start(here, torch.rand(1, 3, 700, 700), choices, choices.settings())
    engine.check_seconds(here, torch.rand(1, 3, 256, 256), presets.choose("adaptive", "fast"))


def test_large_files_are_not_opened(tmp_path: Path) -> None:
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(engine.MAX_BYTES + 1)
    with pytest.raises(ImageError, match=r"15.0 MB, more than the 15 MB"):
        engine.read_photo(str(tmp_path / "large.png"))


# --- Controls ---------------------------------------------------------------------------------------------------------


def test_every_attack_threat_and_objective_can_be_chosen() -> None:
    labels = {name: label for label, name in view.attack_choices()}
    assert set(labels) == set(ATTACKS.names())
    assert labels["pgd"] == "PGD · sees gradients" and labels["square"] == "Square · sees outputs only"
    assert labels["low_frequency"] == "Low frequency · sees gradients"
    assert tuple(TITLES) == KINDS
    assert [name for _, name in view.objective_choices()] == list(OBJECTIVES)


def test_options_are_explained() -> None:
    assert view.options_words("pgd").startswith("`restarts=1`: runs from random starts of their own")
    assert view.options_words("cospgd") == "`weight=softmax` (or error): of a pixel."
    assert view.options_words("universal") == view.options_words("none") == ""


@pytest.mark.parametrize("method", ["none", *ATTACKS.names()])
def test_settings_have_what_the_attack_takes(method: str) -> None:
    settings = Choices(method=method, norm="l2", objective="l1", options="").settings()
    usual = {"eps": 4, "steps": choices.step_limits(method)[0], "norm": "l2", "objective": "l1"}
    for name, value in usual.items():
        assert getattr(settings, name) == (value if name in choices.takes(method) else None)


def test_options_are_read_from_text() -> None:
    assert Choices(options=" restarts = 2, momentum=0.75,").settings().options == {"restarts": 2, "momentum": 0.75}


def test_controls_follow_the_attack() -> None:
    method, eps, steps, _, objective, norm, options = controls.attack_details("quick", "simba")
    assert method["info"] == ATTACKS.get("simba").summary
    assert eps["visible"] and objective["visible"] and not norm["visible"]
    assert steps["placeholder"] == str(choices.QUERY_STEPS[0])
    assert options["visible"] and "basis=pixel" in options["info"]
    _, eps, steps, *_ = controls.attack_details("strong", "")
    assert (eps["placeholder"], steps["placeholder"]) == ("4", "50")
    assert not controls.attack_details("quick", "cw")[1]["visible"]
    assert not any(update["visible"] for update in controls.attack_details("off", "pgd"))


def test_a_transform_has_neither_noise_level_nor_draws() -> None:
    for sampler, shown in (("", True), ("ddim", True), ("jpeg", False)):
        assert [update["visible"] for update in controls.defense_details("best", sampler, "")] == [True, shown, shown]
    assert not any(update["visible"] for update in controls.defense_details("off", "ddim", ""))
    assert controls.defense_details("fast", "", "")[2]["placeholder"] == str(DEFAULT.draws)
    assert controls.defense_details("fast", "", "owner/name")[1]["placeholder"] == str(DIFFUSION.noise_level)
    assert view.defense_words("dct_denoise") == "Plain DCT denoise, sigma 8"


def test_the_plan_says_what_it_costs_or_why_not() -> None:
    here = networks_of_seconds(0.1)
    words = controls.plan_words(here, *(FIELDS | {"attack": "adaptive", "draws": "2"}).values())
    assert "**knows the defense**" in words and "Your details override: draws." in words and "about" in words
    assert "eps 'much' is not a number" in controls.plan_words(here, *(FIELDS | {"eps": "much"}).values()).lower()


def networks_of_seconds(seconds: float) -> Any:
    return type("Here", (), {"seconds": seconds})()


DEFENSE: dict[str, Any] = {"sampler": "ddpm", "noise_level": 3, "draws": 1}


@pytest.mark.parametrize("method", ATTACKS.names())
def test_phases_know_the_steps_of_every_attack(method: str, here: Networks) -> None:
    chosen = Choices(method=method, steps=2, options="searches=3" if method == "cw" else "", captured=True, **DEFENSE)
    planned = next(phase.steps for phase in engine.phases(chosen) if phase.words == "Attacking")
    photo = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    steps = engine.start(here, photo, chosen, chosen.settings())
    assert {step.steps for step in steps if step.stage == "attack"} == {planned}


@pytest.mark.parametrize("method", ["pgd", "square"])
def test_phases_cost_what_each_threat_evaluates(method: str) -> None:
    cost = {}
    for kind in KINDS:
        plan = engine.phases(Choices(method=method, threat=kind, **DEFENSE))
        cost[kind] = next(phase.cost for phase in plan if phase.words == "Attacking")
    forward, gradient, backward = engine.PURIFIER, engine.GRADIENT, engine.PURIFIER_GRADIENT
    white = {"oblivious": 0, "bpda": 3 * forward, "surrogate": 2 * backward, "exact": 3 * backward}
    black = {"oblivious": 0, "bpda": 3 * forward, "surrogate": 2 * forward, "exact": 3 * forward}
    expected = {kind: gradient + more for kind, more in white.items()}
    assert cost == (expected if method == "pgd" else {kind: 1 + more for kind, more in black.items()})


# --- Networks ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here() -> Networks:
    return Networks()


def test_model_line_says_what_networks_were_trained_on(here: Networks) -> None:
    line = here.line(Choices())
    assert line.startswith("Model: restorer `default` (embedded), ")
    assert line.count("trained on 94 scenes as captures through axon20 (50%), toled (25%), poled (25%)") == 2


def test_model_line_tolerates_missing_facts() -> None:
    assert networks.trained({}) == "its training unrecorded"
    facts = {"steps": 16000, "panels": ["axon20", "axon20", "toled", "toled"], "seconds": 11000, "device": "a CPU"}
    said = "trained as captures through axon20 (50%), toled (50%) for 16,000 steps in 3.1 h on a CPU"
    assert networks.trained(facts) == said


def test_a_folder_of_the_owner_is_known_by_its_name(tmp_path: Path) -> None:
    GatedUNet(widths=(4, 8), blocks=(1, 1)).save_pretrained(tmp_path / "mine")
    mine = Networks(str(tmp_path / "mine"))
    assert "restorer `mine` (folder), " in mine.line(Choices())
    assert set(mine.checkpoints(Choices())) == {"restorer mine", "purifier diffusion"}
    assert mine.threshold(Choices()) is None, "the detector is calibrated for other weights"
    embedded = Choices(restorer="default")
    assert mine.defense(embedded).restorer is not mine.defense(Choices()).restorer
    assert set(mine.checkpoints(embedded)) == {"restorer default", "purifier diffusion"}
    with pytest.raises(CheckpointError):
        Networks(str(tmp_path / "missing"))


def test_the_detector_has_its_threshold_for_the_default_defense(here: Networks) -> None:
    assert here.threshold(presets.choose(defense="fast")) is not None
    assert here.threshold(presets.choose(defense="best")) is None


def test_suspicion_is_told_or_said_to_be_unknown() -> None:
    case = result(**ATTACKED, defended_clean=27.0, defended_attacked=25.0)
    scores = case.detection() or pytest.fail("no scores")
    assert "**notices**" in words_of.suspicion(case, scores["attacked"] - 1)
    assert "**not notice**" in words_of.suspicion(case, scores["attacked"] + 1)
    assert "not known" in words_of.suspicion(case, None)
    assert words_of.suspicion(result(**ATTACKED), None) == ""


# --- Looking ----------------------------------------------------------------------------------------------------------


def test_the_lens_shows_the_same_pixels_larger() -> None:
    image = torch.arange(3 * 16 * 24).view(1, 3, 16, 24) / 1200
    shown = view.lens(image, 4, 0.5, 0.5)
    side = shown.size[0] // 4  # of a pixel
    assert shown.size == (256, 256)
    for x, y in ((0, 0), (3, 3)):
        expected = to_pil(image).getpixel((10 + x, 6 + y))
        assert shown.getpixel((x * side, y * side)) == shown.getpixel((x * side + side - 1, y * side)) == expected
    assert to_pil(image).getpixel((0, 15)) == view.lens(image, 4, 0, 1).getpixel((0, 255)), "it stays inside"


def test_the_lens_is_over_the_same_spot_of_all_stages(tmp_path: Path) -> None:
    strip = []
    for number in range(2):
        write_png(torch.full((1, 3, 8, 8), number / 2), tmp_path / f"{number}.png")
        strip.append((str(tmp_path / f"{number}.png"), f"stage {number}"))
    crops = results.magnify(strip, 2, 10, 90)
    assert [caption for _, caption in crops] == ["stage 0", "stage 1"]
    assert [crop.getpixel((0, 0))[0] for crop, _ in crops] == [0, 128]
    assert results.magnify(None, 2, 0, 0) == []


# --- Runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> str:
    write_png(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), tmp_path / "tiny.png")
    return str(tmp_path / "tiny.png")


def test_a_photo_that_is_cleaned_away_during_its_run_costs_nothing(small: str, here: Networks) -> None:
    """Uploads are deleted after an hour, and a queue can be long."""
    updates = Runs(here).run(small, attack="off", defense="off")
    first = [next(updates), next(updates)]
    Path(small).unlink()
    *_, files = [*first, *updates][-1]
    with zipfile.ZipFile(files["value"][0]) as archive:
        assert {"photo.png", "recipe.json", "report.json"} <= set(archive.namelist())


@pytest.mark.parametrize("threat", ["oblivious", "bpda"])
@pytest.mark.parametrize("method", ATTACKS.names())
def test_every_attack_runs_to_a_report(method: str, threat: str, small: str, here: Networks) -> None:
    *_, (line, words, stages, _, _, report, _) = Runs(here).run(small, method=method, steps=2, threat=threat)
    assert 'data-state="done"' in line
    assert ("who knows the defense" in words) == (threat != "oblivious")
    assert ("queries" in words) == (not ATTACKS.get(method).white_box)
    assert len(stages) == len(STAGES)
    settings = report["settings"]
    assert (settings["attack"], settings["threat"]) == (method, threat)
    assert settings["steps"] == (2 if "steps" in choices.takes(method) else None)
    assert settings["options"] == ATTACKS.get(method).parse_options({})


def test_every_stage_is_sent_when_it_is_there(small: str, here: Networks) -> None:
    updates = list(Runs(here).run(small, steps=1))
    assert {len(update) for update in updates} == {OUTPUTS}
    strips = [len(update[2]) for update in updates if isinstance(update[2], list)]
    assert strips[0] == 0 and strips[-1] == len(STAGES)
    assert sorted(set(strips)) == strips[: len(set(strips))], "the strip grows"


def test_a_run_stops_within_a_step(small: str, here: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = []
    restorer = here.defense(Choices()).restorer
    handle = restorer.register_forward_hook(lambda *_: evaluated.append(1))
    updates = Runs(here).run(small, attack="strong")
    next(update for update in updates if "Attacking" in update[0])
    before = len(evaluated)
    updates.close()  # type: ignore[attr-defined]
    handle.remove()
    assert len(evaluated) == before and before < 20


def test_the_first_result_costs_few_evaluations(small: str, here: Networks) -> None:
    """Within 10 s on two cores at 256²: a gradient takes 0.2 s there, an evaluation of the purifier 0.25 s."""
    counted = {"restorer": 0, "purifier": 0}
    defense = here.defense(presets.choose())

    def count(kind: str) -> Any:
        return lambda *_: counted.update({kind: counted[kind] + 1})

    handles = [defense.restorer.register_forward_hook(count("restorer"))]
    forward = DiffusionPurifier.iterate
    with pytest.MonkeyPatch.context() as patch:

        def iterate(self: DiffusionPurifier, *arguments: Any, **options: Any) -> Iterator[Any]:
            for step in forward(self, *arguments, **options):
                counted["purifier"] += 1
                yield step

        patch.setattr(DiffusionPurifier, "iterate", iterate)
        list(Runs(here).run(small))
    for handle in handles:
        handle.remove()
    assert counted["purifier"] == 2
    assert counted["restorer"] <= 10 + 6


def test_a_batch_keeps_what_is_finished(small: str, here: Networks, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    updates = Batches(here).run([small, str(tmp_path / "bad.png"), small], *(FIELDS | {"steps": "1"}).values())
    *_, (line, table, _) = updates = list(updates)
    made = [files["value"] for *_, files in updates if files.get("value")]
    assert 'data-state="done"' in line and "2 of 3" in line
    assert "not an image" in table and table.count("<tr>") == 4
    first = list(csv.DictReader(Path(made[0][0]).read_text().splitlines()))
    last = list(csv.DictReader(Path(made[-1][0]).read_text().splitlines()))
    assert len(first) == 1 and float(first[0]["psnr_restored"]) > 0
    assert [bool(row["problem"]) for row in last] == [False, True, False]
    with zipfile.ZipFile(made[-1][1]) as archive:
        names = archive.namelist()
    assert {"01-tiny/recipe.json", "01-tiny/defended_attacked.png", "03-tiny/16-bit/restored.png"} <= set(names)
    assert not any(name.startswith("02") for name in names)


def test_a_batch_has_limits(small: str, here: Networks) -> None:
    for photos, said in (([], "0 photos"), ([small] * 21, "21 photos")):
        line, *_ = next(iter(Batches(here).run(photos, *FIELDS.values())))
        assert said in line


def test_names_are_no_formulas() -> None:
    assert b"'=1+1.png" in table_csv([{"photo": "=1+1.png"}])


def test_certificates_are_those_of_the_library(small: str, here: Networks) -> None:
    updates = list(Certificates(here).run(100, small, *(FIELDS | {"captured": True, "seed": "3"}).values()))
    line, words, table, images = updates[-1]
    assert 'data-state="done"' in line and any("of 100 samples" in update[0] for update in updates)
    assert "Not certified" in words and "4/255" in words
    chosen = presets.choose(defense="paper", captured=True, seed=3)
    defense, photo = here.defense(chosen), read_image(small)
    settings = Certification(Gaussian(0.05), tuple(map(Budget, RADII)), samples=100, seed=3)
    captured = quantize(photo)
    with torch.no_grad():
        bare = defense.restorer(captured)
    *_, last = certify(Denoised(defense.restorer, defense.purifier, 0.05).eval(), captured, bare, settings, bare=bare)
    floors = [floor.draw for floor in last.certificate.floors if floor.draw is not None]
    assert floors and all(f"≥ {floor:.1f}" in table for floor in floors)
    assert len(images) == 3


def test_a_bounded_gain_is_told_before_any_sample(small: str, here: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    from udc_defense.defense import Defense
    from udc_defense.restorers.lipschitz import LipschitzRestorer

    torch.manual_seed(0)
    restorer = LipschitzRestorer(1.2, (14,), (10,), (), (1,)).eval().requires_grad_(False)
    defense = Defense(restorer, here.defense(presets.choose(defense="paper")).purifier)
    monkeypatch.setattr(Networks, "defense", lambda self, choices: defense)
    certificates = Certificates(here).run(100, small, *(FIELDS | {"captured": True, "seed": "3"}).values())
    early = next(words for line, words, *_ in certificates if words)
    certificates.close()
    moved = 4 * restorer.lipschitz_bound
    assert f"No change of at most 4/255 per value can move the restored photo by more than {moved:.2f}/255" in early
    assert "whatever the photo" in early and f"a factor of {restorer.lipschitz_bound:.3g}" in early


def test_only_offered_numbers_of_samples(small: str, here: Networks) -> None:
    line, *_ = next(iter(Certificates(here).run(10**9, small, *FIELDS.values())))
    assert "1000000000 samples" in line
    assert SIDE == 128


# --- Published results ------------------------------------------------------------------------------------------------


def test_the_plot_holds_the_published_numbers() -> None:
    points = robustness_tab.frame("heldout", "psnr")
    assert set(points["image"]) == set(LINES.values()) and set(points["ε, of 255"]) == {1, 2, 4, 8}
    shown = robustness_tab.place("psnr-heldout").splitlines()
    last = dict(zip(*(line.strip("| ").split(" | ") for line in (shown[0], shown[-1])), strict=True))
    for column, words in LINES.items():
        point = points[(points["ε, of 255"] == 8) & (points["image"] == words)]
        assert point["value"].item() == float(last[column])


def test_every_part_of_the_published_results_has_its_tables() -> None:
    assert "held-out crops" in robustness_tab.paragraph() and "<!--" not in robustness_tab.paragraph()
    for title in robustness_tab.MORE:
        assert robustness_tab.section(title).count("\n| --- |") > 0, title
    assert robustness_tab.made().startswith("`python -m study measure")


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


def value(update: Any) -> Any:
    """Of an update that shows what was hidden."""
    return update.get("value") if isinstance(update, dict) else update


def test_the_program_of_the_readme_runs(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0].replace("http://127.0.0.1:7860/", client.src)
    write_png(torch.rand(1, 3, 48, 48), tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(program, found)
    assert 'data-state="done"' in found["line"] and "The attack" in found["words"]


def test_api_runs_everything(client: Any, tiny: Any) -> None:
    line, verdict, stages, table, delta, report, files = client.predict(tiny, steps=1, seed=3, api_name="/run")
    assert 'data-state="done"' in line
    assert "The attack" in verdict
    assert [stage["caption"] for stage in stages] == list(STAGES.values())
    assert all(stage["image"].endswith(".png") for stage in stages)
    assert "<table" in table
    assert value(delta).endswith(".png")
    assert report["settings"]["seed"] == 3
    assert report["images"][0]["psnr"]["defended_attacked"] > 0
    assert set(report) == {"settings", "versions", "checkpoints", "detector", "images"}
    assert set(report["images"][0]["detection"]) == {"clean", "attacked"}
    names = [Path(path).name for path in value(files)]
    assert names[:2] == ["everything.zip", "recipe.json"]
    deep = next(path for path in value(files) if path.endswith("restored-16-bit.png"))
    assert Path(deep).read_bytes()[24] == 16, "bits of a sample, in the header"


def test_api_takes_a_plain_transform_for_a_defense(client: Any, tiny: Any) -> None:
    *_, report, _ = client.predict(tiny, steps=1, sampler="jpeg", api_name="/run")
    assert report["settings"]["purifier"] == {"sampler": "jpeg", "strength": 75}
    assert report["detector"] == {"threshold": None}, "it was calibrated for another defense"
    assert set(report["checkpoints"]) == {"restorer default"}
    assert report["images"][0]["psnr"]["defended_attacked"] > 0


def test_api_takes_a_real_capture(client: Any, tiny: Any) -> None:
    *_, report, _ = client.predict(tiny, captured=True, steps=1, api_name="/run")
    assert report["images"][0]["psnr"]["captured"] is None
    assert report["images"][0]["psnr"]["attacked_restored"] > 0


def test_api_takes_more_steps_of_a_black_box_attack(client: Any, tiny: Any) -> None:
    options = {"method": "square", "threat": "exact", "objective": "ssim", "options": "p_init=0.5"}
    *_, report, _ = client.predict(tiny, steps=20, api_name="/run", **options)
    expected = {"steps": 20, "norm": None, "objective": "ssim", "threat": "exact", "options": {"p_init": 0.5}}
    assert {name: report["settings"][name] for name in expected} == expected
    assert report["images"][0]["search"]["forwards"] == 20


def test_api_stages_one_by_one_are_those_of_a_run(client: Any, tiny: Any) -> None:
    from gradio_client import handle_file

    *_, strip, _, _, _, _ = client.predict(tiny, captured=True, steps=1, seed=3, api_name="/run")
    stages = {stage["caption"]: stage["image"] for stage in strip}
    _, attacked = client.predict(tiny, steps=1, seed=3, api_name="/attack")
    assert torch.equal(read_image(attacked), read_image(stages["Attacked capture"]))
    _, restored = client.predict(handle_file(attacked), api_name="/restore")
    assert torch.equal(read_image(restored), read_image(stages["Attacked, restored"]))
    line, purified = client.predict(handle_file(attacked), sampler="jpeg", api_name="/purify")
    assert 'data-state="done"' in line
    assert torch.equal(read_image(purified), read_image(jpeg_of(attacked)))


def jpeg_of(path: str) -> bytes:
    """What the transform `jpeg` does, by Pillow."""
    buffer = io.BytesIO()
    Image.open(path).save(buffer, "JPEG", quality=75, subsampling="4:2:0")
    return buffer.getvalue()


def test_api_errors_are_one_sentence_without_paths(client: Any, tiny: Any, tmp_path: Path) -> None:
    from gradio_client import handle_file

    (tmp_path / "no_image.png").write_bytes(b"nothing of the kind")
    for photo, options, expected in (
        (handle_file(str(tmp_path / "no_image.png")), {}, "The photo: not an image"),
        (tiny, {"eps": 99}, "99"),
        (None, {}, "no photo"),
        (tiny, {"options": "restarts"}, "The option 'restarts' is not of the form name=value."),
        (tiny, {"options": "spin=2"}, "Attack pgd has no option 'spin'; it has restarts, momentum."),
        (tiny, {"method": "magic"}, "magic"),
        (tiny, {"attack": "magic"}, "magic"),
        (tiny, {"steps": 51}, "51, not a number in 1…50"),
        (tiny, {"restorer": "udc_defense"}, "'udc_defense' is neither an embedded restorer"),
    ):
        with pytest.raises(Exception, match=expected) as caught:
            client.predict(photo, api_name="/run", **options)
        assert "/" not in str(caught.value).replace("1/255", "").replace("owner/name", "")


@pytest.mark.parametrize("endpoint", ["run", "attack", "purify", "restore"])
def test_data_urls_meet_the_same_reader(endpoint: str, client: Any) -> None:
    """Gradio would decode them itself, past every limit of size."""
    bomb = io.BytesIO()
    Image.new("1", (5000, 5000)).save(bomb, "PNG")
    for data, expected in ((bomb.getvalue(), "5000x5000 pixels"), (b"nothing", "not an image")):
        url = "data:image/png;base64," + base64.b64encode(data).decode()
        with pytest.raises(Exception, match=expected):
            client.predict({"url": url, "path": None, "meta": {"_type": "gradio.FileData"}}, api_name=f"/{endpoint}")


def test_api_has_four_documented_endpoints(client: Any) -> None:
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/run", "/attack", "/purify", "/restore"}
    assert [field["parameter_name"] for field in endpoints["/run"]["parameters"]] == ["photo", *FIELDS]
    optional = [field for field in endpoints["/run"]["parameters"][1:] if not field["parameter_has_default"]]
    assert optional == []
