"""The protocol behind `results/architectures.json`: restorers of other architectures under one attack and one defense.

The paper (arXiv 2402.13629) attacks seven published networks. These are small versions of such networks that were
trained for about half an hour each on equal captures, on the 128² centres of the held-out crops. Behind each: the
default purifier, which was trained against attacks on the default restorer alone, and a diffusion model, which knows no
restorer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from udc_defense.evaluation.entry import Entry, jobs_of, rows_of
from udc_defense.evaluation.finetuning_suite import knowing, unknowing
from udc_defense.evaluation.runner import CENTRE, Cell, Job, Results
from udc_defense.evaluation.spine import mean
from udc_defense.photo.settings import Settings
from udc_defense.purification import DEFAULT, DIFFUSION
from udc_defense.scenes import read_crops

# Embedded names; the first was trained for longer.
NETWORKS = {
    "default": "gated U-Net (the default)",
    "nafnet": "NAFNet",
    "de_unet": "DE-UNet",
    "udc_unet": "UDC-UNet",
    "uformer": "Uformer",
}
EPSILONS = (2.0, 4.0, 8.0)
CHOICE_EPS = 4.0


def jobs(scenes: Path, crops: Path, split: str | None, seed: int) -> Iterator[Job]:
    """One job per crop, network and radius; then those of who knows the default purifier."""
    heldout = [crop for crop in read_crops(crops, split) if crop.split == "heldout"]
    for network in NETWORKS:
        for eps in EPSILONS:
            cell = Cell(Settings(attack="pgd", eps=eps, seed=seed), (DEFAULT, DIFFUSION), size=CENTRE)
            yield from (Job(crop, str(scenes), cell, network) for crop in heldout)
    adaptive = [crop for crop in heldout if crop.adaptive]
    yield from jobs_of([knowing(network, CHOICE_EPS) for network in NETWORKS], adaptive, scenes, seed)


def describe() -> dict[str, Any]:
    """The protocol in words and numbers, for the results file."""
    return {
        "images": f"{CENTRE}² centres of the held-out crops",
        "attack": "PGD-20, L-infinity",
        "eps_in_255ths": EPSILONS,
        "networks": NETWORKS,
        "purifiers": {"default": DEFAULT.facts(), "diffusion": DIFFUSION.facts()},
    }


def table(results: Results, networks: Iterable[str] = NETWORKS) -> str:
    """Markdown: mean PSNR of networks, bare, behind both purifiers, and under who knows the default one."""
    radii = [f"PGD-20, ε = {eps:g}" for eps in EPSILONS]
    purified = [f"{words}: {column}" for words in ("purified", "diffusion") for column in ("clean", "ε = 4")]
    columns = ["restorer", "capture", "clean", "noise, ε = 4", *radii, *purified, "purified, known, ε = 4"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for network in networks:
        bare = {eps: unknowing_rows(results, network, eps) for eps in EPSILONS}
        found = [mean(bare[CHOICE_EPS], "psnr", key) for key in ("captured", "restored", "noise_restored")]
        found += [mean(bare[eps], "psnr", "attacked_restored") for eps in EPSILONS]
        diffusion = rows_of(results, Entry("", "pgd", {"eps": CHOICE_EPS}, DIFFUSION, network), "heldout")
        for rows in (bare[CHOICE_EPS], diffusion):
            found += [mean(rows, "psnr", key) for key in ("defended_clean", "defended_attacked")]
        found.append(mean(rows_of(results, knowing(network, CHOICE_EPS), "heldout"), "psnr", "defended_attacked"))
        lines.append(f"| {NETWORKS[network]} | " + " | ".join(f"{score:.2f}" for score in found) + " |")
    return "\n".join(lines)


def verdict(results: Results) -> str:
    """What the table says, in one paragraph."""
    rows = {network: unknowing_rows(results, network) for network in NETWORKS}

    def span(values: list[float]) -> str:
        return f"{min(values):.1f} to {max(values):.1f} dB"

    def differences(more: str, less: str) -> list[float]:
        return [mean(own, "psnr", more) - mean(own, "psnr", less) for own in rows.values()]

    def extremes(values: list[float]) -> list[str]:
        return [list(NETWORKS.values())[values.index(choose(values))] for choose in (max, min)]

    lost, back = differences("restored", "attacked_restored"), differences("defended_attacked", "attacked_restored")
    (most, least), (helped, helped_least) = extremes(lost), extremes(back)
    return (
        f"PGD-20 at ε = 4/255 takes {span(lost)} from restorers of {len(NETWORKS)} architectures, random noise of the "
        f"same norm {span(differences('restored', 'noise_restored'))}. Most is lost by {most}, least by {least}. The "
        "default purifier, which was trained against attacks on the default restorer alone, gives "
        f"{span(back)} back ({helped} gets most, {helped_least} least), for "
        f"{span(differences('restored', 'defended_clean'))} of clean cost."
    )


def unknowing_rows(results: Results, network: str, eps: float = CHOICE_EPS) -> list[dict[str, Any]]:
    """Rows of a network behind the default purifier, under an attack that does not know it."""
    return rows_of(results, unknowing(network, eps), "heldout")
