"""What is committed: every row that a study asks for, of the weights that are embedded, and documents that say so."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from study import publish, tables
from study.data import RESULTS, ROOT, SETTLED, every_row, plan_of, results
from study.measure import generalisation
from udc_defense.checkpoints.files import EMBEDDED, checksum, embedded_names
from udc_defense.cli import main
from udc_defense.evaluation.rows import key_of
from udc_defense.evaluation.study import Plan, defenses_of
from udc_defense.optics import PANELS
from udc_defense.purification import parse_defense


@dataclass(frozen=True)
class View:
    name: str
    split: str
    adaptive: bool


@pytest.fixture(scope="module")
def views() -> tuple[View, ...]:
    """The crops, and which of them are marked, as the rows have them."""
    rows = [row for name in SETTLED for row in every_row(name)]
    marked = {row["image"] for row in rows if row["threat"] != "oblivious"}
    return tuple(
        View(image, split, image in marked) for image, split in {row["image"]: row["split"] for row in rows}.items()
    )


@pytest.mark.parametrize("name", SETTLED)
def test_a_study_asks_for_exactly_the_rows_that_are_there(name: str, views: tuple[View, ...]) -> None:
    """But for images without a defense that only a repeated attack was shown, which no row was kept of."""
    study = plan_of(name)
    defenses = tuple(p for spec in study.defenses if (p := parse_defense(spec)))
    jobs = Plan(study, views, {"udc": study.restorers}, defenses).jobs()
    asked = {key_of(job.identity(p) | {"draw": 0}): (job, p) for job in jobs for p in job.purifications}
    there = {key_of(row): row for row in every_row(name)}
    assert there.keys() <= asked.keys()
    assert all(asked[key][1] is None and asked[key][0].settings.resubmit for key in asked.keys() - there.keys())
    for key, row in there.items():
        job, purification = asked[key]
        assert job.named(purification).items() <= row.items() and row["kmac_per_pixel"] > 0
    assert Counter(view.split for view in views) == {"val": 36, "heldout": 44}
    assert Counter(view.split for view in views if view.adaptive) == {"val": 8, "heldout": 8}


@pytest.mark.parametrize("name", SETTLED)
def test_rows_belong_to_the_embedded_weights(name: str) -> None:
    about = results(f"{name}/run")
    used = {"restorer " + row["restorer"] for row in every_row(name)}
    assert used <= about["checkpoints"].keys()
    assert about["checkpoints"] == {key: checksum(EMBEDDED / key.replace(" ", "/")) for key in about["checkpoints"]}


def test_the_report_opens_committed_rows(tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="the extra `report` is not installed")
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    target = tmp_path / "page.html"
    assert main(["report", str(RESULTS / "detection"), "--out", str(target)]) == 0
    assert "is not finished" not in target.read_text(encoding="utf-8")


def test_where_rows_were_left_out_the_report_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(RESULTS / "evaluation" / "axon20")]) == 2
    assert "its rows were left out" in capsys.readouterr().err


def test_published_numbers_are_those_of_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert publish.write(publish.documents(), check=True) == 0, capsys.readouterr().err


def test_places_and_numbers_are_filled_and_nothing_else_changes() -> None:
    text = "It has <!--= one -->?<!--/--> dB.\n\n<!-- two -->\nold\n<!-- /two -->\nEnd.\n"
    filled = publish.fill(text, {"two": lambda: "new"}, {"one": "20.6"})
    assert filled == "It has <!--= one -->20.6<!--/--> dB.\n\n<!-- two -->\nnew\n<!-- /two -->\nEnd.\n"
    with pytest.raises(KeyError):
        publish.fill("<!--= three -->?<!--/-->", {}, {})


def test_every_fact_and_table_has_a_place() -> None:
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in publish.FILLED)
    unused = {name for name in publish.facts() if f"<!--= {name} -->" not in text}
    unused |= {name for name in tables.tables() if f"<!-- {name} -->" not in text}
    assert not unused


@pytest.mark.parametrize("file", ["ducd", "certification", "generalisation", "denoising", "noise_level", "cost"])
def test_other_results_belong_to_the_embedded_weights(file: str) -> None:
    embedded = {name: found for name, found in results(file)["checkpoints"].items() if "surrogate" not in name}
    assert embedded == {name: checksum(EMBEDDED / name.replace(" ", "/")) for name in embedded}


def test_the_purifiers_on_heldout_are_the_best_of_their_families_on_val() -> None:
    chosen = plan_of("purifiers").groups["chosen"]
    assert set(chosen) == {tables.best(family) for family in tables.families()}
    assert defenses_of(["default"])[0] in defenses_of(chosen[:14])


def test_every_embedded_restorer_was_evaluated_and_met_every_crop() -> None:
    evaluated: list[str] = []
    for panel in PANELS:
        run, summary = (results(f"evaluation/{panel}/{name}") for name in ("run", "summary"))
        assert (run["preset"], run["panel"], len(run["photos"])) == ("paper", panel, 44)
        assert run["checkpoints"] == {name: checksum(EMBEDDED / name.replace(" ", "/")) for name in run["checkpoints"]}
        evaluated += run["restorers"]
        for entry in summary["settings"]:
            dear = entry["threat"] != "oblivious" or entry["attack"] in ("cw", "simba")
            assert entry["images"] == (2 if entry["title"].startswith("EOT") else 8 if dear else 44)
    assert sorted(evaluated) == embedded_names("restorer")


def test_the_networks_of_one_panel_met_every_crop_of_val() -> None:
    found = results("panels")
    assert Counter(row["condition"] for row in found["rows"]) == {c.words: 36 for c in generalisation.PLAIN}
    assert {row["split"] for row in found["rows"]} == {"val"} and len(set(found["checkpoints"].values())) == 4


def test_every_system_was_certified_on_every_crop() -> None:
    """By the surrogate that was distilled, under every noise on val, and the chosen ones on held-out."""
    found = results("certification")
    assert results("ducd")["checkpoints"]["surrogate"] in found["checkpoints"].values()
    for system, chosen in found["chosen"].items():
        rows: list[dict[str, Any]] = [row for row in found["rows"] if row["system"] == system]
        val = Counter(json.dumps(row["noise"]) for row in rows if row["split"] == "val")
        heldout = Counter(json.dumps(row["noise"]) for row in rows if row["split"] == "heldout")
        asked = [found["protocol"]["fixed"], *(choice["noise"] for choice in chosen if choice["noise"])]
        assert val == {json.dumps(noise): 8 for noise in found["protocol"]["grid"]}
        assert heldout == {json.dumps(noise): 8 for noise in asked}
