"""What the README promises: its program runs, its numbers are those of the results files and the weights."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from readme_program import readme_program, write_photo

from udc_defense.checkpoints.files import EMBEDDED, checksum, embedded_names
from udc_defense.evaluation import finetuning_suite, generalisation, publish
from udc_defense.evaluation.architecture_suite import NETWORKS
from udc_defense.evaluation.entry import rows_of
from udc_defense.evaluation.runner import read_results
from udc_defense.optics import PANELS

ROOT = Path(__file__).parents[2]


def test_the_program_runs_in_another_folder(tmp_path: Path) -> None:
    write_photo(tmp_path / "photo.png")
    command = [sys.executable, "-c", readme_program()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    clean, attacked = (re.findall(r"[\d.]+(?= dB)", line) for line in done.stdout.splitlines())
    assert float(attacked[0]) < float(clean[0]) - 0.1, "the attack does damage"


def test_published_numbers_are_those_of_the_results_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert publish.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("spine", ["restorer default", "purifier diffusion", "purifier direct"]),
        ("attacks", ["restorer default", "purifier diffusion", "purifier direct"]),
        ("detection", ["restorer default", "purifier direct"]),
        ("purifiers", ["restorer default", "purifier diffusion", "purifier direct", "guide default"]),
        ("per_photo", ["restorer default", "purifier diffusion"]),
        ("finetuning", [*(f"restorer {name}" for name in sorted(finetuning_suite.NETWORKS)), "purifier direct"]),
        ("architectures", [*(f"restorer {name}" for name in NETWORKS), "purifier diffusion", "purifier direct"]),
    ],
)
def test_results_belong_to_the_embedded_weights(file: str, names: list[str]) -> None:
    results = read_results(ROOT / "results" / f"{file}.json")
    assert results.checkpoints == {name: checksum(EMBEDDED / name.replace(" ", "/")) for name in names}


@pytest.mark.parametrize("file", ["ducd", "certification", "generalisation"])
def test_tables_belong_to_the_embedded_weights(file: str) -> None:
    sums = json.loads((ROOT / "results" / f"{file}.json").read_text(encoding="utf-8"))["checkpoints"]
    embedded = {name: value for name, value in sums.items() if "surrogate" not in name}
    assert embedded == {name: checksum(EMBEDDED / name.replace(" ", "/")) for name in embedded}
    assert "restorer default" in embedded


def test_every_embedded_restorer_was_evaluated_and_met_every_crop() -> None:
    evaluated: list[str] = []
    for panel in PANELS:
        folder = ROOT / "results" / "evaluation" / panel
        run, summary = (
            json.loads((folder / name).read_text(encoding="utf-8")) for name in ("run.json", "summary.json")
        )
        assert (run["preset"], run["panel"], len(run["photos"])) == ("paper", panel, 44)
        assert run["checkpoints"] == {name: checksum(EMBEDDED / name.replace(" ", "/")) for name in run["checkpoints"]}
        evaluated += run["restorers"]
        for entry in summary["settings"]:
            dear = entry["threat"] != "oblivious" or entry["attack"] in ("cw", "simba")
            assert entry["images"] == (2 if entry["title"].startswith("EOT") else 8 if dear else 44)
    assert sorted(evaluated) == embedded_names("restorer")


def test_the_networks_of_one_panel_met_every_crop_of_val() -> None:
    found = json.loads((ROOT / "results" / "panels.json").read_text(encoding="utf-8"))
    assert Counter(row["condition"] for row in found["rows"]) == {c.words: 36 for c in generalisation.PLAIN}
    assert {row["split"] for row in found["rows"]} == {"val"} and len(set(found["checkpoints"].values())) == 4


def test_every_system_was_certified_on_every_crop() -> None:
    """By the surrogate that was distilled, under every noise on val, and the chosen ones on held-out."""
    found, ducd = (json.loads((ROOT / "results" / f"{n}.json").read_text("utf-8")) for n in ("certification", "ducd"))
    assert ducd["checkpoints"]["surrogate"] in found["checkpoints"].values()
    for system, chosen in found["chosen"].items():
        rows = [row for row in found["rows"] if row["system"] == system]
        val = Counter(json.dumps(row["noise"]) for row in rows if row["split"] == "val")
        heldout = Counter(json.dumps(row["noise"]) for row in rows if row["split"] == "heldout")
        asked = [found["protocol"]["fixed"], *(choice["noise"] for choice in chosen if choice["noise"])]
        assert val == {json.dumps(noise): 8 for noise in found["protocol"]["grid"]}
        assert heldout == {json.dumps(noise): 8 for noise in asked}


def test_every_crop_of_the_protocol_has_its_rows() -> None:
    results = read_results(ROOT / "results" / "spine.json")
    from udc_defense.evaluation import spine

    for split, crops in (("val", 36), ("heldout", 44)):
        for eps in spine.EPSILONS:
            assert all(len(spine.defended_rows(results, split, eps, p)) == crops for p in spine.DEFENSES)
    for purification in spine.GRID:
        rows = spine.select(results, "val", eps=spine.CHOICE_EPS, purifier=purification.facts())
        assert len({row["image"] for row in rows}) == 36


def test_every_attack_has_met_every_crop() -> None:
    results = read_results(ROOT / "results" / "attacks.json")
    from udc_defense.evaluation.attack_suite import ADAPTIVE, OBLIVIOUS

    for split, crops in (("val", 36), ("heldout", 44)):
        assert all(len(rows_of(results, entry, split)) == crops for entry in OBLIVIOUS)
        assert all(len(rows_of(results, entry, split)) == 8 for entry in ADAPTIVE)


def test_every_purifier_has_met_its_crops() -> None:
    results = read_results(ROOT / "results" / "purifiers.json")
    from udc_defense.evaluation.purifier_suite import (
        BARE,
        CHOSEN,
        EPSILONS,
        FAMILIES,
        faced,
        knowing,
        smallest,
    )

    for purification in {p for candidates in FAMILIES.values() for p in candidates}:
        assert len(faced(results, purification, "val", 4.0)) == 36
    assert len(rows_of(results, BARE, "heldout")) == 8
    for purification in CHOSEN.values():
        assert all(len(faced(results, purification, "heldout", eps)) == 44 for eps in EPSILONS)
        assert len(rows_of(results, knowing(purification), "heldout")) == 8
        assert len(rows_of(results, smallest(purification), "heldout")) == 8


def test_the_purifiers_on_heldout_are_the_best_of_their_families_on_val() -> None:
    results = read_results(ROOT / "results" / "purifiers.json")
    from udc_defense.evaluation.purifier_suite import CHOSEN, best

    assert {family: best(results, family) for family in CHOSEN} == CHOSEN


def test_every_architecture_has_met_every_crop() -> None:
    results = read_results(ROOT / "results" / "architectures.json")
    from udc_defense.evaluation.architecture_suite import EPSILONS, unknowing_rows
    from udc_defense.evaluation.finetuning_suite import knowing

    for network in NETWORKS:
        assert all(len(unknowing_rows(results, network, eps)) == 44 for eps in EPSILONS)
        assert len(rows_of(results, knowing(network, 4.0), "heldout")) == 8


def test_the_purifier_with_a_level_per_photo_has_met_every_crop() -> None:
    results = read_results(ROOT / "results" / "per_photo.json")
    from udc_defense.evaluation.per_photo_suite import AWARE, OBLIVIOUS
    from udc_defense.evaluation.purifier_suite import PER_PHOTO, smallest

    for split, crops in (("val", 36), ("heldout", 44)):
        assert all(len(rows_of(results, entry, split)) == crops for entry in OBLIVIOUS)
        assert all(len(rows_of(results, entry, split)) == 8 for entry in AWARE)
    assert len(rows_of(results, smallest(PER_PHOTO), "heldout")) == 8


def test_every_fine_tuned_restorer_has_met_every_crop() -> None:
    results = read_results(ROOT / "results" / "finetuning.json")
    own = finetuning_suite
    for network in own.NETWORKS:
        dear = [make(network) for make in (own.features, own.smallest, own.queries)]
        dear += [own.knowing(network, eps) for eps in (2.0, 4.0, 8.0)]
        assert len(rows_of(results, own.unknowing(network, own.CHOICE_EPS), "val")) == 36
        assert len(rows_of(results, own.knowing(network, own.CHOICE_EPS), "val")) == 8
        assert all(len(rows_of(results, own.unknowing(network, eps), "heldout")) == 44 for eps in own.EPSILONS)
        assert all(len(rows_of(results, entry, "heldout")) == 8 for entry in dear)
