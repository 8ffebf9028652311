"""Signs that numbers of one photo or setting are too kind to a defense, after AutoAttack (arXiv 2003.01690)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Flag:
    """A check and what came out; `raised` means: do not trust the numbers before this is understood."""

    check: str
    raised: bool
    words: str


def zero_gradients(rows: Sequence[Mapping[str, Any]]) -> Flag:
    """Gradients that vanish at every value tell an attack nothing: the defense hides them."""
    searches = [row["search"] for row in rows if row["search"] is not None]
    zeros, taken = (sum(search[key] for search in searches) for key in ("zero_gradients", "backwards"))
    return Flag("zero gradients", zeros > 0, f"{zeros} of {taken} gradients were zero everywhere.")


def randomised(rows: Sequence[Mapping[str, Any]]) -> Flag:
    """The output for one input varies: a single answer is luck, for the attacker and for the defender."""
    answers = [row["resubmission"] for row in rows if row["resubmission"]]
    # Without an attack there are answers for the clean capture alone.
    spread = [found.get("defended_attacked") or found["defended_clean"] for found in answers]
    deviation = sum(found["std"] for found in spread) / max(1, len(spread))
    gap = sum(found["mean"] - found["worst"] for found in spread) / max(1, len(spread))
    times = spread[0]["n"] if spread else 0
    words = (
        f"standard deviation {deviation:.2f} dB over fresh noise; the worst of {times} is {gap:.2f} dB below the mean."
    )
    return Flag("randomised", deviation > 0, words)
