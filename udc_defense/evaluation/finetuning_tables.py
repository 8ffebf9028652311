"""The rows of `results/finetuning.json` as Markdown, and what they say in one paragraph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from udc_defense.evaluation.entry import rows_of
from udc_defense.evaluation.finetuning_suite import (
    BASE,
    CHOICE_EPS,
    EPSILONS,
    WORDS,
    features,
    knowing,
    measured,
    queries,
    recovered,
    smallest,
    unknowing,
)
from udc_defense.evaluation.runner import Results
from udc_defense.evaluation.spine import mean

SHARE, PAPER_SHARE = 0.7, 0.39  # goal, and what the figures of arXiv 2402.13629 come to
CLEAN_COST, GAIN = 1.0, 8.0  # dB, goals


@dataclass(frozen=True)
class System:
    """A restorer, perhaps behind the purifier: where its scores stand in a row."""

    network: str
    purified: bool

    @property
    def words(self) -> str:
        return WORDS[self.network] + (" + purify" if self.purified else "")

    @property
    def clean(self) -> str:
        return "defended_clean" if self.purified else "restored"

    @property
    def attacked(self) -> str:
        return "defended_attacked" if self.purified else "attacked_restored"

    def worst(self, results: Results, split: str, eps: float = CHOICE_EPS) -> list[dict[str, Any]]:
        """Rows of the attacker who knows all there is, on the adaptive crops; without a purifier that is plain PGD."""
        known = rows_of(results, knowing(self.network, eps), split)
        if self.purified:
            return known
        images = {row["image"] for row in known}
        return [row for row in rows_of(results, unknowing(self.network, eps), split) if row["image"] in images]


def systems(results: Results, networks: Sequence[str] = ()) -> Iterator[System]:
    """Those that were measured, the undefended base first; or those of some networks."""
    for network in networks or measured(results):
        yield from (System(network, purified) for purified in (False, True))


def table(results: Results, metric: str = "psnr", networks: Sequence[str] = (), split: str = "heldout") -> str:
    """Markdown: every system, or those of some networks, under every attack that does not know the purifier."""
    digits = 2 if metric == "psnr" else 3
    radii = [f"PGD-20, ε = {eps:g}" for eps in EPSILONS]
    lines = _head("system", "clean", *radii, "recovered at ε = 4", "on features", "SimBA", "C&W needs δ of (1/255)")
    for system in systems(results, networks):
        by_radius = [rows_of(results, unknowing(system.network, eps), split) for eps in EPSILONS]
        others = [rows_of(results, make(system.network), split) for make in (features, queries)]
        found = [mean(rows, metric, system.attacked) for rows in (*by_radius, *others)]
        needed = [row["search"]["delta_rms"] for row in rows_of(results, smallest(system.network), split)]
        lines.append(
            _line(
                system.words,
                f"{mean(by_radius[0], metric, system.clean):.{digits}f}",
                *(f"{value:.{digits}f}" for value in found[: len(EPSILONS)]),
                f"{recovered(results, system.network, split, system.attacked):.0%}",
                *(f"{value:.{digits}f}" for value in found[len(EPSILONS) :]),
                f"{median(needed):.2f}" if needed and not system.purified else "",
            )
        )
    return "\n".join(lines)


def adaptive_table(results: Results, networks: Sequence[str] = (), split: str = "heldout") -> str:
    """Markdown: the same systems under who knows them, on the adaptive crops, with random noise of the same norm."""
    shown = list(systems(results, networks))
    radii = [eps for eps in EPSILONS if any(system.worst(results, split, eps) for system in shown)]
    lines = _head("system", "clean", *(f"knowing it, ε = {eps:g}" for eps in radii), "random noise, ε = 4")
    for system in shown:
        by_radius = {eps: system.worst(results, split, eps) for eps in radii}
        rows = by_radius[CHOICE_EPS]
        values = [mean(by_radius[eps], "psnr", system.attacked) for eps in radii]
        # The control is of the bare restorer.
        control = "" if system.purified else f"{mean(rows, 'psnr', 'noise_restored'):.2f}"
        cells = [f"{mean(rows, 'psnr', system.clean):.2f}", *(f"{value:.2f}" for value in values), control]
        lines.append(_line(system.words, *cells))
    return "\n".join(lines)


def choice_table(results: Results, split: str = "val") -> str:
    """Markdown: what choices hang on, every system at one ε under who does not know the purifier and who does."""
    lines = _head(
        "system", "clean", f"PGD-20, ε = {CHOICE_EPS:g}", "recovered", "adaptive crops: clean", "who knows it all"
    )
    for system in systems(results):
        rows, known = rows_of(results, unknowing(system.network, CHOICE_EPS), split), system.worst(results, split)
        keys = (system.clean, system.attacked)
        plain, worst = ([f"{mean(found, 'psnr', key):.2f}" for key in keys] for found in (rows, known))
        returned = recovered(results, system.network, split, system.attacked)
        lines.append(_line(system.words, *plain, f"{returned:.0%}", *worst))
    return "\n".join(lines)


def verdict(results: Results, split: str = "heldout") -> str:
    """Which of the defences wins under the attacker who knows it, and at what clean cost; whichever it is."""
    scores = {s: mean(s.worst(results, split), "psnr", s.attacked) for s in systems(results)}
    clean = {s: mean(s.worst(results, split), "psnr", s.clean) for s in scores}
    base, winner = System(BASE, False), max(scores, key=lambda s: scores[s])
    others = sorted((s for s in scores if s not in (winner, base)), key=lambda s: -scores[s])
    told = "; ".join(f"{s.words} {scores[s]:.1f} dB (clean {clean[s]:.1f})" for s in others)
    crops = len(winner.worst(results, split))
    return (
        f"Under PGD-20 at ε = {CHOICE_EPS:g}/255 by an attacker who knows the whole defence ({crops} held-out crops "
        f"of 128²), **{winner.words}** keeps most: {scores[winner]:.1f} dB, for {clean[base] - clean[winner]:.1f} dB "
        f"of {clean[base]:.1f} dB on clean captures; the base network alone keeps {scores[base]:.1f} dB. The others: "
        f"{told}."
    )


def share(results: Results, split: str = "val") -> str:
    """The goals, for the system that gives most back to who does not know the purifier."""
    best = max(systems(results), key=lambda s: recovered(results, s.network, split, s.attacked))
    base, own = (rows_of(results, unknowing(n, CHOICE_EPS), split) for n in (BASE, best.network))
    left, noise = mean(own, "psnr", best.attacked), mean(base, "psnr", "noise_restored")
    clean = mean(base, "psnr", "restored")
    returned = recovered(results, best.network, split, best.attacked)
    return (
        f"Of what PGD-20 at ε = {CHOICE_EPS:g}/255 by who does not know the purifier takes from the base network on "
        f"{split} ({len(base)} crops), **{best.words}** gives most back: {returned:.0%} (goal {SHARE:.0%}; the paper's "
        f"pair of figures comes to {PAPER_SHARE:.0%}). It has {left:.1f} dB then, where the base network has "
        f"{noise:.1f} dB under random noise of that norm, and costs {clean - mean(own, 'psnr', best.clean):.1f} dB on "
        f"clean captures (goal: at most {CLEAN_COST:g} dB). The base network gains "
        f"{clean - mean(base, 'psnr', 'captured'):.1f} dB over the capture (goal {GAIN:g} dB)."
    )


def _head(*cells: str) -> list[str]:
    return [_line(*cells), "|---" * len(cells) + "|"]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
