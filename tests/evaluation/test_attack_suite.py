"""The protocol of every attack, its tables, and the flags that an evaluation raises against itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from udc_defense.attacks import ATTACKS
from udc_defense.evaluation import attack_suite, attack_tables, flags
from udc_defense.evaluation.attack_suite import ADAPTIVE, OBLIVIOUS
from udc_defense.evaluation.entry import Entry, rows_of
from udc_defense.evaluation.runner import CENTRE, Cell, Results, _identity
from udc_defense.photo.flags import randomised, zero_gradients
from udc_defense.photo.result import KEYS
from udc_defense.scenes import Crop

CROP = Crop("heldout", "a.hdr", "perspective", 0, 0, 80, adaptive=True)


def row(entry: Entry, crop: Crop, psnr: float, spread: float = 0.5) -> dict[str, Any]:
    """A row as the runner writes it, in which every image has the same PSNR."""
    settings = entry.settings(0)
    cell = Cell(settings, (entry.purification,), size=CENTRE)
    answers = {"mean": psnr, "std": spread, "worst": psnr - 2 * spread, "n": 8}
    return _identity(crop, cell, entry.purification) | {
        "psnr": dict.fromkeys(KEYS, psnr),
        "search": {"forwards": 21, "backwards": 20, "zero_gradients": 0, "best_loss": -psnr, "delta_rms": psnr / 10},
        "resubmission": {"defended_clean": answers, "defended_attacked": answers} if settings.resubmit else None,
    }


def results(psnr: dict[str, float] | None = None) -> Results:
    """One crop; 20 dB for every entry unless its title says otherwise."""
    rows = [row(entry, CROP, (psnr or {}).get(entry.title, 20.0)) for entry in (*OBLIVIOUS, *ADAPTIVE)]
    return Results("make results", 0, {}, {}, "", {}, rows)


class TestProtocol:
    def test_every_attack_is_in_it(self) -> None:
        assert {entry.attack for entry in OBLIVIOUS} == set(ATTACKS.names())
        assert {entry.attack for entry in ADAPTIVE} == set(ATTACKS.names()) - {"universal"}

    def test_lines_of_a_table_are_told_apart(self) -> None:
        assert len({entry.title for entry in OBLIVIOUS}) == len(OBLIVIOUS)
        assert len({(entry.title, entry.purification) for entry in ADAPTIVE}) == len(ADAPTIVE)

    def test_each_crop_meets_what_it_should(self, tmp_path: Path) -> None:
        crops = tmp_path / "crops.csv"
        lines = ["split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive"]
        lines += [
            f"{split},{split}.hdr,perspective,{yaw},0,80,,{yaw == 0:d}"
            for split in ("val", "heldout")
            for yaw in (0, 90)
        ]
        crops.write_text("\n".join(lines) + "\n")
        jobs = list(attack_suite.jobs(tmp_path, crops, None, 0))
        assert len(jobs) == 4 * len(OBLIVIOUS) + 2 * len(ADAPTIVE)
        assert len(set().union(*(job.keys() for job in jobs))) == len(jobs)
        (fitted,) = {job.cell.fitted_on for job in jobs if job.cell.settings.attack == "universal"}
        assert [crop.split for crop in fitted] == ["val", "val"], "held-out captures are never fitted on"
        assert {job.crop.split for job in attack_suite.jobs(tmp_path, crops, "heldout", 0)} == {"heldout"}

    def test_rows_are_found_by_what_they_are(self) -> None:
        found = results()
        for entry in (*OBLIVIOUS, *ADAPTIVE):
            assert len(rows_of(found, entry, "heldout")) == 1 and rows_of(found, entry, "val") == []


class TestTables:
    @pytest.mark.parametrize("table", [attack_tables.oblivious_table, attack_tables.adaptive_table])
    def test_one_line_per_entry_that_was_measured(self, table: Any) -> None:
        entries = OBLIVIOUS if table is attack_tables.oblivious_table else ADAPTIVE
        lines = table(results(), "heldout").splitlines()
        assert len(lines) == 2 + len(entries)
        assert len({line.count("|") for line in lines}) == 1
        assert len(table(results(), "val").splitlines()) == 2

    def test_the_smallest_change_is_a_median_and_says_how_many_reached_the_target(self) -> None:
        target = attack_suite.TARGET_PSNR
        (title,) = {entry.title for entry in OBLIVIOUS if entry.attack == "cw"}
        lines = attack_tables.smallest_table(results({title: target}), "heldout").splitlines()[2:]
        assert [line.split(" | ")[1:] for line in lines] == [[f"{target / 10:.2f}", "1", "1 |"]] * 3
        lines = attack_tables.smallest_table(results({title: target + 1}), "heldout").splitlines()[2:]
        assert all(line.endswith("| 0 | 1 |") for line in lines)

        assert attack_tables.smallest_table(results(), "val") == "Not measured yet."

    def test_the_verdict_names_the_strongest(self) -> None:
        text = attack_tables.verdict(results({"APGD-100": 11.0, "Square, 1000 queries": 15.0, "APGD-20": 17.0}))
        assert "APGD-100, leaves 11.0 dB" in text and "Square, 1000 queries, leaves 15.0 dB" in text
        assert "(APGD-20) brings it to 17.0 ± 0.50 dB, and to 16.0 dB" in text
        assert "No flag is raised" in text
        assert "Flags raised: black box beats white box, restorer" in attack_tables.verdict(
            results({"Square, 1000 queries": 5.0})
        )

    def test_the_verdict_says_where_the_defense_fails(self) -> None:
        words = "worse than no restoration at all"
        strong = attack_tables.verdict(results({"PGD-20, ε = 8": 12.0}))
        assert "12.0 dB at ε = 8: at 8 it is " + words in strong
        assert "nowhere is it " + words in attack_tables.verdict(results())

    def test_what_some_crops_lack_is_named_and_compared_with_nothing(self) -> None:
        found = results()
        other = [row(entry, replace(CROP, yaw=90), 20.0) for entry in (*OBLIVIOUS[1:], *ADAPTIVE)]
        partial = replace(found, rows=found.rows + other)
        assert OBLIVIOUS[0].title not in attack_tables.oblivious_table(partial, "heldout")
        assert attack_tables.verdict(partial).endswith(f"Not measured yet: {OBLIVIOUS[0].title}.")
        assert "Not measured yet" not in attack_tables.verdict(found)


class TestFlags:
    def test_zero_gradients(self) -> None:
        def rows(zeros: int) -> list[dict[str, Any]]:
            return [{"search": {"zero_gradients": zeros, "backwards": 20}}, {"search": None}]

        assert zero_gradients(rows(3)).raised and not zero_gradients(rows(0)).raised
        assert "3 of 20" in zero_gradients(rows(3)).words

    def test_black_box_beats_white_box(self) -> None:
        assert flags.black_box_wins({"pgd": 20.0, "fgsm": 25.0}, {"square": 19.0, "simba": 26.0}, "defense").raised
        assert not flags.black_box_wins({"pgd": 20.0}, {"square": 19.95}, "defense").raised

    @pytest.mark.parametrize(("series", "raised"), [((25, 20, 15), False), ((25, 20, 21), True), ((20, 20.05), False)])
    def test_more_must_hurt_more(self, series: tuple[float, ...], raised: bool) -> None:
        named = {str(i): float(value) for i, value in enumerate(series)}
        assert flags.more_does_not_hurt("ε", named).raised is raised

    def test_knowledge_must_help(self) -> None:
        assert flags.knowledge_does_not_help(20.0, 21.0).raised
        assert not flags.knowledge_does_not_help(20.0, 15.0).raised

    def test_randomised(self) -> None:
        def rows(std: float) -> list[dict[str, Any]]:
            return [
                {"resubmission": {"defended_attacked": {"mean": 20, "std": std, "worst": 20 - std, "n": 8}}},
                {"resubmission": None},
            ]

        assert randomised(rows(0.5)).raised and not randomised(rows(0.0)).raised
        assert "worst of 8 is 0.50 dB below" in randomised(rows(0.5)).words
