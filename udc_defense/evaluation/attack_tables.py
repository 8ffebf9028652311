"""The rows of `results/attacks.json` as Markdown: tables, flags, and what they say in one paragraph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from udc_defense.attacks import ATTACKS
from udc_defense.evaluation import flags
from udc_defense.evaluation.attack_suite import ADAPTIVE, KNOWING, OBLIVIOUS, RESUBMISSIONS, TARGET_PSNR
from udc_defense.evaluation.entry import Entry, rows_of
from udc_defense.evaluation.runner import Results
from udc_defense.evaluation.spine import mean
from udc_defense.photo.flags import Flag, randomised, zero_gradients
from udc_defense.purification import DIFFUSION

RADII = ("PGD-20, ε = 2", "PGD-20", "PGD-20, ε = 8")  # of the attacker who knows the defense


def oblivious_table(results: Results, split: str) -> str:
    """Markdown: every attack against the bare restorer, and what the defense that it ignores leaves of it."""
    head = ("attack", "sees", "forwards", "backwards", "δ RMS (1/255)", "attacked, restored", "random noise, restored")
    lines = _head(*head, f"purified ({DIFFUSION.words}), restored", "crops")
    for entry, rows in _measured(results, OBLIVIOUS, split):
        facts = [row["search"] for row in rows if row["search"]]
        cost = [f"{facts[0]['forwards']:,}", f"{facts[0]['backwards']:,}"] if facts else ["shared", "shared"]
        delta = f"{median(fact['delta_rms'] for fact in facts):.2f}" if facts else ""
        keys = ("attacked_restored", "noise_restored", "defended_attacked")
        psnr = [f"{mean(rows, 'psnr', key):.2f}" for key in keys]
        lines.append(_line(entry.title, _sees(entry), *cost, delta, *psnr, str(len(rows))))
    return "\n".join(lines)


def adaptive_table(results: Results, split: str) -> str:
    """Markdown: the attacker who knows the defense; one answer, many answers, and the same for clean captures."""
    head = ("attack", "knows", "defense", "random noise, restored", "defended, one shot", "mean ± std")
    lines = _head(*head, "worst of 8", "clean, mean ± std", "clean, worst of 8", "crops")
    for entry, rows in _measured(results, ADAPTIVE, split):
        spreads = [cell for key in ("defended_attacked", "defended_clean") for cell in _spread(rows, key)]
        one, control = (f"{mean(rows, 'psnr', key):.2f}" for key in ("defended_attacked", "noise_restored"))
        defense = entry.purification.words
        lines.append(_line(entry.title, _knows(entry), defense, control, one, *spreads, str(len(rows))))
    return "\n".join(lines)


def smallest_table(results: Results, split: str) -> str:
    """Markdown: the perturbation that C&W needs to bring the restored image to the target."""
    lines = _head("attacked", f"median RMS of δ to reach {TARGET_PSNR:g} dB (1/255)", "reached", "crops")
    for words, entries in (("the restorer", OBLIVIOUS), ("{}, exact gradient", ADAPTIVE)):
        for entry, rows in (pair for pair in _measured(results, entries, split) if pair[0].attack == "cw"):
            found = [row["search"] for row in rows]
            reached = sum(-fact["best_loss"] <= TARGET_PSNR for fact in found)
            size = f"{median(fact['delta_rms'] for fact in found):.2f}"
            lines.append(_line(words.format(entry.purification.words), size, str(reached), str(len(found))))
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def flags_table(results: Results, split: str) -> str:
    """Markdown: the checks, and what each saw."""
    lines = _head("check", "raised", "what was seen")
    lines += [_line(flag.check, "yes" if flag.raised else "no", flag.words) for flag in raised_flags(results, split)]
    return "\n".join(lines)


def verdict(results: Results, split: str = "heldout") -> str:
    """What the tables say, in one paragraph, in whatever direction it points."""
    bare = {e.title: mean(r, "psnr", "attacked_restored") for e, r in _comparable(results, OBLIVIOUS, split)}
    white, black = _by_sight(bare, OBLIVIOUS)
    known = {e.title: r for e, r in _comparable(results, KNOWING, split) if e is not KNOWING[0]}
    worst = min(known, key=lambda title: mean(known[title], "psnr", "defended_attacked"))
    rows, plain = known[worst], rows_of(results, KNOWING[0], split)
    answers, clean = (_average(rows, key) for key in ("defended_attacked", "defended_clean"))
    raised = [flag.check for flag in raised_flags(results, split) if flag.raised and flag.check != "randomised"]
    asked = f" The best black box, {_least(black)}." if black else ""
    return (
        f"At ε = 4/255 the strongest attack on the bare restorer, {_least(white)}.{asked} The defense, attacked by one "
        f"who does not know it, keeps {mean(plain, 'psnr', 'defended_attacked'):.1f} dB of the "
        f"{mean(plain, 'psnr', 'defended_clean'):.1f} dB that it has on clean captures, where the bare restorer falls "
        f"to {mean(plain, 'psnr', 'attacked_restored'):.1f} dB. The one who differentiates it ({worst}) brings it to "
        f"{answers['mean']:.1f} ± {answers['std']:.2f} dB, and to {answers['worst']:.1f} dB where the worst of "
        f"{RESUBMISSIONS} answers counts (clean: {clean['worst']:.1f} dB). Random noise of the same norm leaves "
        f"the bare restorer {mean(rows, 'psnr', 'noise_restored'):.1f} dB. "
        + _limit(results, split)
        + (f"Flags raised: {'; '.join(raised)}." if raised else "No flag is raised but that the defense is randomised.")
        + _missing(results, split)
    )


def _limit(results: Results, split: str) -> str:
    """Where the defended image under attack is no better than the capture that was to be restored, in a sentence."""
    by_radius = {entry.settings(0).eps: rows_of(results, entry, split) for entry in KNOWING if entry.title in RADII}
    left = {eps: mean(rows, "psnr", "defended_attacked") for eps, rows in sorted(by_radius.items()) if rows}
    if not left:
        return ""
    captured = mean(by_radius[next(iter(left))], "psnr", "captured")
    told = ", ".join(f"{psnr:.1f} dB at ε = {eps:g}" for eps, psnr in left.items())
    fails = " and ".join(f"{eps:g}" for eps, psnr in left.items() if psnr < captured)
    where = f"at {fails} it is" if fails else "nowhere is it"
    return (
        f"The capture that is to be restored has {captured:.1f} dB, and PGD-20 by one who differentiates the defense "
        f"leaves {told}: {where} worse than no restoration at all. "
    )


def _least(psnr: dict[str, float]) -> str:
    title = min(psnr, key=lambda name: psnr[name])
    return f"{title}, leaves {psnr[title]:.1f} dB"


def _average(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Mean over images of the statistics of the answers."""
    found = [row["resubmission"][key] for row in rows]
    return {name: sum(one[name] for one in found) / len(found) for name in ("mean", "std", "worst")}


def _measured(results: Results, entries: Sequence[Entry], split: str) -> list[tuple[Entry, list[dict[str, Any]]]]:
    """Entries that every crop has met, with their rows: means over different crops do not compare."""
    found = [(entry, rows_of(results, entry, split)) for entry in entries]
    most = max((len(rows) for _, rows in found), default=0)
    return [(entry, rows) for entry, rows in found if rows and len(rows) == most]


def _missing(results: Results, split: str) -> str:
    """What the protocol holds and the file does not, in a sentence."""
    titles = []
    for words, entries in (("{0}", OBLIVIOUS), ("{0} knowing {1}", ADAPTIVE)):
        measured = [entry for entry, _ in _measured(results, entries, split)]
        missing = [entry for entry in entries if entry not in measured]
        titles += [words.format(entry.title, entry.purification.words) for entry in missing]
    return f" Not measured yet: {'; '.join(titles)}." if titles else ""


def raised_flags(results: Results, split: str) -> list[Flag]:
    """Every check, for the bare restorer and for the defense under the attacker who knows it."""
    bare = {e.title: mean(r, "psnr", "attacked_restored") for e, r in _comparable(results, OBLIVIOUS, split)}
    known = {e.title: mean(r, "psnr", "defended_attacked") for e, r in _comparable(results, KNOWING, split)}
    rows = [row for _, found in _measured(results, KNOWING, split) for row in found]
    damage = {e.title: mean(r, "psnr", "defended_attacked") for e, r in _measured(results, KNOWING, split)}
    unknowing = known.pop(KNOWING[0].title)
    found = [zero_gradients(rows)]
    for words, psnr, entries in (("restorer", bare, OBLIVIOUS), ("defense", known, KNOWING)):
        white, black = _by_sight(psnr, entries)
        if black:
            found.append(flags.black_box_wins(white, black, words))
    for what, titles in (("ε", RADII), ("steps", ("FGSM", "PGD-5", "PGD-20"))):
        if all(title in damage for title in titles):
            found.append(flags.more_does_not_hurt(what, {title: damage[title] for title in titles}))
    return [*found, flags.knowledge_does_not_help(unknowing, min(known.values())), randomised(rows)]


def _comparable(results: Results, entries: Sequence[Entry], split: str) -> Iterator[tuple[Entry, list[dict[str, Any]]]]:
    """Entries at ε = 4 in L∞, for these captures alone."""
    for entry, rows in _measured(results, entries, split):
        settings = entry.settings(0)
        if (settings.eps, settings.norm or "linf") == (4.0, "linf"):
            yield entry, rows


def _by_sight(psnr: dict[str, float], entries: Sequence[Entry]) -> tuple[dict[str, float], dict[str, float]]:
    """White-box and black-box ones."""
    white = {entry.title for entry in entries if ATTACKS.get(entry.attack).white_box}
    return {t: v for t, v in psnr.items() if t in white}, {t: v for t, v in psnr.items() if t not in white}


def _spread(rows: list[dict[str, Any]], key: str) -> tuple[str, str]:
    found = _average(rows, key)
    return f"{found['mean']:.2f} ± {found['std']:.2f}", f"{found['worst']:.2f}"


def _sees(entry: Entry) -> str:
    return "gradients" if ATTACKS.get(entry.attack).white_box else "outputs"


def _knows(entry: Entry) -> str:
    threat = entry.changes["threat"]
    return "its answers" if threat == "exact" and not ATTACKS.get(entry.attack).white_box else threat


def _head(*cells: str) -> list[str]:
    return [_line(*cells), "|---" * len(cells) + "|"]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
