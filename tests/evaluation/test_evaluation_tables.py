"""What the tables say of the summaries of an evaluation."""

from __future__ import annotations

from typing import Any

import pytest
from test_summary import rows

from udc_defense.evaluation import evaluation_tables as tables
from udc_defense.evaluation.summary import summarize


@pytest.fixture(scope="module")
def summaries() -> tables.Summaries:
    """Two restorers on one panel, one on another."""
    return {"axon20": summarize(evaluated(a=12.0, b=22.0)), "toled": summarize(evaluated(c=15.0))}


def evaluated(**left: float) -> list[dict[str, Any]]:
    """PSNR that PGD leaves each restorer of the first of two images; those of the others meet this image alone."""
    found = []
    for restorer, value in left.items():
        own = rows("PGD-20", [value, value + 1], purification=None)
        own += rows("PGD-20", [26.0, 27.0]) + rows("PGD-20, exact", [value + 6, value + 7], threat="exact")
        found += [row | {"restorer": restorer, "defense": row["defense"].replace("d", "default")} for row in own]
        for other in left.keys() - {restorer}:
            transferred = rows(f"PGD-20, made on {other}", [25.0], purification=None)
            found += [row | {"restorer": restorer, "made_on": other} for row in transferred]
    return found


def test_a_line_per_restorer_and_defense(summaries: tables.Summaries) -> None:
    lines = tables.headline_table(summaries).splitlines()
    assert len(lines) == 2 + 6 and len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| `a` | axon20 | none | 20.00 | 30.00 | 29.00 | 12.50 (PGD-20) |  | 2 |"
    assert lines[3] == "| `a` | axon20 | default | 20.00 | 28.00 | 29.00 | 26.50 (PGD-20) | 18.50 (PGD-20, exact) | 2 |"
    assert lines[6].startswith("| `c` | toled | none |")
    assert tables.headline_table(summaries, "c").splitlines() == [*lines[:2], *lines[6:]]


def test_the_verdict_counts_who_ends_below_the_capture(summaries: tables.Summaries) -> None:
    text = tables.verdict(summaries)
    assert "2 of 3 embedded restorers end below the capture" in text and "(12.5 to 22.5 dB), and 1 behind" in text
    assert "(18.5 to 26.5 dB; means over 2 held-out crops of 128²). " in text
    best = "the restorer `b` behind the defense `default` keeps most, 26.5 dB; on clean captures it has 28.0 dB."
    assert text.endswith(f"On captures of `axon20` {best}")


def test_what_was_made_on_another_restorer_is_told_of_the_images_that_met_it(summaries: tables.Summaries) -> None:
    lines = tables.transfer_table(summaries).splitlines()
    assert lines[0] == "| attacked on | a | b | crops |"
    assert lines[2:] == ["| a | 12.00 | 25.00 | 1 |", "| b | 25.00 | 22.00 | 1 |"]


def test_only_raised_flags_are_shown(summaries: tables.Summaries) -> None:
    lines = tables.flags_table(summaries).splitlines()
    raised = [flag for summary in summaries.values() for flag in summary["flags"] if flag["raised"]]
    assert len(lines) == 2 + len(raised)
