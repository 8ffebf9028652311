"""What the tables of the black-box distillation say of known results."""

from __future__ import annotations

from typing import Any

import pytest

from udc_defense.evaluation import ducd_tables


def results(fidelity: float) -> dict[str, Any]:
    area = {"auc": 0.61, "low": 0.55, "high": 0.67, "accuracy": 0.6}
    models = {name: {"psnr": area, "gain": area | {"auc": 0.5}} for name in ducd_tables.MODELS}
    return {
        "distillation": {
            "queries": 20_000,
            "scenes": 47,
            "size": 128,
            "fidelity": {"mean": fidelity, "worst": 29.0},
            "fidelity_256": {"mean": 34.0, "worst": 28.0},
        },
        "transfer": {"clean": 28.0, "noise": 27.5, "transferred": 22.0, "white_box": 18.0, "share": 0.6},
        "membership": {"members": 47, "others": 36} | models,
        "digits": {
            "members": 150,
            "queries": 11_976,
            "mean_auc": {"target": 0.62, "surrogate": 0.58, "smoothed": 0.55},
            "mean_accuracy": {"target": 0.9, "surrogate": 0.89, "smoothed": 0.88},
            "auc_of_target_over_smoothed": {"mean": 0.07, "low": 0.05, "high": 0.09},
            "splits": [{}] * 10,
        },
    }


@pytest.mark.parametrize(("fidelity", "words"), [(36.2, "reached"), (33.9, "missed")])
def test_the_verdict_says_whether_the_goal_is_reached(fidelity: float, words: str) -> None:
    text = ducd_tables.verdict(results(fidelity))
    assert f"{fidelity} dB (worst 29.0; at 256² 34.0)" in text and f"the goal of 35 dB is {words}" in text
    assert "20,000 answers" in text and "takes 6.0 dB from the target, 60% of" in text and "(10.0 dB)" in text
    assert text.endswith("random noise of that size takes 0.5 dB.")


def test_a_line_per_model() -> None:
    lines = ducd_tables.membership_table(results(36.0)).splitlines()
    assert lines[2] == "| the capture (control) | 0.61 (0.55 to 0.67) |  |"
    assert lines[3] == "| target | 0.61 (0.55 to 0.67) | 0.50 (0.55 to 0.67) |" and len(lines) == 6


def test_the_published_setting() -> None:
    text = ducd_tables.digits_table(results(36.0))
    assert "| surrogate, smoothed | 88.0% | 0.550 |" in text
    assert text.endswith("10 splits; the smoothed surrogate takes 0.070 (95 % 0.050 to 0.090) off the area.")
