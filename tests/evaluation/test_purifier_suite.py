"""The protocol of the purifiers: who meets what, what an attacker can know, and the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from udc_defense.evaluation import per_photo_suite, purifier_comparison, purifier_suite, purifier_tables
from udc_defense.evaluation.entry import Entry
from udc_defense.evaluation.purifier_suite import (
    BARE,
    CHOSEN,
    EPSILONS,
    FAMILIES,
    PER_PHOTO,
    knowing,
    smallest,
)
from udc_defense.evaluation.runner import CENTRE, Cell, Job, Results, _identity, checkpoints_of
from udc_defense.photo.result import KEYS
from udc_defense.purification import Purification, evaluations
from udc_defense.scenes import Crop


def row(entry: Entry, psnr: dict[str, float], split: str = "val") -> dict[str, Any]:
    cell = Cell(entry.settings(0), (entry.purification,), size=CENTRE)
    crop = Crop(split, "a.hdr", "perspective", 0, 0, 80, adaptive=True)
    search = {"forwards": 21, "backwards": 20, "zero_gradients": 0, "best_loss": 0.1, "delta_rms": 1.25}
    return _identity(crop, cell, entry.purification) | {"psnr": dict.fromkeys(KEYS, 20.0) | psnr, "search": search}


def results(best: dict[str, Purification]) -> Results:
    """20 dB everywhere; 22 dB for one candidate of each family."""
    rows = [
        row(Entry("", "pgd", {"eps": eps}, purification), {"defended_attacked": 22.0 if chosen else 20.0})
        for family, candidates in FAMILIES.items()
        for purification in candidates
        for eps in EPSILONS
        for chosen in [purification == best[family]]
    ]
    rows += [row(knowing(purification), {"defended_attacked": 15.0}) for purification in CHOSEN.values()]
    rows += [row(smallest(purification), {"defended_attacked": 14.5}) for purification in CHOSEN.values()]
    return Results("make results", 0, {}, {}, "", {}, rows)


class TestProtocol:
    def test_candidates_of_a_family_are_told_apart(self) -> None:
        assert all(len(set(candidates)) == len(candidates) for candidates in FAMILIES.values())
        assert all(CHOSEN[family] in candidates for family, candidates in FAMILIES.items())

    def test_every_purifier_loads(self) -> None:
        for candidates in FAMILIES.values():
            assert getattr(candidates[0].load(), "evaluations", 0) == evaluations(candidates[0])

    @pytest.mark.parametrize(
        ("purification", "threat"),
        [
            (Purification("jpeg"), {"threat": "bpda"}),
            (Purification("gaussian_blur"), {"threat": "exact"}),
            (Purification("ddpm", 10), {"threat": "exact"}),
            (Purification("ddpm", 11), {"threat": "surrogate", "surrogate_steps": 10}),
            (Purification("one_step", 100, draws=8), {"threat": "exact"}),
        ],
    )
    def test_the_attacker_has_the_best_gradient_to_be_had(
        self, purification: Purification, threat: dict[str, Any]
    ) -> None:
        settings = knowing(purification).settings(0)
        assert {name: getattr(settings, name) for name in threat} == threat and settings.resubmit == 8

    def test_cw_differentiates_fewer_steps_of_a_surrogate(self) -> None:
        settings = smallest(Purification("ddpm", 30)).settings(0)
        assert (settings.threat, settings.surrogate_steps, settings.options["psnr"]) == ("surrogate", 2, 15.0)
        assert smallest(Purification("ddim", 30)).settings(0).threat == "exact"

    def test_each_crop_meets_what_it_should(self, tmp_path: Path) -> None:
        crops = tmp_path / "crops.csv"
        lines = ["split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive"]
        lines += [f"{split},{split}.hdr,perspective,0,0,80,,{i}" for split in ("val", "heldout") for i in (0, 1)]
        crops.write_text("\n".join(lines) + "\n")
        jobs = list(purifier_suite.jobs(tmp_path, crops, None, 0))
        grid = {p for candidates in FAMILIES.values() for p in candidates}
        wide = [job for job in jobs if set(job.cell.purifications) == grid]
        assert [job.crop.split for job in wide] == ["val", "val"], "choices are made on val"
        made_for_one = [job for job in jobs if job.cell.settings.threat != "oblivious"]
        assert all(job.crop.adaptive and len(job.cell.purifications) == 1 for job in made_for_one)
        oblivious = [job for job in jobs if job.cell.settings.threat == "oblivious"]
        met = [(job.crop, job.cell.settings.eps, p) for job in oblivious for p in job.cell.purifications]
        assert len(set(met)) == len(met), "nothing is measured twice"
        assert set(CHOSEN.values()) <= {
            p for job in jobs if job.crop.split == "heldout" for p in job.cell.purifications
        }
        assert len({job.cell.settings.eps for job in jobs if job.cell.settings.attack == "pgd"}) == 4

    def test_weights_of_a_run_are_those_that_its_purifiers_take(self) -> None:
        crop = Crop("val", "a.hdr", "perspective", 0, 0, 80, adaptive=False)
        settings = Entry("", "pgd").settings(0)

        def sums(*faced: Purification) -> set[str]:
            return set(checkpoints_of([Job(crop, "", Cell(settings, faced))]))

        assert sums(Purification("jpeg")) == {"restorer default"}
        assert sums(Purification("one_step", 5), Purification("jpeg")) == {"restorer default", "purifier diffusion"}
        guided = Purification("ddpm", 5, guide="feature", guidance=1.0)
        assert sums(guided) == {"restorer default", "purifier diffusion", "guide default"}


class TestPerPhoto:
    def test_the_attacker_knows_the_choice_too(self, tmp_path: Path) -> None:
        crops = tmp_path / "crops.csv"
        lines = ["split,path,kind,yaw_deg,pitch_deg,fov_deg,box,adaptive", "val,a.hdr,perspective,0,0,80,,1"]
        crops.write_text("\n".join(lines) + "\n")
        jobs = list(per_photo_suite.jobs(tmp_path, crops, None, 0))
        assert all(job.cell.purifications == (PER_PHOTO,) for job in jobs)
        known = [job.cell.settings for job in jobs if job.cell.settings.threat == "exact"]
        assert [settings.evade for settings in known] == [False, True]
        assert {job.cell.settings.eps for job in jobs} == set(EPSILONS)


class TestTables:
    def test_best_is_the_highest_under_attack_on_val(self) -> None:
        best = {family: candidates[0] for family, candidates in FAMILIES.items()}
        assert {family: purifier_suite.best(results(best), family) for family in FAMILIES} == best

    def test_what_is_not_measured_is_left_empty(self) -> None:
        cost = {"rows": []}
        lines = purifier_tables.table(results(CHOSEN), cost, "val").splitlines()
        assert lines[2] == "| none | 20.00 | 20.00 | 20.00 | 20.00 |  |  |  |  | 0 | 0 | 0 |"
        assert lines[3] == "| bit depth, 3 | 20.00 | 22.00 | 22.00 | 22.00 | 15.00 | bpda | 1.25 | 14.50 |  |  |  |"
        assert len(lines) == 3 + len(FAMILIES)

    def test_who_attacks_the_restorer_alone_knows_all_there_is(self) -> None:
        found = results(CHOSEN)
        found.rows.append(row(BARE, {"attacked_restored": 15.5}))
        line = purifier_tables.table(found, {"rows": []}, "val").splitlines()[2]
        assert line == "| none | 20.00 | 20.00 | 20.00 | 20.00 | 20.00 | exact | 1.25 | 15.50 | 0 | 0 | 0 |"

    def test_the_figure_is_the_same_for_the_same_numbers(self) -> None:
        pytest.importorskip("matplotlib")
        rows = [{"family": family, "milliseconds_per_megapixel": 10.0 + i} for i, family in enumerate(CHOSEN)]
        first, second = (purifier_tables.figure(results(CHOSEN), {"rows": rows}, "val") for _ in range(2))
        assert first == second and "milliseconds per megapixel" in first


class TestComparison:
    def test_plain_transforms_are_compared_at_equal_clean_psnr(self) -> None:
        strengths = dict(
            zip(FAMILIES["Gaussian blur"], [(28.0, 15.0), (27.0, 17.0), (26.0, 21.0), (25.0, 22.0)], strict=True)
        )
        rows = [
            row(Entry("", "pgd", {"eps": 4.0}, p), {"defended_clean": clean, "defended_attacked": attacked})
            for p, (clean, attacked) in strengths.items()
        ]
        found = Results("make results", 0, {}, {}, "", {}, rows)
        at = [purifier_comparison.at_clean_psnr(found, "Gaussian blur", clean) for clean in (28.5, 27.0, 26.5, 24.9)]
        assert at == [None, pytest.approx(17.0), pytest.approx(19.0), None]

    def test_the_verdict_names_who_is_ahead_and_where(self) -> None:
        """DDPM is behind; JPEG is ahead on clean captures, bit depth under the attacker who knows it."""
        rows = []
        for family, purification in CHOSEN.items():
            special = {"trained one step": (27, 25, 20), "JPEG": (28, 24, 12), "bit depth": (26, 16, 21)}
            clean, left, known = special.get(family, (26.5, 24.5, 19))
            for split in ("val", "heldout"):
                scores = {"defended_clean": float(clean), "defended_attacked": float(left)}
                rows.append(row(Entry("", "pgd", {"eps": 4.0}, purification), scores, split))
                rows.append(row(knowing(purification), {"defended_attacked": float(known)}, split))
        others = [p for family in FAMILIES.values() for p in family if p not in CHOSEN.values()]
        rows += [row(Entry("", "pgd", {"eps": 4.0}, p), {}) for p in others]
        cost = {"rows": [{"family": f, "milliseconds_per_megapixel": 10.0} for f in CHOSEN]}
        cost["rows"][list(CHOSEN).index(purifier_comparison.SLOW)]["milliseconds_per_megapixel"] = 300.0
        text = purifier_comparison.verdict(Results("", 0, {}, {}, "", {}, rows), cost)
        assert "keeps 25.0 dB of 27.0 dB" in text and "and 20.0 dB under who differentiates it" in text
        assert "1/30.0 of the time of DDPM" in text
        assert "on clean captures: JPEG (28.0); under who does not know it: none" in text
        assert "under who knows it: bit depth (21.0)." in text
        assert f"ahead of all {len(set(CHOSEN.values())) - 1} others but 1." in text
