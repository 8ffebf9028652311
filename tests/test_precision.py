"""Networks in bfloat16: close to float32, judged in float32, with the gradient of what was computed."""

from __future__ import annotations

import pytest
import torch

from udc_defense.checkpoints.load import load_purifier, load_restorer
from udc_defense.defense import Defense
from udc_defense.images import quantize
from udc_defense.noise import seeded
from udc_defense.photo import stages
from udc_defense.photo.settings import Settings
from udc_defense.precision import InBfloat16
from udc_defense.scenes import scene_from_photo


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(1, 3, 32, 32, generator=seeded(0))


def test_it_computes_in_bfloat16_and_gives_float32(image: torch.Tensor) -> None:
    restorer = load_restorer()
    exact, found = restorer(image), InBfloat16(restorer)(image)
    assert found.dtype == torch.float32
    assert 0 < float((found - exact).abs().max()) < 0.05
    assert float((found - exact).abs().mean()) < 0.01


def test_only_gradients_if_so_wished(image: torch.Tensor) -> None:
    restorer = load_restorer()
    searched = InBfloat16(restorer, gradients_only=True)
    with torch.no_grad():
        assert torch.equal(searched(image), restorer(image))
    with torch.enable_grad():
        assert not torch.equal(searched(image.requires_grad_(True)), restorer(image))


def test_an_attack_searches_in_bfloat16_and_is_judged_in_float32(image: torch.Tensor) -> None:
    defense, scene = Defense(load_restorer()), scene_from_photo(image.detach())
    results = {}
    for precision in ("float32", "bfloat16"):
        settings = Settings(attack="pgd", steps=5, precision=precision)
        results[precision] = stages.finish(stages.run(defense, settings, "photo", scene=scene))
    attacked = {name: result.images["attacked_input"] for name, result in results.items()}
    assert not torch.equal(*attacked.values())
    found = results["bfloat16"]
    assert torch.equal(found.images["attacked_restored"], defense.restorer(quantize(attacked["bfloat16"])))
    scores = [result.scores("psnr")["attacked_restored"] for result in results.values()]
    assert scores[0] == pytest.approx(scores[1], abs=0.3)


def test_activations_that_are_computed_again_are_of_the_same_precision(
    image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradient() -> torch.Tensor:
        purifier = load_purifier("direct", noise_level=10)
        x = image.detach().clone().requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16):
            purified = purifier(x, generator=seeded(1))
        (found,) = torch.autograd.grad(purified.square().sum(), x)
        return found

    kept = gradient()
    monkeypatch.setattr("udc_defense.purifiers.diffusion.KEPT_VALUES", 0)
    assert torch.equal(gradient(), kept)
