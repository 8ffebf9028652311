"""The protocol behind `results/finetuning.json`: the paper's table (arXiv 2402.13629) for our own networks.

Every fine-tuned restorer, and the one it comes from, alone and behind the default purifier. On the 128² centres of the
crops: PGD by who does not know the purifier. On those of the crops marked adaptive: attacks that cost more, and PGD by
who differentiates purifier and restorer together. On `val` only what choices and goals hang on: PGD at one ε.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from udc_defense.evaluation.attack_suite import EXACT, LAYER, TARGET_PSNR
from udc_defense.evaluation.entry import Entry, jobs_of, rows_of
from udc_defense.evaluation.runner import CENTRE, Job, Results
from udc_defense.evaluation.spine import mean
from udc_defense.purification import DEFAULT
from udc_defense.scenes import read_crops

BASE = "default"
# Embedded names; each but the base was fine-tuned after the recipe of its name.
NETWORKS = (BASE, "noisy", "purified", "adversarial", "purified_adversarial")
WORDS = {
    BASE: "base network",
    "noisy": "fine-tuned on random noise",
    "purified": "fine-tuned on purified captures (the paper's)",
    "adversarial": "adversarially fine-tuned",
    "purified_adversarial": "adversarially fine-tuned through the purifier",
}
EPSILONS = (1.0, 2.0, 4.0, 8.0)
CHOICE_EPS = 4.0


def unknowing(network: str, eps: float) -> Entry:
    """PGD-20 on the restorer in use, by an attacker who knows of no purifier."""
    return Entry(f"PGD-20, ε = {eps:g}", "pgd", {"eps": eps}, restorer=network)


def knowing(network: str, eps: float) -> Entry:
    """PGD-20 through purifier and restorer."""
    return Entry(f"PGD-20 knowing the purifier, ε = {eps:g}", "pgd", EXACT | {"eps": eps}, restorer=network)


def features(network: str) -> Entry:
    """PGD on the features of the restorer's coarsest scale: what stands for the paper's LPIPS without its weights."""
    return Entry("PGD-20 on features", "pgd", {"objective": f"feature:{LAYER}"}, restorer=network)


def queries(network: str) -> Entry:
    """The paper's black box, 1000 iterations."""
    return Entry("SimBA, 1000 iterations", "simba", restorer=network)


def smallest(network: str) -> Entry:
    """C&W on the restorer alone, down to a fixed PSNR."""
    changes = {"options": {"psnr": TARGET_PSNR}, "precision": "bfloat16"}
    return Entry(f"C&W to {TARGET_PSNR:g} dB", "cw", changes, restorer=network)


def jobs(scenes: Path, crops: Path, split: str | None, seed: int) -> Iterator[Job]:
    """One job per crop and entry; what choices hang on comes first."""
    chosen = read_crops(crops, split)
    adaptive = [crop for crop in chosen if crop.adaptive]
    yield from jobs_of([knowing(n, CHOICE_EPS) for n in NETWORKS], adaptive, scenes, seed)
    yield from jobs_of([unknowing(n, CHOICE_EPS) for n in NETWORKS], chosen, scenes, seed)
    heldout, dear = ([crop for crop in part if crop.split == "heldout"] for part in (chosen, adaptive))
    others = [eps for eps in EPSILONS if eps != CHOICE_EPS]
    yield from jobs_of([unknowing(n, eps) for eps in others for n in NETWORKS], heldout, scenes, seed)
    yield from jobs_of([knowing(n, eps) for eps in others if eps > 1 for n in NETWORKS], dear, scenes, seed)
    yield from jobs_of([make(n) for make in (features, smallest, queries) for n in NETWORKS], dear, scenes, seed)


def describe() -> dict[str, Any]:
    """The protocol in words and numbers, for the results file."""
    return {
        "images": f"{CENTRE}² centres of the crops; those marked adaptive for attacks that cost more",
        "val": f"eps {CHOICE_EPS:g} only: for choices",
        "networks": WORDS,
        "purifier": DEFAULT.facts(),
        "eps_in_255ths": EPSILONS,
        "cw_target_psnr": TARGET_PSNR,
        "recovered": "(defended attacked - base attacked) / (base clean - base attacked); base is never fine-tuned",
    }


def recovered(results: Results, network: str, split: str, key: str) -> float:
    """Share of what PGD-20 takes from the base network that a system keeps or gives back, at the ε of choice.

    Args:
        results: of this protocol.
        network: fine-tuned restorer.
        split: `val` or `heldout`.
        key: `attacked_restored` alone, `defended_attacked` behind the purifier.
    """
    base, own = (rows_of(results, unknowing(n, CHOICE_EPS), split) for n in (BASE, network))
    clean, attacked = (mean(base, "psnr", name) for name in ("restored", "attacked_restored"))
    return (mean(own, "psnr", key) - attacked) / (clean - attacked)
