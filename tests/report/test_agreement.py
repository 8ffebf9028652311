"""One run, one number: whatever is printed of a run's rows says the same, to the digit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from run_folder import write_run
from test_report import page_of

from udc_defense.evaluation.rows import read_run
from udc_defense.evaluation.summary import summarize

pytest.importorskip("jinja2", reason="the extra `report` is not installed")
pytest.importorskip("matplotlib", reason="the extra `report` is not installed")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Attackers who know the defense met two of four images, and every attack drew its own noise for clean ones."""
    folder = write_run(tmp_path_factory.mktemp("agreement") / "run")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["threat"] == "oblivious" or row["image"] in ("lake", "rocks")]
    for place, row in enumerate(kept):
        purifier = None if row["defense"] == "none" else {"sampler": "one_step", "noise_level": 10}
        row |= {
            "purifier": purifier,
            "objective": "mse",
            "options": {},
            "split": "val",
            "size": 24,
            "kmac_per_pixel": 12.3,
        }
        row["psnr"] = {
            stage: round(level + 0.37 * ((place * 7919 + len(stage)) % 10) * (stage[:8] in ("defended", "attacked")), 4)
            for stage, level in row["psnr"].items()
        }
        if row.get("search"):
            row["search"]["zero_gradients"] = 0
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    summary = summarize(read_run(folder)) | {"cost": []}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def shown(found: dict[str, Any], digits: int = 2) -> str:
    """As a cell has it."""
    text = f"{found['mean']:.{digits}f}"
    return text if found["low"] is None else f"{text} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def table_of(page: Any, name: str) -> dict[str, dict[str, str]]:
    """Numbers on the page, by defense and heading."""
    head, *rows = page.tables[name]
    cells = [[" ".join(cell.split()).replace("−", "-") for cell in row] for row in (head, *rows)]
    return {row[cells[0].index("Defense")]: dict(zip(cells[0], row, strict=True)) for row in cells[1:]}


def test_the_page_says_what_the_summary_says(run: Path) -> None:
    summary, page = json.loads((run / "summary.json").read_text()), page_of(run)
    headline, cost, sides = (table_of(page, name) for name in ("headline", "clean", "knowledge"))
    for found in summary["headline"]:
        row = headline[found["defense"]]
        assert row["Worst attack, dB"] == shown(found["psnr"])
        assert row["Without attack, dB"] == shown(found["clean"])
        assert row["Effective gain"] == shown(found["effective_gain"])
        assert row["kMAC per pixel"] == f"{found['kmac_per_pixel']:.1f}"
        assert (row["Attack"], int(row["Images"])) == (found["title"], found["psnr"]["images"])
    for found in summary["clean_cost"]:
        if found["defense"] != "none":
            assert cost[found["defense"]]["Cost, dB"] == shown(found["cost"])
    for found in summary["oblivious_and_adaptive"]:
        if found["defense"] != "none":
            row = sides[found["defense"]]
            assert row["Does not know it, dB"] == shown(found["oblivious"]["psnr"])
            assert row["Knows it, dB"] == shown(found["adaptive"]["psnr"])


def test_the_first_sentence_says_what_the_table_says(run: Path) -> None:
    summary, page = json.loads((run / "summary.json").read_text()), page_of(run)
    (found,) = (entry for entry in summary["headline"] if entry["defense"] == "default")
    kept = re.search(r"default keeps (\S+) dB \[95 %: (\S+), (\S+)\] of the (\S+) dB", page.words)
    numbers = (*(found["psnr"][end] for end in ("mean", "low", "high")), found["clean"]["mean"])
    assert kept is not None and kept.groups() == tuple(f"{number:.1f}" for number in numbers)


def test_attackers_are_compared_on_the_images_that_all_of_them_met(run: Path) -> None:
    """Who knows the defense met two images; on all four, an attack that does not know it may look worse."""
    summary = json.loads((run / "summary.json").read_text())
    for name in ("headline", "oblivious_and_adaptive"):
        for found in summary[name]:
            sides = [found] if name == "headline" else [found["oblivious"], found["adaptive"]]
            assert {side["psnr"]["images"] for side in sides if side} == {4 if found["defense"] == "none" else 2}
