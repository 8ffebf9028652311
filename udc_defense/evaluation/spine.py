"""The protocol behind `results/spine.json`: the embedded networks on `axon20`, every number of the README.

On every crop: PGD-20 at ε = 1, 2, 4, 8 against the default defense and a plain diffusion model. On `val`, where choices
are made: every sampler × noise level at ε = 4. On the crops marked adaptive, at 128²: the attacker who differentiates
the defense.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from udc_defense.evaluation.runner import CENTRE, Cell, Job, Results
from udc_defense.photo.result import KEYS
from udc_defense.photo.settings import Settings
from udc_defense.purification import DEFAULT, DIFFUSION, Purification
from udc_defense.scenes import Crop, read_crops

EPSILONS = (1.0, 2.0, 4.0, 8.0)
CHOICE_EPS = 4.0
NOISE_LEVELS = (5, 10, 20, 50, 100)
DEFENSES = (DEFAULT, DIFFUSION)
GRID = tuple(
    Purification(sampler, level, steps=steps, draws=draws)
    for level in NOISE_LEVELS
    for sampler, steps, draws in (("one_step", 5, 1), ("one_step", 5, 8), ("ddim", 5, 1), ("ddpm", 5, 1))
)


def jobs(scenes: Path, crops: Path, split: str | None, seed: int) -> Iterator[Job]:
    """One job per crop and setting of the attack."""
    for crop in read_crops(crops, split):
        cells = [Cell(_settings(eps, seed), _faced(crop, eps)) for eps in EPSILONS]
        if crop.adaptive:
            for threat in ("oblivious", "exact"):
                settings = replace(_settings(CHOICE_EPS, seed), threat=threat)
                cells.append(Cell(settings, DEFENSES, size=CENTRE))
        yield from (Job(crop, str(scenes), cell) for cell in cells)


def _settings(eps: float, seed: int) -> Settings:
    return Settings(attack="pgd", eps=eps, steps=20, norm="linf", seed=seed)


def _faced(crop: Crop, eps: float) -> tuple[Purification, ...]:
    """Two everywhere; on val at the ε of choice the whole grid too."""
    return DEFENSES + (GRID if (crop.split, eps) == ("val", CHOICE_EPS) else ())


def describe() -> dict[str, Any]:
    """The protocol in words and numbers, for the results file."""
    return {
        "panel": Settings().panel,
        "attack": "pgd, L-infinity, 20 steps, step size eps/4, random start, best iterate",
        "eps_in_255ths": EPSILONS,
        "default": DEFAULT.facts(),
        "diffusion": DIFFUSION.facts(),
        "adaptive": f"exact gradient through all draws of the defense, fresh noise each step, {CENTRE}² centres",
        "control": "the attack's own magnitudes with random signs",
    }


def select(results: Results, split: str, **wanted: Any) -> list[dict[str, Any]]:
    """Rows of a split whose fields have the wanted values; whole 256² crops unless `size` says otherwise."""
    wanted = {"split": split, "size": 256, "threat": "oblivious"} | wanted
    return [row for row in results.rows if all(row[key] == value for key, value in wanted.items())]


def mean(rows: Sequence[dict[str, Any]], metric: str, key: str) -> float:
    """Mean of a score over rows; not a number without any."""
    values = [row[metric][key] for row in rows if row[metric][key] is not None]
    return sum(values) / len(values) if values else float("nan")


def recovered(rows: Sequence[dict[str, Any]]) -> float:
    """Recovered share of the mean PSNRs: the formula on averages, which a fragile image cannot dominate."""
    base, attacked = mean(rows, "psnr", "restored"), mean(rows, "psnr", "attacked_restored")
    return (mean(rows, "psnr", "defended_attacked") - attacked) / (base - attacked)


def defended_rows(
    results: Results, split: str, eps: float, purification: Purification = DEFAULT, **wanted: Any
) -> list[dict[str, Any]]:
    """Rows of a defense, by default the default one."""
    return select(results, split, eps=eps, purifier=purification.facts(), **wanted)


def table(results: Results, split: str, metric: str = "psnr", purification: Purification = DEFAULT) -> str:
    """Markdown: every key over ε."""
    words = {
        "captured": "capture",
        "restored": "restored",
        "attacked_input": "attacked capture",
        "attacked_restored": "attacked, restored",
        "noise_restored": "random noise, restored",
        "defended_clean": "purified clean, restored",
        "defended_attacked": "purified attacked, restored",
    }
    columns = ["ε (1/255)", *(words[key] for key in KEYS), *(["recovered"] if metric == "psnr" else [])]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    digits = 2 if metric == "psnr" else 3
    for eps in EPSILONS:
        rows = defended_rows(results, split, eps, purification)
        cells = [f"{mean(rows, metric, key):.{digits}f}" for key in KEYS]
        if metric == "psnr":
            cells.append(f"{recovered(rows):.0%}")
        lines.append(f"| {eps:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def grid_table(results: Results) -> str:
    """Markdown: every sampler × noise level on val at the ε of choice."""
    head = (
        "| purifier | t* | network evaluations | clean cost (dB) | gain under PGD-20 (dB) | recovered | s per image |"
    )
    lines = [head, "|---" * 7 + "|"]
    for purification in (DEFAULT, *sorted({DIFFUSION, *GRID}, key=lambda p: (p.sampler, p.draws, p.noise_level))):
        rows = select(results, "val", eps=CHOICE_EPS, purifier=purification.facts())
        cost = mean(rows, "psnr", "restored") - mean(rows, "psnr", "defended_clean")
        gain = mean(rows, "psnr", "defended_attacked") - mean(rows, "psnr", "attacked_restored")
        # The stage purifies and restores the capture and the attacked capture: two images.
        seconds = sum(row["seconds"]["purify"] for row in rows) / max(1, len(rows)) / 2
        name = purification.sampler + (f" × {purification.draws}" if purification.draws > 1 else "")
        mark = " (default, trained for one step)" if purification == DEFAULT else ""
        lines.append(
            f"| {name}{mark} | {purification.noise_level} | {rows[0]['nfe'] if rows else ''} "
            f"| {cost:.2f} | {gain:+.2f} | {recovered(rows):.0%} | {seconds:.2f} |"
        )
    return "\n".join(lines)


def adaptive_table(results: Results, split: str, purification: Purification = DEFAULT) -> str:
    """Markdown: the attacker who knows the defense beside the one who does not, on the same 128² crops."""
    columns = "attacker", "undefended, restored", "defended", "defended, no attack", "random noise, no defense"
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for threat, words in (("oblivious", "does not know the defense"), ("exact", "differentiates the defense")):
        rows = defended_rows(results, split, CHOICE_EPS, purification, size=CENTRE, threat=threat)
        keys = ("attacked_restored", "defended_attacked", "defended_clean", "noise_restored")
        lines.append(f"| {words} | " + " | ".join(f"{mean(rows, 'psnr', key):.2f}" for key in keys) + " |")
    return "\n".join(lines)
