"""What holds for every attack in the registry; the oracles of each stand in a file of its own."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_models import Counting, Gain, anywhere, conv, inside, rms

from udc_defense import attacks
from udc_defense.attacks import ATTACKS, AttackResult, gradients
from udc_defense.errors import SettingError
from udc_defense.noise import seeded

NAMES = ATTACKS.names()
BOUNDED = [name for name in NAMES if "eps" in ATTACKS.get(name).defaults]
# `universal` makes one perturbation for the whole batch, on purpose.
PER_SAMPLE = [name for name in NAMES if name != "universal"]
WHITE_BOX = [name for name in NAMES if ATTACKS.get(name).white_box]
BLACK_BOX = [name for name in NAMES if name not in WHITE_BOX]


def arguments(name: str, **wanted: Any) -> dict[str, Any]:
    """Few steps, and only what this attack takes."""
    shared = {"eps": 0.03, "steps": 4, "generator": seeded(0)} | wanted
    known = ATTACKS.get(name).defaults
    own = {"cw": {"searches": 2, "psnr": 30.0}}.get(name, {})
    return {key: value for key, value in shared.items() if key in known} | own


def run(name: str, model: nn.Module, image: Tensor, reference: Tensor, **wanted: Any) -> AttackResult:
    return ATTACKS.get(name)(model, image, reference, **arguments(name, **wanted))


def norms(name: str) -> list[str]:
    return ["linf", "l2"] if "norm" in ATTACKS.get(name).defaults else ["linf"]


class TestBall:
    @pytest.mark.parametrize("eps", [1 / 255, 0.1, 1.0])
    @pytest.mark.parametrize("name", BOUNDED)
    def test_every_step_stays_in_ball_and_box(self, name: str, eps: float) -> None:
        image, model = anywhere(2, 3, 12, 10).float(), conv().float()
        for norm in norms(name):
            options = arguments(name, eps=eps, norm=norm)
            for state in ATTACKS.get(name).iterate(model, image, model(image), **options):
                delta = state.image - image
                assert (delta.abs().amax() if norm == "linf" else rms(delta).amax()) <= eps + 1e-6
                assert state.image.min() >= 0 and state.image.max() <= 1

    @pytest.mark.parametrize("name", sorted(set(BOUNDED) & set(PER_SAMPLE)))
    def test_each_sample_has_its_own_radius(self, name: str) -> None:
        image, radii = inside(3, 3, 8, 8), torch.tensor([0.0, 0.01, 0.03], dtype=torch.float64)
        delta = run(name, conv(), image, conv()(image), eps=radii).image - image
        sizes = delta.abs().flatten(1).amax(dim=1)
        assert (sizes <= radii + 1e-12).all() and sizes[0] == 0 and (sizes[1:] > 0).all()

    @pytest.mark.parametrize("name", BOUNDED)
    def test_radius_zero_gives_the_image(self, name: str) -> None:
        image = anywhere(2, 3, 8, 8)
        assert torch.equal(run(name, conv(), image, image, eps=0.0).image, image)


class TestDamage:
    @pytest.mark.parametrize("name", NAMES)
    def test_the_clean_output_can_be_the_reference(self, name: str) -> None:
        """At δ = 0 the loss and its gradient are zero: an attack that starts there stays there."""
        image, model = inside(2, 3, 12, 12), conv()
        clean = model(image)
        result = run(name, model, image, clean)
        assert ((model(result.image) - clean).square().flatten(1).mean(dim=1) > 0).all()

    @pytest.mark.parametrize("name", NAMES)
    def test_any_size(self, name: str) -> None:
        image = inside(1, 3, 9, 21)
        assert run(name, conv(), image, image).image.shape == image.shape

    @pytest.mark.parametrize("name", WHITE_BOX)
    def test_zero_gradients_are_counted(self, name: str) -> None:
        """A model that rounds has a gradient for autograd, and it is zero: the defense that masks."""
        image = inside(2, 3, 12, 12)
        assert run(name, Masking(), image, image + 0.1).zero_gradients > 0
        assert run(name, conv(), image, image).zero_gradients == 0


class Masking(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.round() + 0 * image


class TestBatch:
    @pytest.mark.parametrize("name", PER_SAMPLE)
    def test_a_sample_does_not_depend_on_its_batch_mates(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        image, model = anywhere(3, 3, 12, 12), conv()
        reference = model(image)
        together = run(name, model, image, reference, generator=[seeded(i) for i in range(3)])
        monkeypatch.setitem(gradients.CHUNK_PIXELS, "cpu", 2 * 144)
        chunked = run(name, model, image, reference, generator=[seeded(i) for i in range(3)])
        assert torch.allclose(together.image, chunked.image, atol=1e-6, rtol=0)
        for i in range(3):
            one = slice(i, i + 1)
            alone = run(name, model, image[one], reference[one], generator=[seeded(i)])
            assert torch.allclose(together.image[one], alone.image, atol=1e-6, rtol=0)
            assert torch.allclose(together.losses[one], alone.losses, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("name", NAMES)
    def test_same_seed_same_bits_and_arguments_stay(self, name: str) -> None:
        image, model = anywhere(2, 3, 12, 12), conv()
        before = image.clone()
        first, second = (run(name, model, image, image, generator=seeded(1)).image for _ in range(2))
        assert torch.equal(first, second) and torch.equal(image, before) and not image.requires_grad

    def test_chunks_bound_what_goes_through_the_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes = []

        class Sized(nn.Module):
            def forward(self, image: Tensor) -> Tensor:
                sizes.append(len(image))
                return 2 * image

        monkeypatch.setitem(gradients.CHUNK_PIXELS, "cpu", 3 * 16)
        image = inside(7, 3, 4, 4)
        attacks.pgd(Sized(), image, image, eps=0.1, steps=1)
        assert sizes == [3, 3, 1] * 2


class TestProgress:
    @pytest.mark.parametrize("name", NAMES)
    def test_steps_can_be_watched_and_stopped(self, name: str) -> None:
        image = anywhere(1, 3, 12, 12)
        attack = ATTACKS.get(name)
        states = list(attack.iterate(conv(), image, image, **arguments(name)))
        assert [s.step for s in states] == list(range(1, len(states) + 1))
        assert {s.steps for s in states} == {len(states)}
        assert torch.equal(run(name, conv(), image, image).image, states[-1].image)
        model = Counting(conv())
        steps = attack.iterate(model, image, image, **arguments(name))
        assert next(steps).step == 1
        seen = model.forwards
        steps.close()
        assert model.forwards == seen and list(steps) == []

    @pytest.mark.parametrize("draws", [1, 3])
    @pytest.mark.parametrize("name", NAMES)
    def test_evaluations_are_counted(self, name: str, draws: int) -> None:
        """Of one sample, so that an attack that asks about some samples only has the same count."""
        model, image = Counting(conv()), anywhere(1, 3, 12, 12)
        result = run(name, model, image, image, draws=draws)
        assert (result.forwards, result.backwards) == (model.forwards, model.graphs)
        assert result.backwards == 0 or name in WHITE_BOX

    @pytest.mark.parametrize("name", NAMES)
    def test_the_losses_are_those_of_the_images(self, name: str) -> None:
        image, model = inside(2, 3, 12, 12), conv()
        result = run(name, model, image, image)
        assert len(result.losses) == 2 and torch.isfinite(result.losses).all()
        if name not in ("cw", "universal"):  # losses of their own: −PSNR, and the mean over the set
            measured = (model(result.image) - image).square().flatten(1).mean(dim=1)
            assert torch.allclose(measured, result.losses.amax(dim=1), rtol=1e-9)


class Detached(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            return image * 2


class Halved(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image[..., ::2]


IMAGE = inside(2, 3, 12, 12)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "negative eps": ({"eps": -0.1}, "-0.1"),
    "eps not a number": ({"eps": math.nan}, "nan"),
    "infinite eps": ({"eps": math.inf}, "inf"),
    "NaN in the image": ({"image": IMAGE.where(IMAGE < 0.6, torch.nan)}, "not finite"),
    "image above 1": ({"image": IMAGE + 0.5}, "[0, 1]"),
    "image below 0": ({"image": IMAGE - 0.5}, "[0, 1]"),
    "no batch": ({"image": IMAGE[0], "reference": IMAGE[0]}, "(3, 12, 12)"),
    "reference of another shape": ({"reference": IMAGE[:, :1]}, "(2, 1, 12, 12)"),
    "NaN in the reference": ({"reference": IMAGE * math.nan}, "not finite"),
    "model of another shape": ({"model": Halved()}, "(2, 3, 12, 6)"),
    "model under no_grad": ({"model": Detached()}, "not differentiable"),
    "no steps": ({"steps": 0}, "0 steps"),
    "no draws": ({"draws": 0}, "0 draws"),
    "unknown norm": ({"norm": "l7"}, "l7"),
    "three generators for two samples": ({"generator": [seeded(0)] * 3}, "3 generators"),
}


@pytest.mark.parametrize("problem", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_refused_in_one_sentence(name: str, problem: str) -> None:
    changes, words = BAD[problem]
    changes = dict(changes)
    model = changes.pop("model", Gain(torch.ones(1)))
    image, reference = changes.pop("image", IMAGE), changes.pop("reference", IMAGE)
    known = ATTACKS.get(name).defaults
    if not set(changes) <= set(known):
        pytest.skip("the attack takes no such argument")
    if problem == "model under no_grad" and name in BLACK_BOX:
        assert run(name, model, image, reference).losses.shape[0] == 2, "outputs are all that it needs"
        return
    if problem == "three generators for two samples" and name == "universal":
        changes["generator"], words = [seeded(0)] * 4, "4 generators"
    with pytest.raises(SettingError) as caught:
        run(name, model, image, reference, **changes)
    message = str(caught.value)
    assert words in message and message.endswith(".") and "\n" not in message


def test_unknown_attack_names_the_known_ones() -> None:
    with pytest.raises(SettingError, match=r"^attack 'gradient' is not one of .*pgd.*\.$"):
        ATTACKS.get("gradient")


class TestOptions:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_option_says_what_it_is(self, name: str) -> None:
        attack = ATTACKS.get(name)
        assert attack.summary.endswith((".", "given.")) and len(attack.summary) < 150
        for option in attack.options:
            assert option.words and option.parse(option.default) == option.default

    def test_options_come_from_signature_and_docstring(self) -> None:
        restarts, momentum = ATTACKS.get("pgd").options
        assert (restarts.name, restarts.kind, restarts.default) == ("restarts", int, 1)
        assert momentum.words.startswith("share of the last direction")
        assert ATTACKS.get("pgd").parse_options({"restarts": "3"}) == {"restarts": 3, "momentum": 0.0}

    @pytest.mark.parametrize(
        ("given", "words"),
        [({"bogus": 1}, "no option 'bogus'"), ({"restarts": "many"}, "'many'"), ({"momentum": "x"}, "float")],
    )
    def test_bad_options_are_refused_in_one_sentence(self, given: dict[str, Any], words: str) -> None:
        with pytest.raises(SettingError) as caught:
            ATTACKS.get("pgd").parse_options(given)
        assert words in str(caught.value) and str(caught.value).endswith(".")


TOY = '''
"""A toy."""
from udc_defense.attacks.base import register
from udc_defense.attacks.objectives import mse
from udc_defense.attacks.search import Search


@register("toy")
def toy(model, image, reference, *, eps, steps=3, objective=mse, draws=1, generator=None, shift: float = 1.0):
    """Brighten the image.

    Args:
        shift: share of the radius.
    """
    search = Search(model, image, reference, objective, draws, steps)
    for step in range(1, steps + 1):
        search.loss((image + shift * eps * step / steps).clamp(0, 1))
        yield search.result(step)
'''


def test_a_new_attack_is_one_file(tmp_path: Path) -> None:
    """As CONTRIBUTING says: it is in the list of the command line and runs there, with its own option."""
    folder = tmp_path / "udc_defense_toy"
    folder.mkdir()
    (folder / "toy.py").write_text(TOY, encoding="utf-8")
    program = (
        "import sys, udc_defense.attacks as a; a.__path__.append(sys.argv.pop(1));"
        "from udc_defense.cli import main; sys.exit(main(sys.argv[1:]))"
    )

    def cli(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder), *words], capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = cli("attack", "--list")
    assert "toy" in listed and "--option shift=1: share of the radius." in listed
    from udc_defense.images import write_png

    write_png(torch.full((1, 3, 16, 16), 0.5), tmp_path / "photo.png")
    options = ("--attack", "toy", "--option", "shift=0.5", "--defense", "none", "--out", str(tmp_path / "out"))
    cli("attack", str(tmp_path / "photo.png"), *options)
    from udc_defense.images import read_image

    shown = read_image(tmp_path / "out" / "photo.png") * 255
    assert torch.allclose(shown, torch.full_like(shown, 130), atol=1e-3), "half of ε = 4 above 128"
