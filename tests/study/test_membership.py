"""Membership inference: closed forms, and models that remember everything or nothing."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from study.measure import digits
from study.measure.membership import area, infer_membership
from udc_defense.errors import SettingError
from udc_defense.noise import seeded

RANDOM = np.random.default_rng(0)


class TestScores:
    def test_area_is_the_share_of_pairs_that_are_in_order(self) -> None:
        """Ties count half."""
        members, others = (RANDOM.integers(0, 6, count).astype(float) for count in (17, 23))
        pairs = [(a > b) + (a == b) / 2 for a in members for b in others]
        assert area(members, others) == pytest.approx(np.mean(pairs))
        assert area(others, members) == pytest.approx(1 - np.mean(pairs))

    def test_perfect_memory(self) -> None:
        found = infer_membership([3.0, 3.0, 4.0, 4.0], [0.0, 1.0, 2.0, 2.5])
        assert (found.auc, found.low, found.high, found.accuracy) == (1, 1, 1, 1)

    def test_no_memory(self) -> None:
        """Scores of one distribution: the interval holds 1/2, and a threshold chosen on one half fails on the other."""
        found = infer_membership(*RANDOM.normal(size=(2, 400)))
        assert found.low < 0.5 < found.high and abs(found.accuracy - 0.5) < 0.06

    def test_normal_scores(self) -> None:
        """Apart by one deviation: area Φ(1/√2), best balanced accuracy Φ(1/2)."""
        found = infer_membership(RANDOM.normal(1, 1, 4000), RANDOM.normal(0, 1, 4000), resamples=200)
        assert found.auc == pytest.approx(0.7602, abs=0.015) and found.accuracy == pytest.approx(0.6915, abs=0.02)
        assert found.low < 0.7602 < found.high and found.high - found.low < 0.03

    @pytest.mark.parametrize("members", [[1.0], [1.0, float("nan")], []])
    def test_too_few_or_not_finite(self, members: list[float]) -> None:
        with pytest.raises(SettingError, match=rf"^{len(members)} and 2 scores are not two sets"):
            infer_membership(members, [0.0, 1.0])


class TestModels:
    """A regression on random labels: with a weight per sample it remembers them, without a fit it knows nothing."""

    @staticmethod
    def errors(width: int, fitted: bool) -> tuple[list[float], list[float]]:
        inputs = torch.randn(80, width, generator=seeded(1), dtype=torch.float64)
        labels = torch.randn(80, 1, generator=seeded(2), dtype=torch.float64)
        weights = torch.linalg.lstsq(inputs[:40], labels[:40]).solution if fitted else torch.zeros(width, 1).double()
        scores = -(inputs @ weights - labels).abs().squeeze(1)
        return scores[:40].tolist(), scores[40:].tolist()

    def test_hopelessly_overfitted(self) -> None:
        assert infer_membership(*self.errors(width=40, fitted=True)).auc > 0.99

    def test_independent_of_the_data(self) -> None:
        found = infer_membership(*self.errors(width=40, fitted=False))
        assert found.low < 0.5 < found.high


def drawn_digits(count: int) -> tuple[Tensor, Tensor]:
    """Ten patterns of 64 pixels and a little noise: who knows one of a kind knows all, and no one of them by heart."""
    patterns = torch.rand(10, 64, generator=seeded(0))
    labels = torch.randint(10, (count,), generator=seeded(1))
    return (patterns[labels] + 0.05 * torch.randn(count, 64, generator=seeded(2))).clamp(0, 1), labels


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("MEMBERS", 100),
        ("WIDTH", 64),
        ("TARGET_STEPS", 150),
        ("SURROGATE_STEPS", 300),
        ("VOTES", 10),
    ):
        monkeypatch.setattr(digits, name, value)


class TestDigits:
    def test_distilling_logits_of_a_linear_classifier_is_exact(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """L1's optimum is the target itself, which the surrogate can represent."""
        monkeypatch.setattr(digits, "SURROGATE_STEPS", 1500)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            target, surrogate = nn.Linear(6, 4), nn.Linear(6, 4)
        queries = torch.randn(500, 6, generator=seeded(0))
        digits.distill_logits(surrogate, queries, target(queries).detach(), seeded(1))
        assert torch.allclose(surrogate.weight, target.weight, atol=1e-4)

    def test_votes_of_a_linear_classifier(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """P(x + σz > 0) = Φ(x/σ) for a classifier of the sign of one value."""
        monkeypatch.setattr(digits, "VOTES", 4000)

        class Sign(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.cat([-x, x, *(torch.full_like(x, -9) for _ in range(8))], dim=1)

        share = digits.votes(Sign(), torch.tensor([[0.0], [digits.SIGMA]]), seeded(0))
        assert torch.allclose(share[:, 1], torch.tensor([0.5, 0.8413]), atol=0.025)
        assert torch.allclose(share.sum(1), torch.ones(2))

    def test_margins(self) -> None:
        outputs = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
        assert digits.margins(outputs, torch.tensor([1, 0])) == [1.0, -2.0]

    def test_labels_without_meaning_are_remembered_by_the_target_alone(
        self, small: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Random labels cannot be guessed but by memory; the surrogate sees answers for other images only."""
        monkeypatch.setattr(digits, "TARGET_STEPS", 300)
        images = torch.rand(400, 64, generator=seeded(3))
        labels = torch.randint(10, (400,), generator=seeded(4))
        found = digits.measure_split(images, labels, seed=0)
        assert found["target"]["membership"]["auc"] > 0.98
        assert found["smoothed"]["membership"]["auc"] < found["target"]["membership"]["auc"] - 0.1
        assert found["target"]["accuracy"] < 0.35

    def test_what_is_easy_is_learnt_and_nothing_is_revealed(self, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(digits, "SPLITS", 2)
        monkeypatch.setattr(digits, "load_digits", lambda: drawn_digits(400))
        found = digits.measure()
        assert found["queries"] == (400 - 2 * 100) * digits.NOISY_COPIES and len(found["splits"]) == 2
        assert all(value > 0.95 for value in found["mean_accuracy"].values())
        assert all(abs(value - 0.5) < 0.1 for value in found["mean_auc"].values())
        difference = found["mean_auc"]["target"] - found["mean_auc"]["smoothed"]
        assert found["auc_of_target_over_smoothed"]["mean"] == pytest.approx(difference)
        assert json.loads(json.dumps(found)) == found
        assert digits.measure_split(*drawn_digits(400), seed=1) == found["splits"][1], "the seed decides everything"

    def test_scikit_learns_digits(self) -> None:
        pytest.importorskip("sklearn", reason="the extra `metrics` is not installed")
        images, labels = digits.load_digits()
        assert images.shape == (1797, 64) and images.min() == 0 and images.max() == 1
        assert labels.bincount().min() > 170

    def test_without_scikit_learn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn", None)
        with pytest.raises(SettingError, match=r'pip install "udc-defense\[metrics\]"'):
            digits.load_digits()
