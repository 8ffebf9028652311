"""The protocol behind `results/purifiers.json`: every purifier and every plain transform, by what it saves and costs.

On the 128² centres of the crops. On `val`, where choices are made: all candidates of a family under PGD-20 at ε = 4.
On `heldout`: the chosen ones at ε = 2, 4, 8; on its crops marked adaptive, the attacker who knows the defense, and what
C&W needs against it. On both: one sampler at every noise level, for `selection`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from udc_defense.evaluation.attack_suite import EXACT, TARGET_PSNR
from udc_defense.evaluation.entry import Entry, jobs_of, rows_of
from udc_defense.evaluation.runner import CENTRE, Cell, Job, Results
from udc_defense.evaluation.spine import mean
from udc_defense.photo.settings import Settings
from udc_defense.purification import DIFFUSION, Purification, evaluations
from udc_defense.scenes import Crop, read_crops

EPSILONS = (2.0, 4.0, 8.0)
CHOICE_EPS = 4.0
LEVELS = (5, 10, 20, 30, 50, 100)
MOST_STEPS = 10  # that an attacker differentiates; beyond, a surrogate of as many
SEARCHED_STEPS = 2  # of such a surrogate, for C&W, which takes hundreds of gradients
SEARCH: dict[str, Any] = {"steps": 20, "options": {"psnr": TARGET_PSNR}}  # steps of each of C&W's searches
# The default sampler for the selection of a level, and the probe whose score selects.
SELECTED = tuple(Purification("one_step", level, draws=8) for level in (5, 10, 15, 20, 30, 40, 50, 75, 100))
PROBE = Purification("one_step", 50)
PER_PHOTO = Purification(
    "one_step", draws=8, per_photo=True
)  # what the selection ends in; `per_photo_suite` measures it
SELECTION_EPSILONS = (1.0, 2.0, 4.0, 8.0)  # and none: the clean capture of each row


def _strengths(name: str, *values: float) -> tuple[Purification, ...]:
    return tuple(Purification(name, strength=value) for value in values)


def _levels(sampler: str, levels: Sequence[int] = LEVELS, **options: Any) -> tuple[Purification, ...]:
    return tuple(Purification(sampler, level, **options) for level in levels)


def _guided(guide: str, *settings: tuple[int, float]) -> tuple[Purification, ...]:
    return tuple(Purification("ddpm", level, guide=guide, guidance=strength) for level, strength in settings)


TRAINED_LEVELS = (5, 10, 20, 30)  # it was trained below 40
PAPER = {"the paper's lower end": 50, "the paper's upper end": 100}  # of its range of forward steps
FAMILIES: dict[str, tuple[Purification, ...]] = {
    "bit depth": _strengths("bit_depth", 5, 4, 3),
    "JPEG": _strengths("jpeg", 90, 75, 50, 30),
    "Gaussian blur": _strengths("gaussian_blur", 0.5, 0.7, 1, 1.5),
    "median blur": _strengths("median_blur", 3, 5),
    "smaller and back": _strengths("resize", 0.75, 0.5),
    "total variation": _strengths("total_variation", 0.01, 0.02, 0.05),
    "Gaussian noise": _strengths("gaussian_noise", 4, 8, 16),
    "plain denoiser (DCT)": _strengths("dct_denoise", 4, 8, 16, 24),
    "one step": _levels("one_step"),
    "one step × 8": SELECTED,
    "one step × 8, low level": (DIFFUSION,),
    "one step × 8, median": _levels("one_step", (20, 30, 50), draws=8, aggregate="median"),
    "trained one step": _levels("one_step", TRAINED_LEVELS, weights="direct"),
    "trained one step × 8": _levels("one_step", TRAINED_LEVELS, weights="direct", draws=8),
    "DDIM, 5 steps": _levels("ddim"),
    "DDIM, 5 steps, η = 1": _levels("ddim", (20, 30, 50), options={"eta": 1.0}),
    "DPM-Solver++, 5 steps": _levels("dpm_solver"),
    "probability flow, 5 steps": _levels("ode", (20, 30, 50)),
    "DDPM": _levels("ddpm"),
    **{f"DDIM, 5 steps, {words}": _levels("ddim", (level,)) for words, level in PAPER.items()},
    **{f"DDPM, {words}": _levels("ddpm", (level,)) for words, level in PAPER.items()},
    # Guides cost clean images less; what they are good for shows at levels where the sampler alone takes too much away.
    "DDPM, guided by mse": _guided("mse", (30, 20), (60, 20), (60, 40)),
    "DDPM, guided by ssim": _guided("ssim", (30, 0.1), (60, 0.1), (60, 0.5)),
    "DDPM, guided by features": _guided("feature", (30, 30), (60, 30), (60, 100)),
    "DDPM, low frequencies kept": _guided("frequency", (30, 0.25), (60, 0.25)),
}
# The best of each family on val at the ε of choice, by PSNR under the attack that does not know the defense: its place
# among the candidates. A test holds this against the results.
BEST = {
    "bit depth": 2,
    "JPEG": 2,
    "Gaussian blur": 3,
    "median blur": 0,
    "smaller and back": 1,
    "total variation": 2,
    "Gaussian noise": 2,
    "plain denoiser (DCT)": 3,
    "one step": 4,
    "one step × 8": 6,
    "one step × 8, low level": 0,
    "one step × 8, median": 2,
    "trained one step": 1,
    "trained one step × 8": 1,
    "DDIM, 5 steps": 4,
    "DDIM, 5 steps, η = 1": 1,
    "DPM-Solver++, 5 steps": 5,
    "probability flow, 5 steps": 2,
    "DDPM": 3,
    "DDPM, guided by mse": 2,
    "DDPM, guided by ssim": 0,
    "DDPM, guided by features": 1,
    "DDPM, low frequencies kept": 1,
} | {f"{sampler}, {words}": 0 for sampler in ("DDIM, 5 steps", "DDPM") for words in PAPER}
CHOSEN: dict[str, Purification] = {family: candidates[BEST[family]] for family, candidates in FAMILIES.items()}
REPORTED = CHOSEN | {"one step × 8, level per photo": PER_PHOTO}
WITHOUT_GRADIENT = ("bit_depth", "jpeg")


BARE = Entry("C&W, no defense", "cw", SEARCH)


def jobs(scenes: Path, crops: Path, split: str | None, seed: int) -> Iterator[Job]:
    """Cells of many purifiers that face the same attacked image; then those whose attack is made for one."""
    chosen = read_crops(crops, split)
    val, heldout = ([crop for crop in chosen if crop.split == name] for name in ("val", "heldout"))
    candidates, selection = (p for family in FAMILIES.values() for p in family), (*SELECTED, PROBE)
    yield from _cells(val, scenes, _settings(CHOICE_EPS, seed), candidates)
    for eps in SELECTION_EPSILONS:
        reported = CHOSEN.values() if eps in EPSILONS else ()
        yield from _cells(heldout, scenes, _settings(eps, seed), (*reported, *selection))
        if eps != CHOICE_EPS:
            yield from _cells(val, scenes, _settings(eps, seed), selection)
    adaptive, different = [crop for crop in heldout if crop.adaptive], list(dict.fromkeys(CHOSEN.values()))
    yield from jobs_of([knowing(p) for p in different], adaptive, scenes, seed)
    yield from jobs_of([BARE, *(smallest(p) for p in different)], adaptive, scenes, seed)


def _settings(eps: float, seed: int) -> Settings:
    return Settings(attack="pgd", eps=eps, seed=seed)


def _cells(crops: Sequence[Crop], scenes: Path, settings: Settings, faced: Iterable[Purification]) -> Iterator[Job]:
    cell = Cell(settings, tuple(dict.fromkeys(faced)), size=CENTRE)
    return (Job(crop, str(scenes), cell) for crop in crops)


def knowing(purification: Purification) -> Entry:
    """PGD-20 by an attacker who knows the defense, with the best gradient that can be had."""
    return Entry(f"PGD-20, {_threat(purification)['threat']}", "pgd", EXACT | _threat(purification), purification)


def smallest(purification: Purification) -> Entry:
    """C&W by the same attacker, who differentiates fewer steps of a surrogate, and what is dear in bfloat16."""
    threat = _threat(purification)
    if threat["threat"] == "surrogate":
        threat |= {"surrogate_steps": SEARCHED_STEPS, "resubmit": 0}
    if evaluations(purification) > 1:
        threat |= {"precision": "bfloat16"}
    changes = EXACT | threat | SEARCH
    return Entry("C&W", "cw", changes, purification)


def _threat(purification: Purification) -> dict[str, Any]:
    if purification.sampler in WITHOUT_GRADIENT:
        return {"threat": "bpda"}
    if evaluations(purification) / purification.draws > MOST_STEPS:
        return {"threat": "surrogate", "surrogate_steps": MOST_STEPS}
    return {"threat": "exact"}


def describe() -> dict[str, Any]:
    """The protocol in words and numbers, for the results file."""
    return {
        "images": f"{CENTRE}² centres of the crops, panel {Settings().panel}",
        "attack": "PGD-20, L-infinity",
        "eps_in_255ths": EPSILONS,
        "chosen": {family: purification.facts() for family, purification in CHOSEN.items()},
        "adaptive": f"exact gradient, or a surrogate of {MOST_STEPS} steps, or BPDA where there is no gradient",
        "cw_target_psnr": TARGET_PSNR,
        "cw": "9 searches of 20 steps, through several evaluations in bfloat16; "
        f"a surrogate has {SEARCHED_STEPS} steps",
    }


def faced(results: Results, purification: Purification, split: str, eps: float) -> list[dict[str, Any]]:
    """Rows of a purifier under the attack that does not know it."""
    return rows_of(results, Entry("", "pgd", {"eps": eps}, purification), split)


def best(results: Results, family: str) -> Purification:
    """What `CHOSEN` has to hold."""
    return max(FAMILIES[family], key=lambda p: mean(faced(results, p, "val", CHOICE_EPS), "psnr", "defended_attacked"))
