"""Objectives against closed forms, and the texts that name them."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy_models import Counting, Gain, Linear, Scripted, conv, inside, noise

from udc_defense import attacks
from udc_defense.attacks import gradients
from udc_defense.attacks.gradients import loss, loss_and_grad
from udc_defense.attacks.objectives import (
    OBJECTIVE_NAMES,
    OBJECTIVE_WORDS,
    OBJECTIVES,
    Feature,
    Masked,
    Targeted,
    check_objective,
    parse_objective,
    select,
)
from udc_defense.defense import Defense
from udc_defense.errors import SettingError
from udc_defense.images import write_png
from udc_defense.noise import seeded
from udc_defense.restorers.gated_unet import GatedUNet
from udc_defense.tiles import apply_tiled


class TestFunctions:
    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_they_are_per_sample_and_vanish_on_equal_images(self, name: str) -> None:
        a, b = inside(2, 3, 24, 24), inside(2, 3, 24, 24, seed=1)
        values = OBJECTIVES[name](a, b)
        assert values.shape == (2,) and (values > 0).all()
        assert OBJECTIVES[name](a[:1], b[:1]).item() == pytest.approx(values[0].item())
        assert OBJECTIVES[name](a, a).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_the_gradient_is_the_finite_difference_outside_the_range_too(self, name: str) -> None:
        reference = inside(1, 3, 24, 23)
        output = (2 * inside(1, 3, 24, 23, seed=1) + 2 * reference - 1.5).requires_grad_(True)
        assert (output < 0).any() and (output > 1).any()
        assert torch.autograd.gradcheck(lambda x: OBJECTIVES[name](x, reference), (output,), fast_mode=True)
        (gradient,) = torch.autograd.grad(OBJECTIVES[name](output, reference).sum(), output)
        assert (gradient != 0).all()

    @pytest.mark.parametrize("name", ["ssim", "ms_ssim"])
    def test_structure_is_destroyed(self, name: str) -> None:
        """A change of brightness costs less similarity than an attack of the same norm."""
        image, model = inside(1, 3, 24, 24), Gain(torch.ones(1))
        attacked = attacks.pgd(model, image, image, eps=0.05, objective=OBJECTIVES[name], generator=seeded(0)).image
        assert OBJECTIVES[name](attacked, image).item() > 2 * OBJECTIVES[name](image + 0.05, image).item()


class TestTargeted:
    def test_pgd_finds_the_corner_that_is_nearest_to_a_distant_target(self) -> None:
        image, gain = inside(2, 3, 4, 4), noise(3, 4, 4, seed=1)
        signs = noise(2, 3, 4, 4, seed=2).sign()
        target = image * gain + 10 * signs
        found = attacks.pgd(
            Gain(gain), image, image, eps=0.1, steps=10, objective=Targeted(target), generator=seeded(0)
        )
        corner = image + 0.1 * signs * gain.sign()
        assert torch.allclose(found.image, corner)
        assert found.losses[:, -1].tolist() == pytest.approx(
            (-((corner * gain - target) ** 2)).mean((1, 2, 3)).tolist()
        )

    def test_each_sample_goes_to_its_own_target(self, monkeypatch: pytest.MonkeyPatch) -> None:
        image, target = inside(3, 3, 4, 4), inside(3, 3, 4, 4, seed=1)
        whole = loss(conv(), image, image, Targeted(target))
        monkeypatch.setitem(gradients.CHUNK_PIXELS, "cpu", 2 * 16)
        assert torch.allclose(loss(conv(), image, image, Targeted(target)), whole)
        assert whole[2] == pytest.approx(-(conv()(image[2:]) - target[2:]).square().mean().item())


class TestMasked:
    def test_the_region_alone_counts(self) -> None:
        output, reference = inside(2, 3, 6, 8), inside(2, 3, 6, 8, seed=1)
        expected = (output - reference)[:, :, 1:5, 3:5].square().mean((1, 2, 3))
        assert torch.equal(Masked(left=3, top=1, width=2, height=4)(output, reference), expected)

    def test_a_pointwise_model_has_no_gradient_outside(self) -> None:
        image = inside(2, 3, 6, 8)
        _, gradient = loss_and_grad(Gain(noise(3, 6, 8)), image, 0 * image, Masked(3, 1, 2, 4))
        inner = torch.zeros(6, 8, dtype=torch.bool)
        inner[1:5, 3:5] = True
        assert (gradient[..., inner] != 0).all() and (gradient[..., ~inner] == 0).all()

    def test_the_whole_image_is_mse(self) -> None:
        output, reference = inside(2, 3, 6, 8), inside(2, 3, 6, 8, seed=1)
        assert torch.equal(Masked(0, 0, 8, 6)(output, reference), OBJECTIVES["mse"](output, reference))

    @pytest.mark.parametrize("region", [(-1, 0, 2, 2), (0, -1, 2, 2), (0, 0, 0, 2), (0, 0, 2, 0)])
    def test_a_region_without_pixels(self, region: tuple[int, int, int, int]) -> None:
        with pytest.raises(SettingError):
            Masked(*region)

    @pytest.mark.parametrize("region", [(7, 0, 2, 2), (0, 5, 2, 2), (8, 0, 1, 1)])
    def test_a_region_outside(self, region: tuple[int, int, int, int]) -> None:
        with pytest.raises(SettingError, match=r"not inside the image of 8x6 pixels\.$"):
            Masked(*region)(inside(1, 3, 6, 8), inside(1, 3, 6, 8))


class Tiled(nn.Module):
    """A network that evaluates its layer tile by tile."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = conv()

    def forward(self, image: Tensor) -> Tensor:
        return apply_tiled(self.layer, image, size=8, overlap=2)


class Odd(nn.Module):
    """Layers that cannot be an objective."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.pair, self.flat = nn.Identity(), _Pair(), nn.Flatten(0, 1)

    def forward(self, image: Tensor) -> Tensor:
        self.flat(image)
        return self.pair(image)[0]


class _Pair(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image, image


def watchers(module: nn.Module) -> int:
    return sum(len(child._forward_hooks) for child in module.modules())


class TestFeature:
    matrix = noise(12, 12)

    def model(self) -> nn.Sequential:
        return nn.Sequential(Linear(self.matrix), nn.Tanh())

    def test_value_and_gradient_of_a_linear_layer(self) -> None:
        """mean((A δ)²) = ‖A δ‖² / N, gradient 2 AᵀA δ / N; the reference has no say."""
        clean, x = inside(2, 3, 2, 2), inside(2, 3, 2, 2, seed=1)
        model = self.model()
        value, gradient = loss_and_grad(model, x, 0 * x, Feature(model, "0", clean))
        delta = (x - clean).flatten(1)
        assert torch.allclose(value, (delta @ self.matrix.T).square().mean(dim=1))
        assert torch.allclose(gradient.flatten(1), 2 / 12 * delta @ self.matrix.T @ self.matrix)
        assert torch.allclose(loss(model, x, 0 * x, Feature(model, "0", clean)), value)

    def test_pgd_finds_the_top_singular_vector_from_its_random_start(self) -> None:
        clean, model = inside(1, 3, 2, 2), self.model()
        objective = Feature(model, "0", clean)
        value, gradient = loss_and_grad(model, clean, clean, objective)
        assert value.item() == 0 and not gradient.any(), "at the clean image there is nothing to follow"
        found = attacks.pgd(
            model, clean, clean, eps=0.01, steps=200, norm="l2", objective=objective, generator=seeded(0)
        )
        top = torch.linalg.matrix_norm(self.matrix, 2).item()
        assert found.losses.max().item() == pytest.approx((0.01 * top) ** 2, rel=1e-3)

    def test_the_pass_of_the_attack_is_used(self) -> None:
        model = Counting(self.model())
        image = inside(1, 3, 2, 2)
        objective = Feature(model, "model.0", image)
        assert (model.forwards, model.graphs) == (1, 0)
        loss_and_grad(model, image, image, objective, draws=3)
        assert (model.forwards, model.graphs) == (4, 3)

    def test_draws_are_averaged(self) -> None:
        model = nn.Sequential(Scripted([0.0, 1.0, 3.0]))
        image = inside(2, 3, 2, 2)
        assert loss(model, image, image, Feature(model, "0", image), draws=2).tolist() == pytest.approx([5.0, 5.0])

    def test_chunks_give_what_the_whole_batch_gives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clean, x, model = inside(5, 3, 4, 4), inside(5, 3, 4, 4, seed=1), conv()
        objective = Feature(model, "1", clean)
        whole = loss_and_grad(model, x, x, objective)
        monkeypatch.setitem(gradients.CHUNK_PIXELS, "cpu", 2 * 16)
        for expected, found in zip(whole, loss_and_grad(model, x, x, objective), strict=True):
            assert torch.allclose(found, expected)

    def test_any_samples_can_be_selected(self) -> None:
        clean, x, model = inside(3, 3, 4, 4), inside(3, 3, 4, 4, seed=1), conv()
        objective = Feature(model, "1", clean)
        expected = loss(model, x, x, objective)[[2, 0]]
        assert torch.allclose(loss(model, x[[2, 0]], x[[2, 0]], objective.select([2, 0])), expected)

    def test_all_tiles_count(self) -> None:
        clean, x, model = inside(2, 3, 13, 8), inside(2, 3, 13, 8, seed=1), Tiled()
        objective = Feature(model, "layer.2", clean)
        value, gradient = loss_and_grad(model, x, x, objective)
        tiles = (slice(0, 8), slice(5, 13))
        net = model.layer
        expected = [(net(x[:, :, t]) - net(clean[:, :, t])).square().mean((1, 2, 3)) for t in tiles]
        assert torch.allclose(value, sum(expected) / 2)
        assert gradient[:, :, :5].any() and gradient[:, :, 8:].any()

    def test_passes_in_between_do_not_count(self) -> None:
        """A runner looks at the restored image after each step of the attack."""
        clean, x, model = inside(1, 3, 13, 8), inside(1, 3, 13, 8, seed=1), Tiled()
        objective = Feature(model, "layer", clean)
        expected = loss(model, x, x, objective)
        model(noise(2, 3, 5, 5))
        model(x)
        assert torch.equal(loss(model, x, x, objective), expected)

    def test_a_layer_of_a_wrapped_restorer(self) -> None:
        clean, x, restorer = inside(1, 3, 4, 4), inside(1, 3, 4, 4, seed=1), conv()
        defense = Defense(restorer)
        expected = loss(restorer, x, x, Feature(restorer, "0", clean))
        assert torch.equal(loss(defense, x, x, Feature(defense, "restorer.0", clean)), expected)
        assert torch.equal(loss(defense, x, x, Feature(restorer, "0", clean)), expected), "the attack runs a wrapper"
        assert torch.equal(loss(restorer, x, x, Feature(defense, "restorer.0", clean)), expected)

    def test_nothing_is_watched_afterwards(self) -> None:
        image, model = inside(1, 3, 4, 4), conv()
        for _ in range(5):
            loss_and_grad(model, image, image, Feature(model, "1", image))
        gc.collect()
        assert watchers(model) == 0
        with Feature(model, "1", image) as objective:
            assert watchers(model) == 1
        assert watchers(model) == 0
        objective.close()
        with pytest.raises(SettingError, match="watched no longer"):
            loss(model, image, image, objective)

    def test_a_part_watches_for_itself(self) -> None:
        image, model = inside(2, 3, 4, 4), conv()
        part = select(Feature(model, "1", image), slice(1, 2))
        gc.collect()
        assert watchers(model) == 1
        assert loss(model, image[1:], image[1:], part).item() == 0
        del part
        gc.collect()
        assert watchers(model) == 0

    def test_another_model_is_not_watched(self) -> None:
        image = inside(1, 3, 4, 4)
        objective = Feature(conv(), "1", image)
        with pytest.raises(SettingError, match=r"layer '1' gave nothing.*\.$"):
            loss(conv(), image, image, objective)

    def test_an_image_of_another_size(self) -> None:
        image, larger, model = inside(1, 3, 4, 4), inside(1, 3, 5, 5), conv()
        objective = Feature(model, "1", image)
        with pytest.raises(SettingError, match="gave 100 values per sample, 64 for the clean image"):
            loss(model, larger, larger, objective)

    @pytest.mark.parametrize(("layer", "words"), [("idle", "does not run"), ("pair", "tensor"), ("flat", "samples")])
    def test_layers_that_cannot_be_used(self, layer: str, words: str) -> None:
        model = Odd()
        with pytest.raises(SettingError, match=words) as caught:
            Feature(model, layer, inside(2, 3, 4, 4))
        assert str(caught.value).endswith(".") and watchers(model) == 0


IMAGE = inside(2, 3, 6, 8).float()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GatedUNet(widths=(4, 8), blocks=(1, 1)).eval().requires_grad_(False)


class TestTexts:
    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_names(self, name: str, network: nn.Module) -> None:
        check_objective(name)
        assert parse_objective(name, network, IMAGE) is OBJECTIVES[name]

    def test_every_name_has_words(self) -> None:
        assert OBJECTIVE_NAMES == ("mse", "l1", "ssim", "ms_ssim", "lpips", "feature", "targeted", "masked")
        assert [form.partition(":")[0] for form in OBJECTIVE_WORDS] == list(OBJECTIVE_NAMES)
        assert set(OBJECTIVES) < set(OBJECTIVE_NAMES)

    def test_masked(self, network: nn.Module) -> None:
        check_objective("masked:3,1,2,4")
        assert parse_objective("masked:3,1,2,4", network, IMAGE) == Masked(left=3, top=1, width=2, height=4)

    def test_targeted(self, network: nn.Module, tmp_path: Path) -> None:
        target = torch.arange(144).reshape(1, 3, 6, 8) / 255
        write_png(target, tmp_path / "to:wards.png")
        text = f"targeted:{tmp_path / 'to:wards.png'}"
        check_objective(text)
        objective = parse_objective(text, network, IMAGE)
        expected = -(IMAGE - target).square().mean((1, 2, 3))
        assert torch.allclose(objective(IMAGE, IMAGE), expected)
        assert torch.allclose(select(objective, slice(1, 2))(IMAGE[1:], IMAGE[1:]), expected[1:])

    def test_feature(self, network: nn.Module) -> None:
        check_objective("feature:encoder.1")
        objective = parse_objective("feature:encoder.1", network, IMAGE)
        assert loss(network, IMAGE, IMAGE, objective).tolist() == [0, 0]
        value, gradient = loss_and_grad(network, 0.9 * IMAGE, IMAGE, objective)
        assert (value > 0).all() and gradient.any()

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("psnr", "mse, l1, ssim, ms_ssim, lpips, feature:LAYER"),
            ("", "mse, l1"),
            ("MSE", "mse, l1"),
            ("mse\n", "mse, l1"),
            ("mse:", "takes none"),
            ("lpips:vgg", "takes none"),
            ("feature", "feature:LAYER"),
            ("feature:", "feature:LAYER"),
            ("targeted", "targeted:PATH"),
            ("masked", "masked:LEFT,TOP,WIDTH,HEIGHT"),
            ("masked:1,2,3", "LEFT,TOP,WIDTH,HEIGHT"),
            ("masked:1,2,3,4,5", "LEFT,TOP,WIDTH,HEIGHT"),
            ("masked:1,2,3,x", "LEFT,TOP,WIDTH,HEIGHT"),
            ("masked:-1,2,3,4", "LEFT,TOP,WIDTH,HEIGHT"),
            ("masked:1.5,2,3,4", "LEFT,TOP,WIDTH,HEIGHT"),
            ("masked:0,0,0,4", "sides of at least 1"),
        ],
    )
    def test_what_is_malformed_is_refused_early(self, text: str, words: str, network: nn.Module) -> None:
        for refuse in (check_objective, lambda t: parse_objective(t, network, IMAGE)):
            with pytest.raises(SettingError) as caught:
                refuse(text)
            message = str(caught.value)
            assert words in message and message.endswith(".") and "\n" not in message

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("feature:nothing", "such as stem, head, encoder.0,"),
            ("feature:encoder", "does not run"),
            ("masked:7,0,2,2", "8x6"),
            ("targeted:/no/such.png", "/no/such.png: cannot be read"),
            (f"targeted:{__file__}", "not an image"),
            ("targeted:small.png", "small.png has 7x6 pixels, the capture 8x6"),
        ],
    )
    def test_what_does_not_fit(
        self, text: str, words: str, network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_png(torch.zeros(1, 3, 6, 7), tmp_path / "small.png")
        check_objective(text)
        with pytest.raises(SettingError) as caught:
            parse_objective(text, network, IMAGE)
        message = str(caught.value)
        assert words in message and message.endswith(".") and "\n" not in message
        assert watchers(network) == 0
