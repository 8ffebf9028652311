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
    NETWORKS,
    WORDS,
    features,
    knowing,
    queries,
    recovered,
    smallest,
    unknowing,
)
from udc_defense.evaluation.runner import Results
from udc_defense.evaluation.spine import mean

SHARE, PAPER_SHARE = 0.7, 0.39  # goal, and what the figures of arXiv 2402.13629 come to
CLEAN_COST = 1.0  # dB, goal
VAL, HELDOUT = "val", "heldout"


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


PAPER = System("purified", True)


def systems(networks: Sequence[str] = NETWORKS) -> Iterator[System]:
    """Of these networks, the undefended base first."""
    for network in networks:
        yield from (System(network, purified) for purified in (False, True))


def table(results: Results, metric: str = "psnr", networks: Sequence[str] = NETWORKS) -> str:
    """Markdown: every system, or those of some networks, under every attack that does not know the purifier."""
    digits = 2 if metric == "psnr" else 3
    radii = [f"PGD-20, ε = {eps:g}" for eps in EPSILONS]
    lines = _head("system", "clean", *radii, "recovered at ε = 4", "on features", "SimBA", "C&W needs δ of (1/255)")
    for system in systems(networks):
        by_radius = [rows_of(results, unknowing(system.network, eps), HELDOUT) for eps in EPSILONS]
        others = [rows_of(results, make(system.network), HELDOUT) for make in (features, queries)]
        found = [mean(rows, metric, system.attacked) for rows in (*by_radius, *others)]
        needed = [row["search"]["delta_rms"] for row in rows_of(results, smallest(system.network), HELDOUT)]
        lines.append(
            _line(
                system.words,
                f"{mean(by_radius[0], metric, system.clean):.{digits}f}",
                *(f"{value:.{digits}f}" for value in found[: len(EPSILONS)]),
                f"{recovered(results, system.network, HELDOUT, system.attacked):.0%}",
                *(f"{value:.{digits}f}" for value in found[len(EPSILONS) :]),
                f"{median(needed):.2f}" if needed and not system.purified else "",
            )
        )
    return "\n".join(lines)


def adaptive_table(results: Results, networks: Sequence[str] = NETWORKS) -> str:
    """Markdown: the same systems under who knows them, on the adaptive crops, with random noise of the same norm."""
    shown = list(systems(networks))
    radii = [eps for eps in EPSILONS if any(system.worst(results, HELDOUT, eps) for system in shown)]
    lines = _head("system", "clean", *(f"knowing it, ε = {eps:g}" for eps in radii), "random noise, ε = 4")
    for system in shown:
        by_radius = {eps: system.worst(results, HELDOUT, eps) for eps in radii}
        rows = by_radius[CHOICE_EPS]
        values = [mean(by_radius[eps], "psnr", system.attacked) for eps in radii]
        # The control is of the bare restorer.
        control = "" if system.purified else f"{mean(rows, 'psnr', 'noise_restored'):.2f}"
        cells = [f"{mean(rows, 'psnr', system.clean):.2f}", *(f"{value:.2f}" for value in values), control]
        lines.append(_line(system.words, *cells))
    return "\n".join(lines)


def choice_table(results: Results) -> str:
    """Markdown: what choices hang on, every system at one ε under who does not know the purifier and who does."""
    lines = _head(
        "system", "clean", f"PGD-20, ε = {CHOICE_EPS:g}", "recovered", "adaptive crops: clean", "who knows it all"
    )
    for system in systems():
        rows, known = rows_of(results, unknowing(system.network, CHOICE_EPS), VAL), system.worst(results, VAL)
        keys = (system.clean, system.attacked)
        plain, worst = ([f"{mean(found, 'psnr', key):.2f}" for key in keys] for found in (rows, known))
        returned = recovered(results, system.network, VAL, system.attacked)
        lines.append(_line(system.words, *plain, f"{returned:.0%}", *worst))
    return "\n".join(lines)


def winner(results: Results) -> str:
    """Which system holds best under who knows all of it, chosen on val, and what the paper's keeps."""
    best = _best(results, list(systems()))
    (left, clean), alone, paper = (_known(results, s, HELDOUT) for s in (best, System(BASE, False), PAPER))
    told = "is that one" if best == PAPER else f"keeps {paper[0]:.1f} dB"
    return (
        f"Of purification, fine-tuning and both, **{best.words}** holds best under an attacker who knows all of it: "
        f"at ε = {CHOICE_EPS:g}/255 it keeps {left:.1f} dB where the restorer alone keeps {alone[0]:.1f} dB (clean "
        f"captures: {clean:.1f} and {alone[1]:.1f} dB). The paper's pair, purification and fine-tuning on purified "
        f"captures, {told}."
    )


def verdict(results: Results) -> str:
    """Which system wins, also at equal clean PSNR, and a table: the paper's beside its parts and its rival."""
    adversarial = System("adversarial", False)
    best = _best(results, list(systems()))
    equal = _best(results, [s for s in systems() if _known(results, s)[1] >= _known(results, adversarial)[1]])
    crops = " and ".join(str(len(best.worst(results, split))) for split in (VAL, HELDOUT))
    lines = _head("system", "clean, val", "attacked, val", "clean, held-out", "attacked, held-out")
    for system in systems():
        scores = (_known(results, system, split) for split in (VAL, HELDOUT))
        words = f"**{system.words}**" if system in (best, equal) else system.words
        lines.append(_line(words, *(f"{value:.2f}" for attacked, clean in scores for value in (clean, attacked))))
    return (
        f"Under PGD-20 at ε = {CHOICE_EPS:g}/255 by who knows all of it (PSNR in dB, {crops} crops of 128²) "
        f"**{best.words}** keeps most on val, where the choice is made; among systems with at least the clean PSNR "
        f"that {adversarial.words} alone has there, **{equal.words}** does.\n\n" + "\n".join(lines)
    )


def _best(results: Results, among: Sequence[System]) -> System:
    return max(among, key=lambda system: _known(results, system)[0])


def _known(results: Results, system: System, split: str = VAL) -> tuple[float, float]:
    """PSNR under who knows all of it, and on clean captures."""
    rows = system.worst(results, split)
    return mean(rows, "psnr", system.attacked), mean(rows, "psnr", system.clean)


def goals(results: Results) -> str:
    """What was asked of the paper's pair under who does not know the purifier, reached or missed."""
    base, own = (rows_of(results, unknowing(n, CHOICE_EPS), VAL) for n in (BASE, PAPER.network))
    left, clean = (mean(own, "psnr", key) for key in (PAPER.attacked, PAPER.clean))
    noise, cost = mean(base, "psnr", "noise_restored"), mean(base, "psnr", "restored") - clean
    returned = recovered(results, PAPER.network, VAL, PAPER.attacked)
    purified = recovered(results, BASE, VAL, PAPER.attacked)
    return (
        f"Of what PGD-20 at ε = {CHOICE_EPS:g}/255 by who does not know the purifier takes from the base network on "
        f"val ({len(base)} crops), the paper's pair gives {returned:.0%} back (goal {SHARE:.0%}, "
        f"{_reached(returned >= SHARE)}; the paper's own figures come to {PAPER_SHARE:.0%}), purification alone "
        f"{purified:.0%}. It has {left:.1f} dB then (goal: the {noise:.1f} dB of the base network under random noise "
        f"of that norm, {_reached(left >= noise)}) and costs {cost:.1f} dB on clean captures (goal: at most "
        f"{CLEAN_COST:g} dB, {_reached(cost <= CLEAN_COST)})."
    )


def _reached(is_reached: bool) -> str:
    return "reached" if is_reached else "missed"


def _head(*cells: str) -> list[str]:
    return [_line(*cells), "|---" * len(cells) + "|"]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
