"""The measurement behind `results/ducd.json`: the embedded restorer distilled, and what its surrogate reveals of it.

Of the scenes that the restorer was trained on, every other one is asked about; the rest are the members whose presence
in its training a membership attack tries to find, and the `val` crops are images that it has not seen. The surrogate
has seen neither. It is an ordinary checkpoint: its certificates are those of `udc-defense certify`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from study.measure import digits
from study.measure.membership import infer_membership
from study.measure.transfer import transfer_row, transfer_success
from udc_defense.black_box import find_target
from udc_defense.certification.median import smooth_median
from udc_defense.certification.noise import Gaussian
from udc_defense.certification.sampling import drawn
from udc_defense.checkpoints.files import checksum, training_facts
from udc_defense.checkpoints.load import checkpoint_sums, load_restorer
from udc_defense.evaluation.jobs import CENTRE
from udc_defense.formats.light import SUFFIXES as LIGHT_SUFFIXES
from udc_defense.metrics import psnr
from udc_defense.output import write_json
from udc_defense.photo.settings import Settings
from udc_defense.photo.stages import row_seed, simulate
from udc_defense.provenance import versions
from udc_defense.scenes import Crop, clean_image, read_crops
from udc_defense.training.data import list_scenes
from udc_defense.training.distill import Questions, ask, distill
from udc_defense.training.loop import TrainingSettings

RESTORER = "default"
EPS = 4 / 255
STEPS = 20
QUERIES, TRAINED = 20_000, 10_000  # and steps of the optimizer
PRECISION = "bf16"  # of the training
SIGMA = 8 / 255  # of the smoothing, and the largest of the queries
SAMPLES = 16  # per smoothed image
FIELD_OF_VIEW = 80.0  # of a member that is a panorama, as of the crop list's

Sample = tuple[str, Tensor, Tensor]  # name, capture, clean image


def split_scenes(scenes: Path, crops: Path) -> tuple[list[Path], list[Path]]:
    """What the target is asked about, and the members: a half each of the scenes that nothing is evaluated on."""
    found = list_scenes(scenes, crops)
    return found[::2], found[1::2]


def distilled(scenes: Path, crops: Path, run: Path, seed: int) -> Iterator[tuple[int, int]]:
    """Ask the target and train the surrogate in `run`, or go on with it; yields (done, all) of queries and steps."""
    asked, _ = split_scenes(scenes, crops)
    target, questions = find_target(RESTORER), Questions(asked, ["axon20"], QUERIES, sigma=SIGMA, seed=seed)
    settings = TrainingSettings(
        run, steps=TRAINED, batch=4, learning_rate=5e-4, seed=seed, precision=PRECISION, resume=True
    )
    yield from ((done, QUERIES + TRAINED) for done in ask(target, questions, run))
    yield from ((QUERIES + state.step, QUERIES + TRAINED) for state in distill(target, questions, settings))


def measure(scenes: Path, crops: Path, run: Path, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(Name, result) of one part after the other; a part that an earlier run has finished is read and not repeated.

    Args:
        scenes: folder that the crop list's paths start from.
        crops: the crop list.
        run: where `distill` left the surrogate; parts are kept there, with the surrogate's sha256 in their names.
        seed: of captures, attacks and smoothing.
    """
    folder = run / "surrogate"
    target, surrogate = load_restorer(RESTORER), load_restorer(folder)
    yield "distillation", training_facts(folder)
    val = [(crop.name, *_captured(crop, scenes, seed)) for crop in read_crops(crops, "val")]
    views = [_view(path.relative_to(scenes)) for path in split_scenes(scenes, crops)[1]]
    members = [(crop.name, *_captured(crop, scenes, seed)) for crop in views]
    parts: dict[str, Callable[[], Any]] = {
        "transfer": lambda: _transfer(target, surrogate, val, seed),
        "membership": lambda: _membership(target, surrogate, members, val, seed),
        "digits": digits.measure,
    }
    for name, compute in parts.items():
        kept = run / f"{name}-{checksum(folder)[:8]}-{seed}.json"
        if not kept.is_file():
            write_json(kept, compute())
        yield name, json.loads(kept.read_text(encoding="utf-8"))


def head(seed: int, run: Path) -> dict[str, Any]:
    """What else the results file states."""
    return {
        "command": "python -m study measure ducd --scenes DIR --crops DIR/crops.csv",
        "seed": seed,
        "versions": versions(),
        "checkpoints": checkpoint_sums(RESTORER) | {"surrogate": checksum(run / "surrogate")},
        "protocol": {
            "images": f"{CENTRE}² centres, panel {Settings().panel}; val crops, and one view of each member",
            "attack": f"PGD-{STEPS}, L∞, ε = {255 * EPS:g}/255, on the surrogate and, white box, on the target",
            "smoothing": f"median of {SAMPLES} outputs under Gaussian noise, σ = {255 * SIGMA:g}/255",
            "scores": "PSNR of the restored image, and what it gained over the capture; `capture` is the control, for "
            "what it tells lies in the choice of the images",
        },
    }


def _captured(crop: Crop, scenes: Path, seed: int) -> tuple[Tensor, Tensor]:
    scene = crop.scene(scenes)
    captured = simulate(scene, Settings(seed=seed), crop.name)
    margin = (captured.shape[-1] - CENTRE) // 2
    inner = (..., slice(margin, margin + CENTRE), slice(margin, margin + CENTRE))
    return captured[inner], clean_image(scene)[inner]


def _view(path: Path) -> Crop:
    """A member as an image of the same kind as the crops of the list."""
    kind = "perspective" if path.suffix.lower() in LIGHT_SUFFIXES else "box"
    return Crop("train", path.as_posix(), kind, yaw=0.0, pitch=0.0, fov=FIELD_OF_VIEW, adaptive=False)


def _transfer(target: nn.Module, surrogate: nn.Module, samples: list[Sample], seed: int) -> dict[str, Any]:
    rows = {}
    for name, captured, clean in samples:
        drawn_seed = row_seed(seed, name, "transfer", 255 * EPS, "surrogate", 0)
        rows[name] = transfer_row(target, surrogate, captured, clean, eps=EPS, steps=STEPS, seed=drawn_seed)
    return transfer_success(list(rows.values())) | {"rows": rows}


def _membership(
    target: nn.Module, surrogate: nn.Module, members: list[Sample], others: list[Sample], seed: int
) -> dict[str, Any]:
    noise = Gaussian(SIGMA)

    def smoothed(captured: Tensor) -> Tensor:
        values = drawn(surrogate, captured, noise, samples=SAMPLES, seed=seed)
        return smooth_median(values, noise, (), confidence=0.99)[0]

    models: dict[str, Callable[[Tensor], Tensor]] = {
        "capture": lambda captured: captured,
        "target": target,
        "surrogate": surrogate,
        "smoothed": smoothed,
    }
    found: dict[str, Any] = {"members": len(members), "others": len(others)}
    before = [[_psnr(captured, clean) for _, captured, clean in samples] for samples in (members, others)]
    for name, model in models.items():
        after = [[_psnr(model(captured), clean) for _, captured, clean in samples] for samples in (members, others)]
        gained = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(after, before, strict=True)]
        found[name] = {
            score: asdict(infer_membership(*values, seed=seed)) for score, values in (("psnr", after), ("gain", gained))
        }
    return found


def _psnr(image: Tensor, clean: Tensor) -> float:
    return float(psnr(image, clean))
