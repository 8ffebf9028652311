"""What every public door says to tensors that are no images in [0, 1], and that it takes those that are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_models import Gain

from udc_defense import attacks, capture, load_purifier, load_restorer, threat
from udc_defense.attacks import ATTACKS
from udc_defense.attacks.objectives import Targeted
from udc_defense.certification.certify import Certification, certify
from udc_defense.certification.noise import Budget, Gaussian
from udc_defense.certification.sampling import drawn
from udc_defense.defense import Defense
from udc_defense.errors import SettingError
from udc_defense.metrics import METRICS, psnr, unclamped_ssim
from udc_defense.noise import seeded
from udc_defense.panel_file import get_panel
from udc_defense.scenes import scene_from_photo
from udc_defense.tensors import FAR, check_image
from udc_defense.transforms import TRANSFORMS

SIZE = 24
CERTIFICATION = Certification(Gaussian(0.1), (Budget(0.1),), confidence=0.9, samples=1)
WITH_EPS = [name for name in ATTACKS.names() if "eps" in ATTACKS.get(name).defaults]


@pytest.fixture
def image() -> Tensor:
    return 0.1 + 0.8 * torch.rand(2, 3, SIZE, SIZE, generator=seeded(0))


@pytest.fixture(scope="module")
def gain() -> Gain:
    return Gain(1 + torch.rand(3, SIZE, SIZE, generator=seeded(1)))


def _attack(name: str, *args: Any, **options: Any) -> Any:
    radius = {"eps": 4 / 255} if name in WITH_EPS else {}
    return ATTACKS.get(name)(*args, **radius | options)


def _doors() -> dict[str, Callable[[Tensor], Any]]:
    """Every public function of one image, by name."""
    restorer, identity = nn.Identity(), Defense(nn.Identity())
    doors: dict[str, Callable[[Tensor], Any]] = {
        "restorer": lambda x: load_restorer("default")(x),
        "purifier": lambda x: load_purifier("diffusion", noise_level=4)(x),
        "defense": identity,
        "threat": lambda x: threat(Defense(restorer, TRANSFORMS.get("jpeg")()), "bpda")(x),
        "certificate": lambda x: list(certify(restorer, x, x, CERTIFICATION, bare=x)),
        "scene_from_photo": scene_from_photo,
        "target": Targeted,
    }
    doors |= {f"transform {name}": TRANSFORMS.get(name)() for name in TRANSFORMS.names()}
    doors |= {f"metric {name}": lambda x, metric=metric: metric(x, x) for name, metric in METRICS.items()}
    doors |= {f"attack {name}": lambda x, name=name: _attack(name, restorer, x, x) for name in ATTACKS.names()}
    return doors


DOORS = _doors()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda x: 255 * x, r"values from .* to .*\[0, 1\]: divide by 255\?"),
        (lambda x: (255 * x).to(torch.uint8), r"is uint8, not floats in \[0, 1\]: divide integers"),
        (lambda x: x[0], r"has the shape \(3, 24, 24\), not \(B, 3, H, W\)"),
        (lambda x: x.movedim(1, -1), r"has the shape \(1, 24, 24, 3\), not \(B, 3, H, W\)"),
        (lambda x: x[:0], r"has the shape \(0, 3, 24, 24\), not"),
        (lambda x: x.numpy(), "is a ndarray, not a tensor"),
    ],
    ids=["0…255", "uint8", "one image", "channels last", "empty", "array"],
)
def test_a_mistake_in_the_image_is_one_sentence(
    door: str, mistake: Callable[[Tensor], Any], words: str, image: Tensor
) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        DOORS[door](mistake(image[:1]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda x: x[:1], "differ in shape"),
        (lambda x: 255 * x, "the reference has values"),
        (lambda x: x.double(), "the image is float32 on cpu, the reference float64 on cpu"),
    ],
)
def test_a_metric_compares_two_images_alike(
    name: str, other: Callable[[Tensor], Tensor], words: str, image: Tensor
) -> None:
    with pytest.raises(SettingError, match=words):
        METRICS[name](image, other(image))


@pytest.mark.parametrize("name", ATTACKS.names())
@pytest.mark.parametrize("other", [lambda x: 255 * x, lambda x: x[:1], lambda x: x.double()])
def test_an_attack_refuses_a_reference_unlike_the_image(
    name: str, other: Callable[[Tensor], Tensor], image: Tensor
) -> None:
    with pytest.raises(SettingError, match="the reference"):
        _attack(name, nn.Identity(), image, other(image))


def test_what_networks_overshoot_is_clamped_and_not_refused(image: Tensor) -> None:
    beyond = image + torch.linspace(-1, 2, SIZE)
    assert psnr(beyond, image).tolist() == psnr(beyond.clamp(0, 1), image).tolist()
    assert not torch.equal(unclamped_ssim(beyond, image), unclamped_ssim(beyond.clamp(0, 1), image))
    check_image(torch.full_like(image, FAR))
    check_image(torch.full_like(image, -FAR))
    with pytest.raises(SettingError, match="far outside"):
        check_image(torch.full_like(image, -FAR - 0.01))


def test_a_scene_is_light_and_may_exceed_1(image: Tensor) -> None:
    panel = get_panel("axon20")
    assert capture(400 * image, panel, generator=seeded(0)).shape == image.shape
    with pytest.raises(SettingError, match="the scene is int64"):
        capture((400 * image).long(), panel)


@pytest.mark.parametrize("name", WITH_EPS)
@pytest.mark.parametrize("eps", [4, 1.01])
def test_eps_is_in_the_units_of_the_image(name: str, eps: float, image: Tensor) -> None:
    with pytest.raises(SettingError, match=r"eps .* is above 1, but images are in \[0, 1\]: write 4/255"):
        _attack(name, nn.Identity(), image, image, eps=eps)


WHITE_BOX = [name for name in ATTACKS.names() if ATTACKS.get(name).white_box]


@pytest.mark.parametrize("name", WHITE_BOX)
def test_inference_mode_around_an_attack_is_named(name: str, image: Tensor, gain: Gain) -> None:
    with torch.inference_mode(), pytest.raises(SettingError, match=r"torch\.inference_mode is on"):
        _attack(name, gain, image, image)


def test_guides_need_gradients_too(image: Tensor) -> None:
    purifier = load_purifier("diffusion", noise_level=4, guide="ssim", guidance=1.0)
    with torch.inference_mode(), pytest.raises(SettingError, match=r"torch\.inference_mode is on"):
        purifier(image)


def test_images_that_were_made_in_inference_mode_can_be_attacked(image: Tensor, gain: Gain) -> None:
    expected = attacks.fgsm(gain, image, image, eps=4 / 255, generator=seeded(0)).image
    with torch.inference_mode():
        made = image.clone()
    assert torch.equal(attacks.fgsm(gain, made, made, eps=4 / 255, generator=seeded(0)).image, expected)


def test_weights_that_were_made_in_inference_mode_are_named(image: Tensor) -> None:
    with torch.inference_mode():
        network = nn.Conv2d(3, 3, 1)
    with pytest.raises(SettingError, match=r"the weights were made under torch\.inference_mode"):
        attacks.fgsm(network, image, image, eps=4 / 255)


def test_an_attack_inside_no_grad_runs(image: Tensor, gain: Gain) -> None:
    with torch.no_grad():
        assert attacks.fgsm(gain, image, image, eps=4 / 255).backwards == 1


@pytest.mark.parametrize("name", ATTACKS.names())
def test_float64_images_for_a_float32_model_are_one_sentence(name: str, image: Tensor) -> None:
    double = image.double()
    with pytest.raises(SettingError, match="the image is float64 on cpu, the weights float32 on cpu: convert"):
        _attack(name, nn.Conv2d(3, 3, 1), double, double)


@pytest.mark.parametrize("door", ["restorer", "purifier"])
def test_float64_captures_likewise(door: str, image: Tensor) -> None:
    with pytest.raises(SettingError, match="is float64 on cpu, the weights float32 on cpu: convert"):
        DOORS[door](image.double())


def test_autocast_converts_by_itself(image: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert load_restorer("default")(image.bfloat16()).shape == image.shape


@pytest.mark.parametrize("seed", [7, 7.0, "7", [7, 8]])
def test_a_seed_is_no_generator(seed: Any, image: Tensor, gain: Gain) -> None:
    defense = Defense(nn.Identity(), load_purifier("diffusion", noise_level=4))
    for use in (
        lambda: attacks.pgd(gain, image, image, eps=4 / 255, generator=seed),
        lambda: defense(image, generator=seed),
        lambda: threat(defense, "exact", seed),
        lambda: capture(image, get_panel("axon20"), generator=seed),
    ):
        with pytest.raises(SettingError, match=r"generator 7.* is no torch\.Generator|generator '7' is no"):
            use()


class Returns(nn.Module):
    """Something else than an image."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, image: Tensor) -> Any:
        return self.change(image)


@pytest.mark.parametrize("name", ATTACKS.names())
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: (x, x), "the model returns a tuple, not one tensor"),
        (lambda x: {"image": x}, "the model returns a dict, not one tensor"),
        (lambda x: x[..., 1:], "the model returns the shape"),
    ],
)
def test_a_model_that_returns_no_image_is_one_sentence(
    name: str, change: Callable[[Tensor], Any], words: str, image: Tensor
) -> None:
    with pytest.raises(SettingError, match=words):
        _attack(name, Returns(change), image, image)


def test_certificates_say_it_too(image: Tensor) -> None:
    with pytest.raises(SettingError, match="the restorer returns a tuple"):
        drawn(Returns(lambda x: (x,)), image[:1], Gaussian(0.1), samples=1)


def test_an_objective_gives_one_loss_per_sample(image: Tensor, gain: Gain) -> None:
    def one_number(output: Tensor, reference: Tensor) -> Tensor:
        return (output - reference).square().mean()

    with pytest.raises(SettingError, match=r"the objective returns the shape \(\), not \(2,\)"):
        attacks.fgsm(gain, image, image, eps=4 / 255, objective=one_number)


def test_a_target_is_of_the_size_of_the_batch(image: Tensor, gain: Gain) -> None:
    with pytest.raises(SettingError, match="the output .* and the target .* differ in shape"):
        attacks.fgsm(gain, image, image, eps=4 / 255, objective=Targeted(image[:1]))


def test_the_check_is_left_out_of_exported_programs(image: Tensor) -> None:
    class Checked(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            check_image(image)
            return image + 1

    program = torch.export.export(Checked(), (image,)).module()
    assert torch.equal(program(image), image + 1)
    with pytest.warns(DeprecationWarning, match="trace"):
        traced = torch.jit.trace(Checked(), image)
    assert torch.equal(traced(image), image + 1)
