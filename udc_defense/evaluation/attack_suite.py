"""The protocol behind `results/attacks.json`: every attack, and the attacker who knows the defence.

On the 128² centre of every crop: each attack without and with the default defence, which the attacker does not know. On
the crops marked adaptive: the attacker who knows it. The universal perturbation is made for the captures of `val`:
those of `heldout` it has never seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from udc_defense.evaluation.case import Settings
from udc_defense.evaluation.runner import ADAPTIVE_SIZE, Cell, Job, Purification, Results, key_of
from udc_defense.evaluation.spine import DEFAULT
from udc_defense.scenes import read_crops

RESUBMISSIONS = 8
TARGET_PSNR = 15.0
LAYER = "encoder.3"  # the coarsest scale of the restorer
SINGLE = Purification(DEFAULT.sampler, DEFAULT.noise_level)
CHAIN = Purification("ddpm", 10)


@dataclass(frozen=True)
class Entry:
    """A line of the tables: an attack as it is set, and what it knows."""

    title: str
    attack: str
    changes: dict[str, Any] = field(default_factory=dict)
    purification: Purification = DEFAULT

    def settings(self, seed: int) -> Settings:
        return Settings(attack=self.attack, seed=seed, **self.changes)


# Cheap ones first, so that an interrupted run has something of everything.
OBLIVIOUS = (
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
EXACT: dict[str, Any] = {"threat": "exact", "resubmit": RESUBMISSIONS}
ADAPTIVE = (
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
    Entry("PGD-20, 8 draws per gradient", "pgd", EXACT | {"draws": 8}, SINGLE),
    Entry("PGD-20, BPDA", "pgd", EXACT | {"threat": "bpda"}, CHAIN),
    Entry("PGD-20, surrogate of 2 steps", "pgd", EXACT | {"threat": "surrogate"}, CHAIN),
    Entry("PGD-20", "pgd", EXACT, CHAIN),
    Entry("Square, 200 queries", "square", EXACT | {"steps": 200}),
    Entry(f"C&W to {TARGET_PSNR:g} dB", "cw", EXACT | {"steps": 20, "options": {"psnr": TARGET_PSNR}}),
    Entry("SimBA-DCT, 200 iterations", "simba", EXACT | {"steps": 200, "options": {"basis": "dct"}}),
)


def jobs(scenes: Path, crops: Path, split: str | None, seed: int) -> Iterator[Job]:
    """One job per crop and entry, the cheap entries of all crops first."""
    val = tuple(read_crops(crops, "val"))
    chosen = read_crops(crops, split)
    for entries, faced in ((OBLIVIOUS, chosen), (ADAPTIVE, [crop for crop in chosen if crop.adaptive])):
        for entry in entries:
            fitted_on = val if entry.attack == "universal" else ()
            cell = Cell(entry.settings(seed), (entry.purification,), size=ADAPTIVE_SIZE, fitted_on=fitted_on)
            yield from (Job(crop, str(scenes), cell) for crop in faced)


def describe() -> dict[str, Any]:
    """The protocol in words and numbers, for the results file."""
    return {
        "images": f"{ADAPTIVE_SIZE}² centres of the crops, panel {Settings().panel}",
        "eps_in_255ths": 4,
        "default": asdict(DEFAULT),
        "adaptive": "fresh noise in every evaluation; gradients through all draws of the defence",
        "resubmissions": RESUBMISSIONS,
        "cw_target_psnr": TARGET_PSNR,
        "control": "the attack's own magnitudes with random signs",
    }


def rows_of(results: Results, entry: Entry, split: str) -> list[dict[str, Any]]:
    """The rows of one entry."""
    settings = {k: v for k, v in asdict(entry.settings(results.seed)).items() if k != "seed"}
    wanted = {"split": split, "size": ADAPTIVE_SIZE, "purifier": asdict(entry.purification)} | settings
    # The cheap comparison first: the key of a row takes its settings apart.
    near = [row for row in results.rows if all(row[key] == wanted[key] for key in ("split", "attack", "threat"))]
    return [row for row in near if key_of(row) == key_of(wanted | {"image": row["image"]})]
