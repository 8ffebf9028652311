"""Distil a black-box restorer into a white-box surrogate: the first step of DUCD (arXiv 2408.10647), for images.

The target is asked about simulated captures with noise; a network of this project then learns its answers with the L1
loss of the paper, which takes pixels here where it took logits. Neither the target's weights nor its data are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from udc_defense.black_box import BlackBox, Target, state_once
from udc_defense.errors import SceneError, SettingError
from udc_defense.images import quantize
from udc_defense.metrics import psnr
from udc_defense.noise import normal, seeded
from udc_defense.output import write_json
from udc_defense.restorers.base import Restorer
from udc_defense.restorers.gated_unet import GatedUNet
from udc_defense.scenes import CROP_SIZE, read_pairs
from udc_defense.training.data import PairedCrops, SimulatedCaptures
from udc_defense.training.loop import Progress, TrainingSettings, save, train

CROPS_PER_CAPTURE = 4  # a capture costs more than a crop of it
CHECKED = 32  # answers at each size that are compared with and never learnt
UNSEEN = 10  # one scene in so many is kept for them


@dataclass(frozen=True)
class Questions:
    """What the target is asked about.

    Attributes:
        scenes: panoramas and photos, none of which needs to be the target's.
        panels: displays in front of the camera.
        count: queries at most, those that fidelity is measured with included.
        size: side of a query.
        sigma: queries have Gaussian noise, its deviation drawn from 0 to this.
        seed: of everything random.

    Raises:
        SettingError: a value is out of range.
        SceneError: there are fewer than two scenes.
    """

    scenes: Sequence[Path]
    panels: Sequence[str]
    count: int
    size: int = 128
    sigma: float = 8 / 255
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count <= 2 * CHECKED:
            raise SettingError(f"{self.count} queries: {2 * CHECKED} check the result, so more are needed.")
        if not 8 <= self.size <= CROP_SIZE:
            raise SettingError(f"queries of size {self.size} are not in 8…{CROP_SIZE}.")
        if not 0 <= self.sigma <= 1:
            raise SettingError(f"sigma {self.sigma:g} of the queries is not in 0…1.")
        if len(self.scenes) < 2:
            raise SceneError(f"{len(self.scenes)} scene: one to ask about and one to check the result need 2.")

    def facts(self) -> dict[str, Any]:
        """Of the card, and of the folder of the answers; more may be asked later."""
        return {
            "scenes": len(self.scenes),
            "panels": list(self.panels),
            "size": self.size,
            "sigma_in_255ths": round(255 * self.sigma, 3),
            "question_seed": self.seed,
        }


class NoisyCaptures(Dataset[Tensor]):
    """Item i: crops (CROPS_PER_CAPTURE, 3, size, size) of one simulated capture, each with noise of its own level."""

    def __init__(self, scenes: Sequence[Path], questions: Questions, size: int, sigma: float, seed: int) -> None:
        self.captures = SimulatedCaptures(
            scenes, questions.panels, length=1 << 40, size=size, crops=CROPS_PER_CAPTURE, seed=seed
        )
        self.sigma, self.seed = sigma, seed

    def __getitem__(self, index: int) -> Tensor:
        captured, _ = self.captures[index]
        level, *sources = (seeded((self.seed * 1_000_003 + index) * 64 + part) for part in range(len(captured) + 1))
        deviation = self.sigma * torch.rand(len(captured), 1, 1, 1, generator=level)
        return captured + deviation * normal(captured, sources)


def ask(target: Target, questions: Questions, out: Path) -> Iterator[int]:
    """Collect answers in `out/learnt`, `out/checked` and `out/checked_256`; yields the queries asked so far.

    It goes on where an earlier run was stopped: of what was answered nothing is asked again.

    Raises:
        SettingError: `out` holds answers of another target, or to other questions.
        CheckpointError: the target does not answer.
    """
    state_once(out / "questions.json", target.facts | questions.facts())
    total = 0
    for name, budget, captures in _parts(questions):
        box = BlackBox(target, out / name, budget=budget)
        yield total + box.queries
        index = box.queries // CROPS_PER_CAPTURE
        while box.queries < budget:
            box(captures[index][: budget - box.queries])
            index += 1
            yield total + box.queries
        total += budget


def _parts(questions: Questions) -> list[tuple[str, int, NoisyCaptures]]:
    """Folder, budget and captures: what is learnt, then unseen scenes without noise at both sizes."""
    unseen, seed = list(questions.scenes[::UNSEEN]), questions.seed
    seen = [scene for scene in questions.scenes if scene not in unseen]
    return [
        (
            "learnt",
            questions.count - 2 * CHECKED,
            NoisyCaptures(seen, questions, questions.size, questions.sigma, seed),
        ),
        ("checked", CHECKED, NoisyCaptures(unseen, questions, questions.size, 0, seed + 1)),
        ("checked_256", CHECKED, NoisyCaptures(unseen, questions, CROP_SIZE, 0, seed + 2)),
    ]


def distill(
    target: Target,
    questions: Questions,
    settings: TrainingSettings,
    network: Callable[[], Restorer] = GatedUNet,
) -> Iterator[Progress]:
    """Train a surrogate on the answers that `ask` collected in `settings.out`; it ends in `settings.out/surrogate`.

    Its weights are an average over the run, float16; training.json beside them says what was asked, and how faithful
    the surrogate is: PSNR between its output and the target's answers for captures of unseen scenes.

    Args:
        target: whose answers they are.
        questions: what was asked.
        settings: of the training.
        network: makes the untrained surrogate, whose class must be registered if it is to be loaded again.
    """
    pairs = _pairs(settings.out / "learnt")
    dataset = PairedCrops(pairs, length=1 << 40, size=questions.size, crops=1, seed=settings.seed)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(settings.seed)
        surrogate = network()

    def finish(trained: nn.Module, run: dict[str, Any]) -> None:
        folder = settings.out / "surrogate"
        save(trained.half(), folder)
        trained.float().eval()  # with the rounding of the file
        facts: dict[str, Any] = {"distilled_from": target.facts, "queries": len(pairs) + 2 * CHECKED}
        facts |= questions.facts() | {
            "fidelity": fidelity(trained, settings.out / "checked"),
            "fidelity_256": fidelity(trained, settings.out / "checked_256"),
        }
        write_json(folder / "training.json", facts | run)

    return train(surrogate, _loss, dataset, settings, finish=finish)


def fidelity(surrogate: nn.Module, folder: Path) -> dict[str, float]:
    """PSNR in dB between a surrogate's outputs and the target's answers in a folder: mean and worst over images."""
    device = next(surrogate.parameters()).device
    values = []
    for pair in _pairs(folder):
        captured, answer = pair.load()
        with torch.no_grad():
            output = surrogate(captured.to(device)).cpu()
        values.append(float(psnr(quantize(output, 16), answer)))
    return {"mean": round(sum(values) / len(values), 3), "worst": round(min(values), 3)}


def _pairs(folder: Path) -> list[Any]:
    return read_pairs(folder / "queries", folder / "answers")


def _loss(network: nn.Module, captured: Tensor, answer: Tensor, generators: list[torch.Generator]) -> Tensor:
    """L1, as arXiv 2408.10647 on logits."""
    return F.l1_loss(network(captured).float(), answer)
