"""The paired interval over images: constant differences, coverage, and images as clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from udc_defense.errors import SettingError
from udc_defense.evaluation.bootstrap import bootstrap_difference


def test_a_constant_difference_is_certain() -> None:
    second = np.random.default_rng(0).normal(size=(7, 3))
    assert bootstrap_difference(second + 2, second) == pytest.approx((2, 2, 2))


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    random, truth = np.random.default_rng(1), 0.3
    found = [
        bootstrap_difference(random.normal(truth, 1, (40, 1)), np.zeros((40, 1)), resamples=500, confidence=0.8)
        for _ in range(500)
    ]
    assert 0.74 < np.mean([low <= truth <= high for _, low, high in found]) < 0.85


def test_conditions_of_an_image_are_drawn_together() -> None:
    """Repeated conditions say nothing new: the interval is that of one, and as wide as σ/√n says."""
    each = np.random.default_rng(2).normal(size=(50, 1))
    one = bootstrap_difference(each, 0 * each)
    four = bootstrap_difference(each.repeat(4, axis=1), 0 * each.repeat(4, axis=1))
    assert four == pytest.approx(one)
    assert one.high - one.low == pytest.approx(2 * 1.96 * each.std() / 50**0.5, rel=0.05)


def test_pairs_stay_together() -> None:
    """Images differ far more from each other than the two defenses do."""
    images = 30 * np.random.default_rng(3).normal(size=(20, 1))
    first = images + np.random.default_rng(4).normal(1, 0.1, (20, 5))
    found = bootstrap_difference(first, images.repeat(5, axis=1))
    assert 0.9 < found.low < found.mean < found.high < 1.1


def test_the_seed_decides_and_more_confidence_is_wider() -> None:
    first, second = np.random.default_rng(5).normal(size=(2, 12, 4))
    found = bootstrap_difference(first, second, seed=1)
    assert found == bootstrap_difference(first, second, seed=1) != bootstrap_difference(first, second, seed=2)
    assert found.mean == pytest.approx((first - second).mean())
    wider = bootstrap_difference(first, second, seed=1, confidence=0.99)
    assert wider.low < found.low < found.mean < found.high < wider.high


@pytest.mark.parametrize(
    ("first", "second", "options", "words"),
    [
        (np.zeros((3, 2)), np.zeros((3, 1)), {}, r"\(3, 2\) and \(3, 1\)"),
        (np.zeros(3), np.zeros(3), {}, r"\(3,\)"),
        (np.zeros((1, 5)), np.zeros((1, 5)), {}, "2 images"),
        (np.zeros((3, 0)), np.zeros((3, 0)), {}, r"\(3, 0\)"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), {}, "not all finite"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"resamples": 0}, "0 resamples"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"confidence": 1.0}, "confidence 1"),
    ],
)
def test_bad_input_gets_one_sentence(first: Any, second: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        bootstrap_difference(first, second, **options)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
