"""The default purifier beside every other one: who is ahead, where, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from udc_defense.evaluation.entry import rows_of
from udc_defense.evaluation.purifier_suite import CHOICE_EPS, CHOSEN, FAMILIES, REPORTED, faced, knowing
from udc_defense.evaluation.runner import Results
from udc_defense.evaluation.spine import mean
from udc_defense.purification import DEFAULT, Purification

CLEAN, UNKNOWING, KNOWING = "on clean captures", "under who does not know it", "under who knows it"
SLOW = "DDPM, the paper's lower end"
OURS = next(family for family, purification in CHOSEN.items() if purification == DEFAULT)


def scores(results: Results, purification: Purification, split: str) -> dict[str, float]:
    """Mean PSNR: clean, under PGD-20 at the ε of choice that does not know the purifier, and under that which does."""
    rows = faced(results, purification, split, CHOICE_EPS)
    known = rows_of(results, knowing(purification), split)
    return {
        CLEAN: mean(rows, "psnr", "defended_clean"),
        UNKNOWING: mean(rows, "psnr", "defended_attacked"),
        KNOWING: mean(known, "psnr", "defended_attacked"),
    }


def rivals(results: Results, split: str) -> dict[str, dict[str, float]]:
    """Family -> scores, of the chosen purifier of every family but the default itself, as far as they were measured.

    One that is the choice of several families counts once.
    """
    others = {
        p: family for family, p in reversed(REPORTED.items()) if p != DEFAULT and faced(results, p, split, CHOICE_EPS)
    }
    return {family: scores(results, p, split) for p, family in reversed(others.items())}


def verdict(results: Results, cost: Mapping[str, Any], split: str = "heldout") -> str:
    """What the default is worth beside the others, in one paragraph, in whatever direction it points."""
    ours, others = scores(results, DEFAULT, split), rivals(results, split)
    crops, adaptive = (len(rows) for rows in _default_rows(results, split))
    unbeaten = [f for f, theirs in others.items() if any(ours[where] < theirs[where] for where in (CLEAN, UNKNOWING))]
    leads = {
        where: [f"{family} ({theirs[where]:.1f})" for family, theirs in others.items() if theirs[where] > ours[where]]
        for where in ours
    }
    told = "; ".join(f"{where}: {', '.join(families) or 'none'}" for where, families in leads.items())
    return (
        f"At ε = {CHOICE_EPS:g}/255 the default, {OURS} at t* = {DEFAULT.noise_level}, keeps "
        f"{ours[UNKNOWING]:.1f} dB of {ours[CLEAN]:.1f} dB under PGD-20 by who does not know it ({crops} crops), and "
        f"{ours[KNOWING]:.1f} dB under who differentiates it ({adaptive} crops), at {_speed(cost)} of the time of DDPM "
        f"with 50 steps. Both on clean captures and under who does not know it, it is ahead of all {len(others)} "
        f"others but {len(unbeaten)}. Ahead of it are, {told}. {_at_equal_cost(results)}"
    )


def _default_rows(results: Results, split: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return faced(results, DEFAULT, split, CHOICE_EPS), rows_of(results, knowing(DEFAULT), split)


def _speed(cost: Mapping[str, Any]) -> str:
    """The default's share of the time of the paper's sampler, measured in the same run."""
    spent = {row["family"]: row["milliseconds_per_megapixel"] for row in cost["rows"]}
    return f"1/{spent[SLOW] / spent[OURS]:.1f}"


def _at_equal_cost(results: Results) -> str:
    """What plain transforms keep at the strength that costs clean captures as much as the default does."""
    ours = scores(results, DEFAULT, "val")
    left = {
        family: at_clean_psnr(results, family, ours[CLEAN]) for family, ps in FAMILIES.items() if ps[0].is_transform
    }
    told = ", ".join(f"{family} {psnr:.1f}" for family, psnr in left.items() if psnr is not None)
    return (
        f"At its clean PSNR on val ({ours[CLEAN]:.1f} dB, where it keeps {ours[UNKNOWING]:.1f} dB) plain transforms, "
        f"interpolated between their strengths, keep (dB): {told}."
    )


def at_clean_psnr(results: Results, family: str, clean: float) -> float | None:
    """PSNR under attack on `val` at the strength of a family whose clean PSNR is this; None beyond its strengths."""
    found = [scores(results, purification, "val") for purification in FAMILIES[family]]
    points = sorted((score[CLEAN], score[UNKNOWING]) for score in found)
    if not points[0][0] <= clean <= points[-1][0]:
        return None
    return float(np.interp(clean, [point[0] for point in points], [point[1] for point in points]))
