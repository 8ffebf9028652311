"""Fine-tune a restorer after a recipe: the second stage of the paper's defense (arXiv 2402.13629), and its controls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from udc_defense.black_box import state_once
from udc_defense.checkpoints.files import checksum
from udc_defense.checkpoints.load import load_restorer
from udc_defense.checkpoints.resolve import resolve
from udc_defense.errors import CheckpointError, SettingError
from udc_defense.output import write_json
from udc_defense.training.data import Augmented
from udc_defense.training.loop import Progress, TrainingSettings, save, train
from udc_defense.training.perceptual import BACKBONE, vgg19
from udc_defense.training.purified import Cache
from udc_defense.training.recipes import Recipe, Tools
from udc_defense.vgg import Vgg

RECIPE = "recipe.json"


def find_backbone(recipe: Recipe, out: Path) -> tuple[Vgg | None, str]:
    """The backbone of the perceptual part, or None and the reason; a run that began without it goes on without.

    Args:
        recipe: may give the perceptual part no weight.
        out: folder of the run.
    """
    if recipe.perceptual == 0:
        return None, "its weight is 0."
    stated = out / RECIPE
    if stated.is_file() and json.loads(stated.read_text(encoding="utf-8"))["backbone"] is None:
        return None, "the run began without it."
    try:
        return vgg19(), ""
    except CheckpointError as error:
        return None, str(error)


def finetune(
    source: str,
    recipe: Recipe,
    dataset: Dataset[tuple[Tensor, Tensor]],
    settings: TrainingSettings,
    facts: dict[str, Any],
    *,
    purifier: nn.Module | None = None,
    purifier_facts: dict[str, Any] | None = None,
    perceptual: Vgg | None = None,
    cache: Path | None = None,
    different: int | None = None,
) -> Iterator[Progress]:
    """Train on from a restorer's weights; the EMA weights end in `settings.out/restorer` as float16.

    `settings.out/recipe.json` keeps the recipe and the sha256 of what it starts from; a resumed run must agree.

    Args:
        source: the restorer: embedded name, folder or Hub id.
        recipe: what it is shown, and what is asked of it.
        dataset: captures and clean images, tone-mapped.
        settings: of the run.
        facts: what else the card shall say (data, panels).
        purifier: of recipes that purify.
        purifier_facts: its settings and the sha256 of its weights.
        perceptual: backbone of the perceptual part; without it L2 is all.
        cache: folder where purified copies are kept.
        different: so many captures, which come again and again; new ones all the time if not given.

    Raises:
        CheckpointError: the restorer cannot be had.
        SettingError: the folder's run has another recipe, or the recipe lacks its purifier.
    """
    if recipe.purifies != (purifier is not None):
        raise SettingError(f"recipe {recipe.name} {'needs a' if recipe.purifies else 'takes no'} purifier.")
    folder = resolve(source, "restorer")
    # Evaluation mode: an attack meets the network as it is used, and no statistics of a normalisation move.
    network = load_restorer(folder).requires_grad_(True)
    settled = {
        "recipe": recipe.name,
        **json.loads(json.dumps(asdict(recipe))),
        "restorer": checksum(folder),
        "purifier": purifier_facts,
        "backbone": BACKBONE if perceptual else None,
    }
    state_once(settings.out / RECIPE, settled)
    tools = Tools(purifier, perceptual, Cache(cache, purifier_facts or {}) if cache else None)

    def loss(network: nn.Module, captured: Tensor, clean: Tensor, generators: list[torch.Generator]) -> Tensor:
        for module in (purifier, perceptual):
            if module is not None:
                module.to(captured.device)
        return recipe.loss(network, captured, clean, generators, tools)

    def finish(trained: nn.Module, run: dict[str, Any]) -> None:
        target = settings.out / "restorer"
        save(trained.half(), target)
        told = facts | run | {"finetuned_from": source, "finetuning": settled}
        write_json(target / "training.json", told)

    augmented = Augmented(dataset, jitter=recipe.jitter, seed=settings.seed, different=different)
    return train(network, loss, augmented, settings, finish=finish)
