"""What a user of the library writes, for mypy and pyright to judge (test_types.py); nothing here is run."""

from __future__ import annotations

from typing import Any, assert_type

from torch import Tensor, nn

import udc_defense
from udc_defense import (
    Defense,
    attacks,
    capture,
    evaluate,
    get_panel,
    load_defense,
    load_purifier,
    load_restorer,
    metrics,
    read_image,
    scenes,
)
from udc_defense.attacks import AttackResult, pgd
from udc_defense.certification import Gaussian
from udc_defense.evaluation.api import Summary
from udc_defense.purifiers.diffusion import DiffusionPurifier
from udc_defense.restorers.base import Restorer


def the_program_of_the_readme() -> None:
    photo = scenes.centre_crop(read_image("photo.png"))
    captured = capture(scenes.scene_from_photo(photo), get_panel("axon20"))
    assert_type(captured, Tensor)
    defense = load_defense()
    assert_type(defense, Defense)
    assert_type(attacks.pgd(defense.restorer, captured, photo, eps=4 / 255, steps=5).image, Tensor)
    assert_type(metrics.psnr(captured, photo), Tensor)


def every_public_name_has_a_type(image: Tensor) -> None:
    assert_type(load_restorer("default"), Restorer)
    assert_type(load_purifier("diffusion", noise_level=10), DiffusionPurifier)
    defense = Defense(load_restorer(), load_purifier())
    assert_type(udc_defense.threat(defense, "exact"), nn.Module)
    assert_type(pgd(defense, image, image, eps=4 / 255), AttackResult)
    assert_type(attacks.square(defense, image, image, eps=image.new_ones(1), steps=100), AttackResult)
    assert_type(Gaussian(0.1), Gaussian)


def an_evaluation_from_python() -> None:
    summary = evaluate("nafnet", defenses=["default", "jpeg:quality=50"], preset="quick", out="out")
    assert_type(summary, Summary)
    assert_type(summary.headline, list[dict[str, Any]])


def mistakes_are_refused(model: nn.Module, image: Tensor) -> None:
    # Each comment is an error of its own for the checkers where there is nothing to ignore.
    attacks.pgd(model, image, image, eps="x")  # type: ignore[arg-type]
    attacks.pgd(model, image, image)  # type: ignore[call-arg]
    attacks.simba(model, image, image, eps=0.1, basis="wavelet")  # type: ignore[arg-type]
    udc_defense.load_restorers()  # type: ignore[attr-defined]
    attacks.gpd  # type: ignore[attr-defined]  # noqa: B018
    evaluate(out=3)  # type: ignore[arg-type]
    load_defense(5)  # type: ignore[arg-type]
    udc_defense.threat(Defense(model), "knowing")  # type: ignore[arg-type]
