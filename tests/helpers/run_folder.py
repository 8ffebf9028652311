"""A run folder as `udc-defense evaluate` writes it, of numbers that are known in advance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from udc_defense.images import write_png

Row = dict[str, Any]
IMAGES = ("lake", "mill", "night", "rocks")  # image i has i dB more than the first, wherever it is measured
DEFENSES = ("none", "default", "jpeg:75")
CLEAN = {"none": 30.0, "default": 28.0, "jpeg:75": 29.0}
NOISE = 29.5
# dB of the first image, by defense, title, ε and threat.
ATTACKED = {
    ("none", "PGD-20, ε = 2", 2.0, "oblivious"): 20.0,
    ("none", "PGD-20", 4.0, "oblivious"): 14.0,
    ("none", "Square", 4.0, "oblivious"): 21.0,
    ("default", "PGD-20, ε = 2", 2.0, "oblivious"): 27.0,
    ("default", "PGD-20", 4.0, "oblivious"): 25.0,
    ("default", "Square", 4.0, "oblivious"): 27.5,
    ("default", "PGD-20, ε = 2, exact", 2.0, "exact"): 22.0,
    ("default", "PGD-20, exact", 4.0, "exact"): 18.0,
    ("default", "PGD-20, bpda", 4.0, "bpda"): 19.0,
    ("jpeg:75", "PGD-20, ε = 2", 2.0, "oblivious"): 21.0,
    ("jpeg:75", "PGD-20", 4.0, "oblivious"): 17.0,
    ("jpeg:75", "Square", 4.0, "oblivious"): 22.0,
    ("jpeg:75", "PGD-20, exact", 4.0, "exact"): 15.0,
}
CONVERGENCE = {1: 20.0, 4: 18.5}
SPREAD = {"std": 0.5, "n": 4}


def rows_of(images: Sequence[str], restorer: str, shift: float) -> Iterator[Row]:
    """One row per image, attack and defense; `shift` moves all that is attacked."""
    for place, image in enumerate(images):
        common = {
            "image": image,
            "restorer": restorer,
            "degradation": "udc",
            "norm": "linf",
            "steps": 20,
            "seed": place,
        }
        for (defense, title, eps, threat), level in ATTACKED.items():
            attack = {"attack": "square", "norm": None} if title == "Square" else {"attack": "pgd"}
            setting = {"defense": defense, "title": title, "eps": eps, "threat": threat, "draws": 1}
            row = common | attack | setting | {"trivial": defense == "jpeg:75"}
            yield row | _measured(defense, level + place + shift, place, threat)
            if defense == "default":  # an answer under fresh noise, which must not enter any mean
                yield row | {"draw": 1, "psnr": {"defended_clean": 0.0, "defended_attacked": 0.0}}
        for draws, level in CONVERGENCE.items():
            setting = {"defense": "default", "title": f"EOT: PGD-4, draws {draws}", "eps": 4.0, "threat": "exact"}
            yield (
                common
                | setting
                | {"attack": "pgd", "draws": draws}
                | _measured("default", level + place, place, "exact")
            )
        transferred = {"defense": "none", "title": "PGD-20, made on other", "eps": 4.0, "threat": "oblivious"}
        yield common | transferred | {"made_on": "other"} | _measured("none", 1.0, place, "oblivious")


def _measured(defense: str, attacked: float, place: int, threat: str) -> Row:
    clean = CLEAN[defense] + place
    psnr = {"captured": 20.0, "restored": CLEAN["none"] + place, "noise_restored": NOISE + place}
    psnr |= {"attacked_restored": attacked} if defense == "none" else {}
    psnr |= {} if defense == "none" else {"defended_clean": clean, "defended_attacked": attacked}
    again = {
        "defended_clean": {"mean": clean, "worst": clean - 1} | SPREAD,
        "defended_attacked": {"mean": attacked - 0.25, "worst": attacked - 2} | SPREAD,
    }
    return {
        "draw": 0,
        "psnr": psnr,
        "ssim": {stage: value / 50 for stage, value in psnr.items()},
        "nfe": 8 if defense == "default" else 0,
        "seconds": {"restore": 0.02, "attack": 3.0} | ({} if defense == "none" else {"purify": 0.4}),
        "search": {"forwards": 21, "backwards": 20, "delta_rms": 3.5},
        "resubmission": again if defense == "default" and threat != "oblivious" else None,
        "peak_memory_mb": 500.0,
    }


def write_run(
    folder: Path,
    *,
    images: Sequence[str] = IMAGES,
    restorer: str = "default",
    shift: float = 0.0,
    finished: bool = True,
    examples: Sequence[str] = (),
) -> Path:
    """Write the folder; examples are 24 × 32 and have a perturbation of ±4/255."""
    folder.mkdir(parents=True)
    facts = {
        "command": "udc-defense evaluate --preset quick --out run",
        "seed": 7,
        "images": "four drawn scenes",
        "bundled": True,
        "degradations": ["udc", "blur"],
        "restorers": [restorer, "sharpener"],
        "defenses": [{"name": name} for name in DEFENSES[1:]],
        "hardware": "a test",
        "versions": {"python": "3"},
        "checkpoints": {"restorer default": "0" * 64},
    }
    (folder / "run.json").write_text(json.dumps(facts))
    lines = [json.dumps(row) for row in rows_of(images, restorer, shift)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    kinds = ("best", "worst")[: len(examples)]
    listed = [_example(folder / "examples", kind, name) for kind, name in zip(kinds, examples, strict=True)]
    if listed:
        (folder / "examples" / "examples.json").write_text(json.dumps(listed))
    if finished:
        (folder / "summary.json").write_text(json.dumps(SUMMARY))
    return folder


SUMMARY = {
    "flags": [
        {"check": "zero gradients", "raised": False, "words": "none.", "defense": "default", "restorer": "default"},
        {
            "check": "unbounded",
            "raised": True,
            "words": "it holds at ε = 64.",
            "defense": "default",
            "restorer": "default",
        },
    ],
    "transfer": [
        {
            "degradation": "udc",
            "attack": "PGD-20",
            "eps": 4,
            "images": 4,
            "rows": ["default", "other"],
            "columns": ["default", "other"],
            "psnr": [[14.0, 21.5], [19.5, 13.0]],
        }
    ],
    "cost": [{"defense": "default", "seconds": 0.125, "evaluations": 8, "peak_memory_mb": 300.0}],
}


def _example(folder: Path, kind: str, image: str) -> Row:
    stages = {
        "captured": 128 / 255,
        "clean": 0.6,
        "restored": 0.55,
        "attacked_restored": 0.3,
        "defended_attacked": 0.45,
    }
    (folder / kind).mkdir(parents=True)
    for stage, level in stages.items():
        write_png(torch.full((1, 3, 24, 32), level), folder / kind / f"{stage}.png")
    delta = torch.full((1, 3, 24, 32), 4 / 255)
    delta[..., 16:] *= -1
    write_png(delta + 128 / 255, folder / kind / "attacked_input.png")
    facts = {"restorer": "default", "defense": "default", "attack": "PGD-20", "eps": 4.0}
    return {"folder": kind, "kind": kind, "image": image, "psnr": {"restored": 30.0}} | facts
