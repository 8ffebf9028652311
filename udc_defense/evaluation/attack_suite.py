"""The protocol behind `results/attacks.json`: every attack, and the attacker who knows the defence.

On the 128² centre of every crop: each attack without and with the default defence, which the attacker does not know. On
the crops marked adaptive: the attacker who knows it. The universal perturbation is made for the captures of `val`:
those of `heldout` it has never seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from udc_defense.attacks import ATTACKS
from udc_defense.evaluation import flags
from udc_defense.evaluation.case import Settings
from udc_defense.evaluation.flags import Flag
from udc_defense.evaluation.runner import ADAPTIVE_SIZE, Cell, Job, Purification, Results, key_of
from udc_defense.evaluation.spine import DEFAULT, mean
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
    Entry("low frequencies, 20 steps", "low_frequency"),
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
    Entry("low frequencies, 20 steps", "low_frequency", EXACT),
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


def oblivious_table(results: Results, split: str) -> str:
    """Markdown: every attack against the bare restorer, and what the defence that it ignores leaves of it."""
    head = ("attack", "sees", "forwards", "backwards", "δ RMS (1/255)", "attacked, restored", "random noise, restored")
    lines = _head(*head, "purified, restored", "crops")
    for entry, rows in _measured(results, OBLIVIOUS, split):
        facts = [row["search"] for row in rows if row["search"]]
        cost = [f"{facts[0]['forwards']:,}", f"{facts[0]['backwards']:,}"] if facts else ["shared", "shared"]
        delta = f"{median(fact['delta_rms'] for fact in facts):.2f}" if facts else ""
        keys = ("attacked_restored", "noise_restored", "defended_attacked")
        psnr = [f"{mean(rows, 'psnr', key):.2f}" for key in keys]
        lines.append(_line(entry.title, _sees(entry), *cost, delta, *psnr, str(len(rows))))
    return "\n".join(lines)


def adaptive_table(results: Results, split: str) -> str:
    """Markdown: the attacker who knows the defence; one answer, many answers, and the same for clean captures."""
    head = ("attack", "knows", "defence", "random noise, restored", "defended, one shot", "mean ± std")
    lines = _head(*head, "worst of 8", "clean, mean ± std", "clean, worst of 8", "crops")
    for entry, rows in _measured(results, ADAPTIVE, split):
        spreads = [cell for key in ("defended_attacked", "defended_clean") for cell in _spread(rows, key)]
        one, control = (f"{mean(rows, 'psnr', key):.2f}" for key in ("defended_attacked", "noise_restored"))
        defence = _defence(entry.purification)
        lines.append(_line(entry.title, _knows(entry), defence, control, one, *spreads, str(len(rows))))
    return "\n".join(lines)


def smallest_table(results: Results, split: str) -> str:
    """Markdown: the perturbation that C&W needs to bring the restored image to the target."""
    lines = _head("attacked", f"median RMS of δ to reach {TARGET_PSNR:g} dB (1/255)", "reached", "crops")
    for words, entries in (("the restorer", OBLIVIOUS), ("the defended restorer, exact gradient", ADAPTIVE)):
        for _, rows in _measured(results, [entry for entry in entries if entry.attack == "cw"], split):
            found = [row["search"] for row in rows]
            reached = sum(-fact["best_loss"] <= TARGET_PSNR for fact in found)
            size = f"{median(fact['delta_rms'] for fact in found):.2f}"
            lines.append(_line(words, size, str(reached), str(len(found))))
    return "\n".join(lines)


def flags_table(results: Results, split: str) -> str:
    """Markdown: the checks, and what each saw."""
    lines = _head("check", "raised", "what was seen")
    lines += [_line(flag.check, "yes" if flag.raised else "no", flag.words) for flag in raised_flags(results, split)]
    return "\n".join(lines)


def _measured(results: Results, entries: Sequence[Entry], split: str) -> Iterator[tuple[Entry, list[dict[str, Any]]]]:
    """Entries that have rows, with them."""
    for entry in entries:
        if rows := rows_of(results, entry, split):
            yield entry, rows


def raised_flags(results: Results, split: str) -> list[Flag]:
    """Every check, for the bare restorer and for the defence under the attacker who knows it."""
    bare = {e.title: mean(r, "psnr", "attacked_restored") for e, r in _comparable(results, OBLIVIOUS, split)}
    known = {e.title: mean(r, "psnr", "defended_attacked") for e, r in _comparable(results, ADAPTIVE, split)}
    rows = [row for _, found in _measured(results, ADAPTIVE, split) for row in found]
    default = [entry for entry in ADAPTIVE if entry.purification == DEFAULT]
    damage = {e.title: mean(r, "psnr", "defended_attacked") for e, r in _measured(results, default, split)}
    unknowing = known.pop(ADAPTIVE[0].title)
    found = [flags.zero_gradients(rows)]
    for words, psnr, entries in (("restorer", bare, OBLIVIOUS), ("defence", known, ADAPTIVE)):
        white, black = _by_sight(psnr, entries)
        if black:
            found.append(flags.black_box_wins(white, black, words))
    return [
        *found,
        flags.more_does_not_hurt("ε", {title: damage[title] for title in ("PGD-20, ε = 2", "PGD-20", "PGD-20, ε = 8")}),
        flags.more_does_not_hurt("steps", {title: damage[title] for title in ("FGSM", "PGD-5", "PGD-20")}),
        flags.knowledge_does_not_help(unknowing, min(known.values())),
        flags.randomised(rows),
    ]


def _comparable(results: Results, entries: Sequence[Entry], split: str) -> Iterator[tuple[Entry, list[dict[str, Any]]]]:
    """Entries at ε = 4 in L∞, for these captures alone, against the default defence."""
    for entry, rows in _measured(results, entries, split):
        settings = entry.settings(0)
        if (settings.eps, settings.norm or "linf", entry.purification) == (4.0, "linf", DEFAULT):
            yield entry, rows


def _by_sight(psnr: dict[str, float], entries: Sequence[Entry]) -> tuple[dict[str, float], dict[str, float]]:
    """White-box and black-box ones."""
    white = {entry.title for entry in entries if ATTACKS.get(entry.attack).white_box}
    return {t: v for t, v in psnr.items() if t in white}, {t: v for t, v in psnr.items() if t not in white}


def _spread(rows: list[dict[str, Any]], key: str) -> tuple[str, str]:
    found = [row["resubmission"][key] for row in rows]
    if not found:
        return "", ""
    average, deviation, worst = (sum(f[name] for f in found) / len(found) for name in ("mean", "std", "worst"))
    return f"{average:.2f} ± {deviation:.2f}", f"{worst:.2f}"


def _sees(entry: Entry) -> str:
    return "gradients" if ATTACKS.get(entry.attack).white_box else "outputs"


def _knows(entry: Entry) -> str:
    threat = entry.changes["threat"]
    return "its answers" if threat == "exact" and not ATTACKS.get(entry.attack).white_box else threat


def _defence(purification: Purification) -> str:
    draws = f" × {purification.draws}" if purification.draws > 1 else ""
    return f"{purification.sampler}{draws}, t* = {purification.noise_level}"


def _head(*cells: str) -> list[str]:
    return [_line(*cells), "|---" * len(cells) + "|"]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
