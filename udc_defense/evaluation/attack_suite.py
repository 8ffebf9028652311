"""The protocol behind `results/attacks.json`: every attack, and the attacker who knows the defense.

On the 128² centre of every crop: each attack on the bare restorer, and what a diffusion model that the attacker does
not know saves. On the crops marked adaptive: the attacker who knows the defense, by default or by diffusion. The
universal perturbation is made for the captures of `val`: those of `heldout` it has never seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from udc_defense.evaluation.entry import Entry, jobs_of
from udc_defense.evaluation.runner import CENTRE, Job
from udc_defense.photo.settings import Settings
from udc_defense.purification import DEFAULT, DIFFUSION, Purification
from udc_defense.scenes import read_crops

RESUBMISSIONS = 8
TARGET_PSNR = 15.0
LAYER = "encoder.3"  # the coarsest scale of the restorer
SINGLE = Purification(DIFFUSION.sampler, DIFFUSION.noise_level)
CHAIN = Purification("ddpm", 10)

# Cheap ones first, so that an interrupted run has something of everything.
OBLIVIOUS = tuple(
    replace(entry, purification=DIFFUSION)
    for entry in (
        Entry("random signs", "random_noise"),
        Entry("FGSM", "fgsm"),
        Entry("PGD-20", "pgd"),
        Entry("PGD-20, ε = 2", "pgd", {"eps": 2.0}),
        Entry("PGD-20, ε = 8", "pgd", {"eps": 8.0}),
        Entry("PGD-20, L2, ε = 2", "pgd", {"norm": "l2", "eps": 2.0}),
        Entry("PGD-20 on L1", "pgd", {"objective": "l1"}),
        Entry("PGD-20 on SSIM", "pgd", {"objective": "ssim"}),
        Entry("PGD-20 on MS-SSIM", "pgd", {"objective": "ms_ssim"}),
        Entry("PGD-20 on features", "pgd", {"objective": f"feature:{LAYER}"}),
        Entry("CosPGD-20", "cospgd"),
        Entry("CosPGD-20, error weight", "cospgd", {"options": {"weight": "error"}}),
        Entry("low frequencies", "low_frequency"),
        Entry("low frequencies, ε = 16, SSIM ≥ 0.9", "low_frequency", {"eps": 16.0}),
        Entry("universal, 20 passes", "universal"),
        Entry("PGD-100", "pgd", {"steps": 100}),
        Entry("APGD-100", "apgd", {"steps": 100}),
        Entry(f"C&W to {TARGET_PSNR:g} dB", "cw", {"options": {"psnr": TARGET_PSNR}}),
        Entry("Square, 1000 queries", "square"),
        Entry("SimBA, 1000 iterations", "simba"),
        Entry("SimBA-DCT, 1000 iterations", "simba", {"options": {"basis": "dct"}}),
    )
)
EXACT: dict[str, Any] = {"threat": "exact", "resubmit": RESUBMISSIONS}
KNOWING = (
    Entry("PGD-20, not knowing", "pgd", EXACT | {"threat": "oblivious"}),
    Entry("PGD-20, BPDA", "pgd", EXACT | {"threat": "bpda"}),
    Entry("PGD-20", "pgd", EXACT),
    Entry("FGSM", "fgsm", EXACT),
    Entry("PGD-5", "pgd", EXACT | {"steps": 5}),
    Entry("APGD-20", "apgd", EXACT | {"steps": 20}),
    Entry("PGD-20, momentum 0.75", "pgd", EXACT | {"options": {"momentum": 0.75}}),
    Entry("PGD-20, ε = 2", "pgd", EXACT | {"eps": 2.0}),
    Entry("PGD-20, ε = 8", "pgd", EXACT | {"eps": 8.0}),
    Entry("PGD-20, L2, ε = 2", "pgd", EXACT | {"norm": "l2", "eps": 2.0}),
    Entry("CosPGD-20, error weight", "cospgd", EXACT | {"options": {"weight": "error"}}),
    Entry("low frequencies", "low_frequency", EXACT),
    Entry("low frequencies, ε = 16, SSIM ≥ 0.9", "low_frequency", EXACT | {"eps": 16.0}),
    Entry("random signs", "random_noise", EXACT),
    Entry("Square, 200 queries", "square", EXACT | {"steps": 200}),
    Entry(f"C&W to {TARGET_PSNR:g} dB", "cw", EXACT | {"steps": 20, "options": {"psnr": TARGET_PSNR}}),
    Entry("SimBA-DCT, 200 iterations", "simba", EXACT | {"steps": 200, "options": {"basis": "dct"}}),
)
ADAPTIVE = (
    *KNOWING,
    *(replace(entry, purification=DIFFUSION) for entry in KNOWING),
    Entry("PGD-20, 8 draws per gradient", "pgd", EXACT | {"draws": 8}, SINGLE),
    Entry("PGD-20, BPDA", "pgd", EXACT | {"threat": "bpda"}, CHAIN),
    Entry("PGD-20, surrogate of 2 steps", "pgd", EXACT | {"threat": "surrogate"}, CHAIN),
    Entry("PGD-20", "pgd", EXACT, CHAIN),
)


def jobs(scenes: Path, crops: Path, split: str | None, seed: int) -> Iterator[Job]:
    """One job per crop and entry, the cheap entries of all crops first."""
    chosen, val = read_crops(crops, split), read_crops(crops, "val")
    yield from jobs_of(OBLIVIOUS, chosen, scenes, seed, val)
    yield from jobs_of(ADAPTIVE, [crop for crop in chosen if crop.adaptive], scenes, seed)


def describe() -> dict[str, Any]:
    """The protocol in words and numbers, for the results file."""
    return {
        "images": f"{CENTRE}² centres of the crops, panel {Settings().panel}",
        "eps_in_255ths": 4,
        "default": DEFAULT.facts(),
        "diffusion": DIFFUSION.facts(),
        "adaptive": "fresh noise in every evaluation; gradients through all draws of the defense",
        "resubmissions": RESUBMISSIONS,
        "cw_target_psnr": TARGET_PSNR,
        "control": "the attack's own magnitudes with random signs",
    }
