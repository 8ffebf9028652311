"""What the tables say of the summary of an evaluation."""

from __future__ import annotations

from typing import Any

import pytest
from test_summary import rows

from udc_defense.evaluation import evaluation_tables as tables
from udc_defense.evaluation.summary import summarize


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    found = []
    for restorer, left in (("a", 12.0), ("b", 22.0)):
        own = rows("PGD-20", [left, left + 1], purification=None)
        own += rows("PGD-20", [26.0, 27.0]) + rows("PGD-20, exact", [left + 6, left + 7], threat="exact")
        found += [row | {"restorer": restorer, "defense": row["defense"].replace("d", "default")} for row in own]
        other = "b" if restorer == "a" else "a"
        transferred = rows(f"PGD-20, made on {other}", [25.0, 25.0], purification=None)
        found += [row | {"restorer": restorer, "made_on": other} for row in transferred]
    return summarize(found)


def test_a_line_per_restorer_and_defence(summary: dict[str, Any]) -> None:
    lines = tables.headline_table(summary).splitlines()
    assert len(lines) == 2 + 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| a | none | 20.00 | 30.00 | 29.00 | 12.50 (PGD-20) |  | 2 |"
    assert lines[3] == "| a | default | 20.00 | 28.00 | 29.00 | 26.50 (PGD-20) | 18.50 (PGD-20) | 2 |"


def test_the_verdict_counts_who_ends_below_the_capture(summary: dict[str, Any]) -> None:
    text = tables.verdict(summary)
    assert "1 of 2 embedded restorers end below the capture" in text and "(12.5 to 22.5 dB), and 1 behind" in text
    assert "(18.5 to 26.5 dB; means over 2 and 2 held-out crops of 128²)." in text


def test_what_was_made_on_another_restorer(summary: dict[str, Any]) -> None:
    lines = tables.transfer_table(summary).splitlines()
    assert lines[0] == "| attacked on | a | b |"
    assert lines[2:] == ["| a | 12.50 | 25.00 |", "| b | 25.00 | 22.50 |"]


def test_only_raised_flags_are_shown(summary: dict[str, Any]) -> None:
    lines = tables.flags_table(summary).splitlines()
    raised = [flag for flag in summary["flags"] if flag["raised"]]
    assert len(lines) == 2 + len(raised)
