"""Levels for a set of captures and for a single one, against purifiers whose best level is known."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from tiny_networks import purifier
from torch import Tensor, nn
from toy_models import inside, noise

from udc_defense.defense import Defense
from udc_defense.detection import Detector
from udc_defense.errors import SettingError
from udc_defense.frechet import frechet_distance, kernel_distance
from udc_defense.noise import Generators, normal, seeded, split
from udc_defense.noise_level import AdaptivePurifier, Chooser, calibrate, pooled, select
from udc_defense.purifiers.diffusion import DiffusionPurifier

SCHEDULER = DDPMScheduler()


class Shift(nn.Module):
    """Takes level / 100 from the image: right where that much was added."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level, self.evaluations = level, level
        self.batches: list[Tensor] = []

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        self.batches.append(image)
        return image - self.level / 100


class Noisy(nn.Module):
    """Adds level / 100 times noise."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level
        self.drawn: list[Tensor] = []

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        (generators,) = split(generator, len(image), 1)
        self.drawn.append(normal(image, generators))
        return image + self.level / 100 * self.drawn[-1]


class Shrink(nn.Module):
    """A probe: what it takes away is a tenth of the image."""

    evaluations = 1

    def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
        return 0.9 * image


class KnownNoise(nn.Module):
    """Predicts the very noise that was drawn.

    Its purifier is the identity at every level, if noising and denoising agree on the level and on the domain.
    """

    config = {"block_out_channels": (1,)}

    def __init__(self) -> None:
        super().__init__()
        self.drawn, self.calls = torch.zeros(1), 0

    def forward(self, x: Tensor, times: Tensor) -> SimpleNamespace:
        self.calls += 1
        return SimpleNamespace(sample=self.drawn.expand_as(x))


def known(network: KnownNoise, level: int, **options: Any) -> DiffusionPurifier:
    return purifier(network, SCHEDULER, noise_level=level, **options)


class Classifier(nn.Module):
    """Convolution, pooling and logits, as the published classifiers are built."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(5, 4)
        self.unused = nn.Identity()
        self.double().requires_grad_(False)
        for i, parameter in enumerate(self.parameters()):
            parameter.copy_(noise(*parameter.shape, seed=i))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.avgpool(self.features(image)).flatten(1))


class Logits(nn.Module):
    """A network whose layer gives anything that is asked for."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output, self.layer = output, nn.Identity()

    def forward(self, image: Tensor) -> Any:
        return self.layer(self.output)


def identity() -> nn.Module:
    return nn.Sequential(nn.Identity())


def batches(count: int = 3, seed: int = 0) -> list[Tensor]:
    """Of different sizes."""
    return [inside(2, 3, 6 + i, 8 - i, seed=10 * seed + i) for i in range(count)]


class TestSelect:
    @pytest.mark.parametrize("distance", ["frechet", "kid"])
    @pytest.mark.parametrize("layer", ["0", ""])
    def test_a_known_best_level(self, distance: Any, layer: str) -> None:
        """Captures that are 0.2 too bright: the level 20 gives the clean ones back."""
        clean = batches()
        found = select(Shift, identity(), layer, clean, [x + 0.2 for x in clean], [0, 10, 20, 30], distance=distance)
        assert found.level == 20
        assert list(found.scores) == [0, 10, 20, 30] and min(found.scores.values()) == found.scores[20]

    def test_equal_sets_but_for_a_shift_in_closed_form(self) -> None:
        """‖shift‖² over 3 channels; above 1, too, where 8 bits would wrap to the dark end."""
        clean = [x + 0.5 for x in batches()]
        found = select(Shift, identity(), "0", clean, [x + 0.2 for x in clean], [0, 30, 20])
        assert found.scores[0] == pytest.approx(3 * 0.2**2) and found.scores[30] == pytest.approx(3 * 0.1**2)
        assert found.scores[20] == pytest.approx(0, abs=1e-9)

    @pytest.mark.parametrize("layer", ["features", "features.0", "avgpool", "head"])
    def test_any_layer_of_a_classifier(self, layer: str) -> None:
        network, clean, attacked = Classifier(), batches(5), [x + 0.3 for x in batches(5, seed=1)]
        found = select(Shift, network, layer, clean, attacked, [0, 15, 30, 45])
        assert found.level == 30
        handmade = {
            "features": lambda x: network.features(x).mean(dim=(2, 3)),
            "features.0": lambda x: network.features[0](x).mean(dim=(2, 3)),
            "avgpool": lambda x: network.features(x).mean(dim=(2, 3)),
            "head": network,
        }[layer]
        near, far = (torch.cat([handmade(x) for x in part]) for part in (clean, attacked))
        assert found.scores[0] == pytest.approx(frechet_distance(near, far), rel=1e-6)
        found = select(Shift, network, layer, clean, attacked, [0], distance="kid")
        assert found.scores[0] == pytest.approx(kernel_distance(near, far), rel=1e-6)
        assert not any(module._forward_hooks for module in network.modules())

    def test_nothing_is_lost_between_noising_and_denoising(self) -> None:
        """The published code noises to t = N and denoises from N - 1, and feeds [0, 1] to a network of [-1, 1]."""
        clean, network = batches(), KnownNoise()

        def purify(level: int) -> nn.Module:
            purifier = known(network, level)

            class Informed(nn.Module):
                def forward(self, image: Tensor, *, generator: Generators = None) -> Tensor:
                    again = [torch.Generator().set_state(g.get_state()) for g in generator]
                    network.drawn = normal(image, split(again, len(image), 1)[0])
                    return purifier(image, generator=generator)

            return Informed()

        scores = select(purify, identity(), "0", clean, clean, [0, 1, 10, 100, 500]).scores
        assert max(scores.values()) < 1e-9

    def test_level_0_is_the_identity(self) -> None:
        """The published code denoises all timesteps then."""
        network, clean, attacked = KnownNoise(), batches(), batches(seed=1)
        found = select(lambda level: known(network, level), identity(), "0", clean, attacked, [0])
        near, far = (torch.cat([x.mean(dim=(2, 3)) for x in part]) for part in (clean, attacked))
        assert network.calls == 0 and found.scores[0] == pytest.approx(frechet_distance(near, far))

    def test_every_level_sees_the_same_captures_under_the_same_noise(self) -> None:
        purifiers: dict[int, Any] = {}

        class Shuffled:
            """Other captures whenever it is asked, as a loader that shuffles; asked once only."""

            asked = 0

            def __iter__(self) -> Any:
                self.asked += 1
                return iter(batches(seed=self.asked))

        def noisy(level: int) -> nn.Module:
            return purifiers.setdefault(level, Noisy(level))

        loader = Shuffled()
        select(noisy, identity(), "0", batches(), loader, [5, 10, 0])
        assert loader.asked == 1
        drawn = [torch.cat([d.flatten(1)[:, :100] for d in purifiers[level].drawn]) for level in (0, 5, 10)]
        assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
        assert len(drawn[0].unique(dim=0)) == 6, "each capture has noise of its own"

    def test_the_seed_alone_decides_however_captures_are_batched(self) -> None:
        image = inside(4, 3, 6, 6)
        once, parts = (
            select(Noisy, identity(), "0", [image], part, [10, 20], seed=3) for part in ([image], image.split(3))
        )
        assert once.scores == pytest.approx(parts.scores)
        assert select(Noisy, identity(), "0", [image], [image], [10, 20], seed=4).scores != once.scores

    def test_of_equally_near_levels_the_lowest_wins(self) -> None:
        assert select(lambda level: Shift(0), identity(), "0", batches(), batches(), [30, 10, 20]).level == 10

    def test_more_channels_than_captures(self) -> None:
        """A plain covariance would be singular, and the distance noise; the best level is found with 4 of each."""
        wide = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Softplus()).double().requires_grad_(False)
        attacked = [x + 0.2 for x in batches(2, seed=1)]
        assert select(Shift, wide, "1", batches(2), attacked, [0, 10, 20, 30, 40]).level == 20

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"levels": []}, "no noise levels"),
            ({"layer": "body.9"}, r"'body\.9' is not one of"),
            ({"layer": "unused", "network": Classifier()}, "'unused' gave nothing"),
            ({"distance": "l2"}, "'l2' is not one of frechet, kid"),
            ({"clean": []}, "0 clean and 6 suspicious"),
            ({"suspicious": []}, "6 clean and 0 suspicious"),
            ({"clean": [inside(1, 3, 4, 4)]}, "1 clean and 6 suspicious"),
            ({"network": Logits(torch.zeros(2, 3, 4)), "layer": "layer"}, "does not give"),
            ({"network": Logits(torch.zeros(1, 3)), "layer": "layer"}, "for 2 captures"),
            ({"network": Logits("text"), "layer": "layer"}, "does not give"),
        ],
    )
    def test_bad_input_gets_one_sentence(self, change: dict[str, Any], words: str) -> None:
        good = {"network": identity(), "layer": "0", "clean": batches(), "suspicious": batches(), "levels": [0, 10]}
        with pytest.raises(SettingError, match=words) as caught:
            select(Shift, **{**good, **change})
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)

    def test_a_layer_that_runs_several_times_counts_with_its_mean(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Identity()

            def forward(self, image: Tensor) -> Tensor:
                return self.layer(self.layer(image[..., :2]) * 3)

        image = inside(2, 3, 4, 4)
        torch.testing.assert_close(pooled(Twice(), "layer", image), 2 * image[..., :2].mean(dim=(2, 3)))


def value_of(chooser: Chooser, scores: list[float], quality: np.ndarray, levels: list[int]) -> float:
    return sum(quality[i, levels.index(chooser(score))] for i, score in enumerate(scores))


class TestCalibrate:
    @pytest.mark.parametrize("seed", range(20))
    def test_against_brute_force(self, seed: int) -> None:
        """All rising maps from 6 photos, some with equal scores, to 4 levels."""
        random, levels = np.random.default_rng(seed), [0, 5, 20, 50]
        scores = random.integers(0, 5 + seed, 6).astype(float).tolist()
        quality = random.normal(size=(6, 4))
        distinct = sorted(set(scores))
        best = max(
            sum(quality[i, path[distinct.index(score)]] for i, score in enumerate(scores))
            for path in itertools.combinations_with_replacement(range(4), len(distinct))
        )
        assert value_of(calibrate(scores, quality.tolist(), levels), scores, quality, levels) == pytest.approx(best)

    def test_steps_are_where_the_best_level_changes(self) -> None:
        """Photos of score s whose best level is 0, 10 or 30: cuts lie midway."""
        quality = [[3, 2, 1], [3, 2, 1], [2, 3, 1], [1, 2, 3]]
        assert calibrate([1, 2, 4, 8], quality, [0, 10, 30]) == Chooser((3, 6), (0, 10, 30))
        assert calibrate([8, 2, 1, 4], [quality[i] for i in (3, 1, 0, 2)], [0, 10, 30]) == Chooser((3, 6), (0, 10, 30))

    def test_levels_that_no_photo_wants_are_left_out(self) -> None:
        assert calibrate([1, 2], [[1, 0, 0], [0, 0, 1]], [0, 10, 30]) == Chooser((1.5,), (0, 30))

    def test_of_equally_good_levels_the_lowest(self) -> None:
        assert calibrate([1, 2, 3], [[1, 1]] * 3, [5, 10]) == Chooser((), (5,))

    def test_it_rises_where_the_best_levels_do_not(self) -> None:
        """One photo of low score wants much noise, two want none: nobody gets less for a higher score."""
        assert calibrate([1, 2, 3], [[0, 1], [1, 0], [1, 0]], [0, 10]) == Chooser((), (0,))

    @pytest.mark.parametrize(
        ("scores", "quality", "levels", "words"),
        [
            ([], [], [0], "0 scores"),
            ([1, 2], [[1, 2]], [0, 10], r"\(1, 2\) does not fit 2 scores"),
            ([1], [[1, 2]], [0], "1 scores and 1 levels"),
            ([math.nan], [[1]], [0], "not finite"),
            ([1], [[math.inf]], [0], "not finite"),
            ([1], [[1, 2]], [10, 0], r"\(10, 0\) do not rise"),
        ],
    )
    def test_bad_input_gets_one_sentence(self, scores: Any, quality: Any, levels: Any, words: str) -> None:
        with pytest.raises(SettingError, match=words) as caught:
            calibrate(scores, quality, levels)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


class TestChooser:
    def test_a_step_function(self) -> None:
        chooser = Chooser((-40.0, -30.0), (0, 10, 30))
        assert [chooser(score) for score in (-100, -40, -39.9, -30, -29, math.inf)] == [0, 0, 10, 10, 30, 30]

    def test_it_survives_a_file(self) -> None:
        chooser = Chooser((-0.1, 1 / 3), (0, 5, 50))
        assert Chooser.from_json(chooser.to_json()) == chooser

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            '{"cuts": [1], "levels": [0]}',
            '{"cuts": [2, 1], "levels": [0, 5, 10]}',
            '{"cuts": [1], "levels": [5, 5]}',
            '{"cuts": [1], "levels": [-1, 5]}',
            '{"cuts": [NaN], "levels": [0, 5]}',
            '{"cuts": 3, "levels": [0]}',
            '{"cuts": [], "levels": [Infinity]}',
        ],
    )
    def test_other_files_are_refused(self, text: str) -> None:
        with pytest.raises(SettingError, match=r"rise\.$"):
            Chooser.from_json(text)


def adaptive(purify: Any = Shift) -> AdaptivePurifier:
    """Scores are 20 log10 of a tenth of the image's root mean square: brighter photos get more."""
    return AdaptivePurifier(purify, Detector(Defense(nn.Identity(), Shrink())), Chooser((-30.0, -25.0), (0, 10, 30)))


def bright(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()


class TestAdaptivePurifier:
    def test_each_sample_has_its_level(self) -> None:
        """Scores of 0.2, 0.4 and 0.8: -34, -28 and -22 dB."""
        image, purifier = bright(0.8, 0.2, 0.4, 0.81), adaptive()
        assert purifier.choose(image) == [30, 0, 10, 30]
        torch.testing.assert_close(purifier(image), bright(0.5, 0.2, 0.3, 0.51))
        assert [len(purifier.purifiers[level].batches[0]) for level in ("0", "10", "30")] == [1, 1, 2]

    def test_a_sample_does_not_depend_on_its_batch(self) -> None:
        image, purifier = bright(0.8, 0.2, 0.4, 0.81), adaptive(Noisy)
        together = purifier(image, generator=[seeded(i) for i in range(4)])
        alone = torch.cat([purifier(image[i : i + 1], generator=[seeded(i)]) for i in range(4)])
        assert torch.equal(together, alone)
        torch.testing.assert_close(purifier(image, generator=seeded(1)), purifier(image, generator=seeded(1)))

    def test_it_is_differentiable_within_the_level(self) -> None:
        image = bright(0.8, 0.2, 0.4).requires_grad_(True)
        weight = inside(3, 3, 4, 4)
        (gradient,) = torch.autograd.grad((adaptive()(image) * weight).sum(), image)
        torch.testing.assert_close(gradient, weight)

    def test_evaluations_are_those_of_the_costliest_level_and_the_probe(self) -> None:
        assert adaptive().evaluations == 31

    def test_it_is_a_purifier(self) -> None:
        defense = Defense(nn.Identity(), adaptive())
        torch.testing.assert_close(defense(bright(0.8), generator=seeded(0)), bright(0.5))

    def test_diffusion_purifiers_at_several_levels(self) -> None:
        """Level 0 gives the capture back; the others share the network."""
        network = KnownNoise()
        purifier = adaptive(lambda level: known(network, level, draws=2))
        assert torch.equal(purifier(bright(0.2), generator=seeded(0)), bright(0.2)) and network.calls == 0
        assert not torch.equal(purifier(bright(0.4), generator=seeded(0)), bright(0.4)) and network.calls == 2
        assert purifier.evaluations == 3
