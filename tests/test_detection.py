"""The score that purification gives, its threshold, its ROC, and the attacker who evades it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_models import inside

from udc_defense import attacks
from udc_defense.checkpoints.load import checkpoint_sums, load_restorer
from udc_defense.defense import Defense
from udc_defense.detection import Detector, Evading, calibrated, difference, roc, threshold
from udc_defense.errors import SettingError
from udc_defense.noise import Generators, seeded
from udc_defense.photo import stages
from udc_defense.photo.result import Result
from udc_defense.photo.settings import Settings
from udc_defense.purification import DEFAULT, Purification
from udc_defense.scenes import scene_from_photo


class Smoother(nn.Module):
    """A purifier that takes away what differs from the mean of 2 × 2 blocks."""

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        small = nn.functional.avg_pool2d(image, 2)
        return nn.functional.interpolate(small, scale_factor=2)


class Doubler(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return 2 * image


@pytest.fixture
def detector() -> Detector:
    return Detector(Defense(Doubler(), Smoother()))


def blocks(*shape: int) -> Tensor:
    """An image that the purifier leaves as it is."""
    small = inside(shape[0], shape[1], shape[2] // 2, shape[3] // 2)
    return nn.functional.interpolate(small, scale_factor=2)


class TestScore:
    def test_it_is_the_difference_of_the_two_restorations_in_db(self, detector: Detector) -> None:
        image = blocks(2, 3, 8, 8)
        checker = torch.ones(8, 8, dtype=torch.float64)
        checker[::2, ::2] = checker[1::2, 1::2] = -1
        attacked = image + 0.01 * checker * torch.tensor([1.0, 10.0], dtype=torch.float64).view(2, 1, 1, 1)
        assert detector(image).tolist() == [-100.0, -100.0]
        assert detector(attacked).tolist() == pytest.approx([20 * np.log10(0.02), 20 * np.log10(0.2)])

    def test_it_is_differentiable(self, detector: Detector) -> None:
        image = inside(1, 3, 8, 8).requires_grad_(True)
        (gradient,) = torch.autograd.grad(detector(image).sum(), image)
        assert gradient.abs().max() > 0 and torch.isfinite(gradient).all()

    def test_equal_images_have_a_gradient_without_nan(self) -> None:
        image = inside(1, 3, 4, 4).requires_grad_(True)
        (gradient,) = torch.autograd.grad(difference(image, image.detach()).sum(), image)
        assert torch.equal(gradient, torch.zeros_like(image))

    def test_a_defense_without_a_purifier_detects_nothing(self) -> None:
        with pytest.raises(SettingError, match=r"no purifier\.$"):
            Detector(Defense(Doubler()))


class TestThreshold:
    @pytest.mark.parametrize(("count", "share", "rank"), [(19, 0.05, 19), (99, 0.05, 95), (9, 0.5, 5)])
    def test_it_is_the_conformal_quantile(self, count: int, share: float, rank: int) -> None:
        scores = np.random.default_rng(0).permutation(np.arange(1.0, count + 1)).tolist()
        assert threshold(scores, share) == rank

    def test_false_alarms_stay_below_the_share(self) -> None:
        """Over many calibrations, on fresh scores: 10 % at most, and not far less."""
        random = np.random.default_rng(0)
        alarms = [random.normal() > threshold(random.normal(size=49).tolist(), 0.1) for _ in range(4000)]
        assert 0.08 < np.mean(alarms) < 0.115

    @pytest.mark.parametrize(("count", "share"), [(18, 0.05), (0, 0.5), (10, 0.0), (10, 1.0), (10, float("nan"))])
    def test_what_cannot_be_is_refused_in_one_sentence(self, count: int, share: float) -> None:
        with pytest.raises(SettingError) as caught:
            threshold([1.0] * count, share)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


class TestRoc:
    def test_separated_scores(self) -> None:
        found = roc([1, 2, 3], [4, 5])
        assert found.area == 1 and (0.0, 1.0) in list(zip(found.false_alarms, found.detections, strict=True))

    def test_equal_scores_are_chance(self) -> None:
        assert roc([1, 2], [1, 2]).area == 0.5

    def test_the_area_is_that_under_the_curve(self) -> None:
        random = np.random.default_rng(1)
        clean, attacked = random.integers(0, 9, 40).tolist(), random.integers(3, 12, 30).tolist()
        found = roc(clean, attacked)
        assert found.false_alarms[0] == found.detections[0] == 0 and found.false_alarms[-1] == found.detections[-1] == 1
        assert found.area == pytest.approx(np.trapezoid(found.detections, found.false_alarms))

    def test_nothing_has_no_curve(self) -> None:
        with pytest.raises(SettingError, match=r"needs scores"):
            roc([], [1.0])


class TestEvading:
    def test_the_attacker_who_knows_stays_below_the_threshold_and_still_does_damage(self, detector: Detector) -> None:
        """Checkers are what the purifier removes: the evading δ is smooth, the naive one is not."""
        image = blocks(2, 3, 8, 8)
        clean, limit = 2 * image, -40.0
        evading = Evading(detector, limit, seeded(0))
        options = {"eps": 0.05, "steps": 60}
        naive = attacks.pgd(Doubler(), image, clean, generator=seeded(1), **options).image
        aware = attacks.pgd(evading, image, clean, objective=evading.damage, generator=seeded(1), **options).image
        assert (detector(naive) > limit + 6).all()
        assert (detector(aware) < detector(naive) - 6).all()
        assert (difference(2 * aware, clean) > -30).all()

    def test_the_objective_is_of_its_own_evaluations(self, detector: Detector) -> None:
        evading, image = Evading(detector, 0.0), inside(1, 3, 4, 4)
        with pytest.raises(SettingError, match="own module"):
            evading.damage(image, image)
        value = evading.damage(evading(image), 2 * image + 0.1)
        assert value.tolist() == pytest.approx([-20.0]), "no penalty below the limit"


class TestCalibrated:
    def test_the_published_threshold_belongs_to_the_default_defense_alone(self) -> None:
        checkpoints = checkpoint_sums("default", DEFAULT.weights)
        limit = calibrated(DEFAULT.facts(), checkpoints)
        assert limit is not None and -60 < limit < 0
        assert calibrated(DEFAULT.facts() | {"noise_level": 31}, checkpoints) is None
        assert calibrated(DEFAULT.facts(), checkpoints | {"restorer default": "0" * 64}) is None
        assert calibrated({"sampler": "jpeg", "strength": 75}, checkpoints) is None


class TestInReports:
    def scored(self, settings: Settings) -> Result:
        torch.manual_seed(0)
        defense = Defense(load_restorer(), Purification("one_step", 10).load())
        return stages.finish(
            stages.run(defense, settings, "drawn", scene=scene_from_photo(inside(1, 3, 48, 48).float()))
        )

    def test_scores_are_those_of_the_detector(self) -> None:
        result = self.scored(Settings(attack="pgd", steps=3))
        scores = result.report()["detection"]
        images = result.images
        expected = {"clean": ("restored", "defended_clean"), "attacked": ("attacked_restored", "defended_attacked")}
        for key, (bare, defended) in expected.items():
            assert scores[key] == pytest.approx(float(difference(images[bare], images[defended])), abs=0.01)

    def test_who_evades_is_seen_less(self) -> None:
        seen, unseen = (
            self.scored(Settings(attack="pgd", steps=8, threat="exact", evade=evade)).report()["detection"]["attacked"]
            for evade in (False, True)
        )
        plain = self.scored(Settings(attack="pgd", steps=8)).report()["detection"]["attacked"]
        assert unseen < plain and unseen < seen + 3

    @pytest.mark.parametrize("changes", [{"threat": "bpda"}, {"threat": "exact", "objective": "l1"}])
    def test_evading_takes_the_exact_threat_and_damage_alone(self, changes: dict[str, Any]) -> None:
        with pytest.raises(SettingError, match="the detector is evaded under the threat exact"):
            Settings(evade=True, **changes)
