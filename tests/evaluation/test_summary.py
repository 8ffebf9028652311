"""The honesty list of rows whose numbers are chosen."""

from __future__ import annotations

from dataclasses import asdict
from math import log10
from statistics import fmean
from typing import Any

import pytest

from udc_defense.evaluation.rows import interval
from udc_defense.evaluation.summary import summarize, worst_setting
from udc_defense.photo.result import KEYS
from udc_defense.photo.settings import Settings
from udc_defense.purification import Purification

DEFENSE = Purification("one_step", 30, draws=8)


def rows(
    title: str,
    attacked: list[float],
    *,
    purification: Purification | None = DEFENSE,
    zeros: int = 0,
    asked: bool = False,
    noise: float = 29.0,
    **changes: Any,
) -> list[dict[str, Any]]:
    """One row per attacked image; clean 30 dB, defended 28 dB, captured 20 dB."""
    settings = {name: value for name, value in asdict(Settings(**changes)).items() if name != "seed"}
    stage = "defended_attacked" if purification else "attacked_restored"
    spread = {"mean": 27.0, "std": 0.5, "worst": 26.0, "n": 4}
    found = []
    for index, value in enumerate(attacked):
        psnr = dict.fromkeys(KEYS) | {"captured": 20.0, "restored": 30.0, "noise_restored": noise, stage: value}
        found.append(
            {
                "split": "a",
                "image": str(index),
                "size": 8,
                "restorer": "r",
                "degradation": "udc",
                "draw": 0,
                "title": title,
            }
            | settings
            | {
                "purifier": purification and purification.facts(),
                "defense": "d" if purification else "none",
                "trivial": False,
                "psnr": psnr | ({"defended_clean": 28.0} if purification else {}),
                "search": {"forwards": 20, "backwards": 10, "zero_gradients": zeros},
                "seconds": {"attack": 2.0},
                "peak_memory_mb": 100.0,
                "resubmission": dict.fromkeys(("defended_clean", "defended_attacked"), spread) if asked else None,
            }
        )
    return found


def flags_of(found: list[dict[str, Any]], defense: str = "d") -> dict[str, bool]:
    return {flag["check"]: flag["raised"] for flag in summarize(found)["flags"] if flag["defense"] == defense}


OBLIVIOUS = rows("PGD", [26.0, 27.0, 28.0], asked=True)
EXACT = rows("PGD, exact", [21.0, 25.0, 26.0], threat="exact")
BPDA = rows("PGD, bpda", [24.0, 24.0, 23.0], threat="bpda")
SQUARE = rows("Square", [25.0, 25.5, 26.0], attack="square", threat="exact")


class TestCertified:
    def bounded(self, *attacked: float, **changes: Any) -> list[dict[str, Any]]:
        found = rows("PGD", list(attacked), purification=None, **changes)
        return [row | {"lipschitz": 1.5} for row in found]

    def test_the_floor_is_that_of_the_gain(self) -> None:
        (found,) = summarize(self.bounded(27.0, 26.0))["certified"]
        assert found["lipschitz"] == 1.5 and (found["restorer"], found["defense"]) == ("r", "none")
        for eps, shown in found["psnr"].items():
            expected = -20 * log10(10 ** (-30 / 20) + 1.5 * float(eps) / 255)
            assert (shown["mean"], shown["images"]) == (pytest.approx(expected, abs=1e-3), 2)
        assert list(found["psnr"]) == ["1", "2", "4", "8"]

    def test_of_others_nothing_is_certified(self) -> None:
        assert summarize(OBLIVIOUS)["certified"] == []
        assert "an attack breaks the certificate" not in flags_of(OBLIVIOUS)

    @pytest.mark.parametrize(("margin", "raised"), [(0.01, False), (-0.01, True)])
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_an_attack_that_gets_below_it_is_flagged(self, margin: float, raised: bool, norm: str) -> None:
        floor = -20 * log10(10 ** (-30 / 20) + 1.5 * 4 / 255)
        found = flags_of(self.bounded(29.0, floor + margin, norm=norm), "none")
        assert found["an attack breaks the certificate"] is raised


class TestHeadline:
    def test_it_is_the_worst_of_all_threats(self) -> None:
        (headline,) = summarize(OBLIVIOUS + EXACT + BPDA + SQUARE)["headline"]
        assert (headline["title"], headline["threat"]) == ("PGD, bpda", "bpda")
        expected = interval({"0": 24.0, "1": 24.0, "2": 23.0})
        assert expected is not None
        assert headline["psnr"] == pytest.approx(
            {"mean": expected.mean, "low": expected.low, "high": expected.high, "images": 3}, abs=1e-3
        )
        assert headline["worst_attack_on_each_image"] == fmean([21.0, 24.0, 23.0])
        assert (headline["clean"]["mean"], headline["noise"]["mean"], headline["captured"]["mean"]) == (28, 29, 20)

    @pytest.mark.parametrize(
        "other",
        [
            rows("larger", [5.0] * 3, threat="exact", eps=8.0),
            rows("another norm", [5.0] * 3, threat="exact", norm="l2"),
            rows("EOT: 8", [5.0] * 3, threat="exact", draws=8),
            [row | {"draw": 1, "psnr": {"defended_attacked": 5.0}} for row in EXACT],
        ],
        ids=lambda other: other[0]["title"],
    )
    def test_what_does_not_compare_is_left_out(self, other: list[dict[str, Any]]) -> None:
        found = EXACT + OBLIVIOUS + other
        assert [h["title"] for h in summarize(found)["headline"]] == ["PGD, exact"]
        assert worst_setting(found, degradation="udc", restorer="r", defense="d") == EXACT

    def test_settings_are_compared_on_the_images_that_all_have_met(self) -> None:
        """What takes long meets few images; on all of its own, BPDA would be the worst."""
        few = rows("PGD, exact", [25.0, 25.0], threat="exact", steps=7)
        many = rows("PGD, bpda", [26.0, 26.0, 5.0], threat="bpda")
        (headline,) = summarize(few + many)["headline"]
        assert headline["title"] == "PGD, exact" and headline["psnr"]["images"] == 2

    def test_without_a_defense_it_is_what_the_restorer_makes(self) -> None:
        (headline,) = summarize(rows("PGD", [15.0, 16.0], purification=None))["headline"]
        assert (headline["psnr"]["mean"], headline["clean"]["mean"], headline["defense"]) == (15.5, 30.0, "none")


def test_oblivious_beside_adaptive_and_clean_cost() -> None:
    summary = summarize(OBLIVIOUS + EXACT)
    (sides,) = summary["oblivious_and_adaptive"]
    assert (sides["oblivious"]["psnr"]["mean"], sides["adaptive"]["psnr"]["mean"]) == (27.0, 24.0)
    assert summary["clean_cost"][0]["cost"]["mean"] == 2.0


def test_a_clean_image_has_the_mean_of_all_its_answers() -> None:
    lucky = [row | {"psnr": row["psnr"] | {"defended_clean": 29.0}} for row in rows("4", [27.0], steps=4)]
    summary = summarize(lucky + rows("5", [27.0, 26.0], steps=5))
    assert summary["clean_cost"][0]["cost"]["mean"] == pytest.approx(((30 - 28.5) + (30 - 28)) / 2)
    assert summary["headline"][0]["clean"]["mean"] == 28.5  # of the image that both attacks met


def test_effective_gain_is_taken_of_each_image() -> None:
    """RMSE 0.1 and 0.01 of 20 and 40 dB: not that of their mean."""
    (headline,) = summarize(rows("PGD", [20.0, 40.0], threat="exact"))["headline"]
    clean = 10 ** (-28 / 20)
    expected = fmean((error - clean) * 255 / 4 for error in (0.1, 0.01))
    assert headline["effective_gain"]["mean"] == pytest.approx(expected, abs=1e-4)


class TestFlags:
    def test_an_honest_defense_raises_none(self) -> None:
        found = OBLIVIOUS + EXACT + rows("PGD, bpda", [25.0] * 3, threat="bpda") + SQUARE
        raised = flags_of(found)
        assert raised.pop("randomised") and len(raised) > 3 and not any(raised.values())

    def test_going_around_the_gradient_is_better_than_following_it(self) -> None:
        assert flags_of(OBLIVIOUS + EXACT + BPDA)["masked gradient"]
        assert "masked gradient" not in flags_of(OBLIVIOUS + BPDA)
        assert flags_of(rows("PGD, bpda", [24.0], purification=Purification("jpeg"), threat="bpda"))["masked gradient"]

    def test_zero_gradients(self) -> None:
        assert flags_of(EXACT + rows("0", [26.0] * 3, threat="exact", steps=5, zeros=1))["zero gradients"]

    def test_a_black_box_that_wins(self) -> None:
        won = rows("Square", [20.0] * 3, attack="square", threat="exact")
        assert flags_of(EXACT + won)["black box beats white box, defense"]

    def test_knowing_the_defense_does_not_help(self) -> None:
        assert flags_of(rows("PGD", [20.0] * 3) + EXACT)["knowing the defense does not help"]

    @pytest.mark.parametrize(("last", "raised"), [(15.0, False), (25.5, True)])
    def test_radii_and_the_largest_one(self, last: float, raised: bool) -> None:
        found = EXACT + rows("64", [last] * 3, threat="exact", eps=64.0)
        assert flags_of(found)["more ε (exact) does not hurt more"] is raised
        assert flags_of(found)["a large radius does not break it"] is raised

    @pytest.mark.parametrize(("first", "raised"), [(26.0, False), (22.0, True)])
    def test_steps_and_fgsm_is_one(self, first: float, raised: bool) -> None:
        found = EXACT + rows("FGSM", [first] * 3, attack="fgsm", threat="exact")
        assert flags_of(found)["more steps (exact) does not hurt more"] is raised

    @pytest.mark.parametrize(("last", "raised"), [(24.0, False), (22.0, True)])
    def test_draws_per_gradient(self, last: float, raised: bool) -> None:
        series = [rows(f"EOT: {k}", [v] * 2, threat="exact", draws=k, steps=3) for k, v in ((1, 24.0), (4, last))]
        assert flags_of(EXACT + series[0] + series[1])["more draws per gradient hurt more"] is raised

    @pytest.mark.parametrize(("noise", "raised"), [(29.0, False), (14.0, True)])
    def test_random_noise_of_the_same_norm(self, noise: float, raised: bool) -> None:
        found = rows("PGD", [15.0, 16.0], purification=None, noise=noise)
        assert flags_of(found, "none")["attack no better than noise"] is raised

    def test_answers_that_vary(self) -> None:
        assert flags_of(OBLIVIOUS + EXACT)["randomised"] and "randomised" not in flags_of(EXACT)
