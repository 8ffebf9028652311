"""The networks of a demo: the owner's, and those that visitors name; the latest few stay loaded."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from udc_defense.checkpoints.files import embedded_names
from udc_defense.checkpoints.load import load_restorer
from udc_defense.checkpoints.models import show_models
from udc_defense.defense import Defense
from udc_defense.demo.choices import Choices
from udc_defense.demo.presets import choose
from udc_defense.detection import calibrated
from udc_defense.device import best_device
from udc_defense.errors import CheckpointError
from udc_defense.purification import Purification
from udc_defense.restorers.base import Restorer
from udc_defense.scenes import CROP_SIZE

LOADED = 3  # restorers at once, and purifiers
GPU_SECONDS = 0.02  # per evaluation, at the largest size


class Networks:
    """What choices without a name of their own mean.

    Args:
        restorer: an embedded name, a Hub id, a folder or `package.module:attribute`: the owner may name more than a
            visitor may.
        purifier: an embedded name, a Hub id or a folder.

    Attributes:
        seconds: that the restorer takes here for 256².

    Raises:
        CheckpointError: the restorer cannot be loaded.
    """

    def __init__(self, restorer: str = "default", purifier: str = "diffusion") -> None:
        self.owner = {"restorer": restorer, "purifier": purifier}
        self._load = lru_cache(maxsize=LOADED)(_loaded)
        self._load_purifier = lru_cache(maxsize=LOADED)(_loaded_purifier)
        # Loaded before the first visitor comes; a Space that lends its GPU wants the weights now.
        self.seconds = _seconds(self._load(restorer))
        self.defense(choose())

    def source(self, kind: str, choices: Choices) -> str:
        """Where a network comes from; may be a folder, which is the owner's business."""
        return getattr(choices, kind) or self.owner[kind]

    def label(self, kind: str, choices: Choices) -> str:
        """The name for the world."""
        source = self.source(kind, choices)
        return Path(source).name if Path(source).is_dir() else source

    def purification(self, choices: Choices) -> Purification | None:
        return choices.purification(self.source("purifier", choices))

    def defense(self, choices: Choices) -> Defense:
        """The networks, loaded.

        Raises:
            CheckpointError: one cannot be had.
        """
        purification = self.purification(choices)
        purifier = self._load_purifier(purification) if purification else None
        return Defense(self._load(self.source("restorer", choices)), purifier).eval()

    def sums(self, choices: Choices) -> dict[str, str]:
        """Kind -> sha256 of the weights in use."""
        defense = self.defense(choices)
        return {kind: getattr(defense, kind).sha256 for kind in self.used(choices)}

    def used(self, choices: Choices) -> list[str]:
        """The kinds of networks that a run needs."""
        purification = self.purification(choices)
        return ["restorer"] + (["purifier"] if purification and not purification.is_transform else [])

    def purifier_facts(self, choices: Choices) -> dict[str, Any] | None:
        """What a report says of the defense; of its weights, their name for the world."""
        purification = self.purification(choices)
        if purification is None:
            return None
        facts = purification.facts()
        return facts | {"weights": self.label("purifier", choices)} if "weights" in facts else facts

    def checkpoints(self, choices: Choices) -> dict[str, str]:
        """`kind name` -> sha256, as reports have it."""
        return {f"{kind} {self.label(kind, choices)}": found for kind, found in self.sums(choices).items()}

    def threshold(self, choices: Choices) -> float | None:
        """Of the detector in dB; None where it was calibrated for other networks or another defense."""
        facts = self.purifier_facts(choices)
        return None if facts is None else calibrated(facts, self.checkpoints(choices))

    def line(self, choices: Choices) -> str:
        """`Model: …`: which networks, where they come from, and what their cards say of their training.

        Raises:
            CheckpointError: one that was named cannot be had.
        """
        return "Model: " + "; ".join(self._words(kind, choices) for kind in self.used(choices)) + "."

    def _words(self, kind: str, choices: Choices) -> str:
        source, label = self.source(kind, choices), self.label(kind, choices)
        try:
            (details,) = show_models(f"{kind}/{source}" if source in embedded_names(kind) else source)
        except CheckpointError:
            if source != self.owner[kind]:
                raise
            return f"{kind} `{label}`, without a card"  # a network of Python's path, for one
        model = details.model
        size = f"{model.parameters / 1e6:.1f} M parameters"
        return f"{kind} `{label}` ({model.source}), {size}, {trained(details.training)}"


def _loaded(source: str) -> Restorer:
    return load_restorer(source).to(best_device())


def _loaded_purifier(purification: Purification) -> nn.Module:
    return purification.load().to(best_device())


def _seconds(restorer: Restorer) -> float:
    """Of the second evaluation: the first one has more to do. A GPU may be lent for visitors only, and is not asked."""
    if best_device() == "cuda":
        return GPU_SECONDS
    image = torch.rand(1, 3, CROP_SIZE, CROP_SIZE, device=best_device())
    with torch.no_grad():
        restorer(image)
        started = time.perf_counter()
        restorer(image).cpu()  # waits for a device that works on its own
    return time.perf_counter() - started


def trained(facts: dict[str, Any]) -> str:
    """`trained on 94 scenes as captures through axon20 (50 %), …`, leaving out what is not known."""
    panels = [str(panel) for panel in facts.get("panels") or ()]
    data = next((f"on {facts[kind]} {kind}" for kind in ("scenes", "pairs") if isinstance(facts.get(kind), int)), "")
    shares = [f"{name} ({panels.count(name) / len(panels):.0%})" for name in dict.fromkeys(panels)]
    known = [
        data,
        f"as captures through {', '.join(shares)}" if shares else "",
        f"for {facts['steps']:,} steps" if isinstance(facts.get("steps"), int) else "",
        f"in {_long(facts['seconds'])}" if isinstance(facts.get("seconds"), (int, float)) else "",
        f"on {facts['device']}" if facts.get("device") else "",
    ]
    said = " ".join(part for part in known if part)
    return f"trained {said}" if said else "its training unrecorded"


def _long(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{max(1, round(seconds / 60))} min"
