"""The numbers in the sentences of README and RESULTS, by name: `<!--= name -->20.6<!--/-->` holds one."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np

from study import selection
from study.data import HELDOUT, SPLITS, VAL, about, results, rows, summary
from study.measure import generalisation
from study.tables import (
    ARCHITECTURES,
    COMMON,
    DEFENDED,
    System,
    at_equal_cost,
    faced,
    families,
    knowing,
    pgd,
    reported,
    strongest,
    targets,
)
from udc_defense.evaluation.rows import Rows, mean, mean_gain, number, recovered
from udc_defense.purification import DEFAULT, parse_defense

SLOW = "DDPM, the paper's lower end"
GOALS = {"share": 0.7, "cost": 1.0, "fidelity": 35.0}  # what was asked for before it was measured


def facts() -> dict[str, str]:
    """Every number, as it is printed."""
    made = (_default(), _attacks(), _purifiers(), _per_photo(), _finetuning(), _goals(), _architectures())
    further = (_evaluation(), _generalisation(), _certification(), _surrogate(), _made())
    return {name: text for part in (*made, *further) for name, text in part.items()}


def _db(found: float | None) -> str:
    assert found is not None
    return f"{found:.1f}"


def _spent(found: Rows, more: str, less: str) -> float:
    """How much less one stage has than another."""
    return (mean(found, more) or 0.0) - (mean(found, less) or 0.0)


def _default() -> dict[str, str]:
    found = rows("default_defense", HELDOUT, pgd(4), size=256)
    blind, knows = (rows("default_defense", HELDOUT, pgd(4, threat)) for threat in ("oblivious", "exact"))
    return {
        "default.crops": str(len(found)),
        "default.restored": _db(_spent(found, "restored", "captured")),
        "default.taken": _db(_spent(found, "restored", "attacked_restored")),
        "default.noise": _db(_spent(found, "restored", "noise_restored")),
        "default.back": _db(_spent(found, "defended_attacked", "attacked_restored")),
        "default.share": f"{recovered(found):.0%}",
        "default.cost": _db(_spent(found, "restored", "defended_clean")),
        "default.few": str(len(knows)),
        "default.blind": _db(mean(blind, "defended_attacked")),
        "default.known": _db(mean(knows, "defended_attacked")),
        "default.bare": _db(mean(blind, "attacked_restored")),
        "default.gain": f"{mean_gain(knows):.1f}",
        "default.gain-bare": f"{mean_gain(blind, 'restored', 'attacked_restored'):.1f}",
    }


def _attacks() -> dict[str, str]:
    """Numbers of the study's headlines: what the worst attacks leave, and what is left at other radii."""
    bare, defended = (_headline(defense) for defense in ("none", "default"))
    rivals = {
        title: mean(found, "attacked_restored") or 0.0
        for title in ("Square, 1000 queries", "SimBA, 1000 iterations", "SimBA-DCT, 1000 iterations")
        if (found := rows("attacks", HELDOUT, title, "one_step:draws=8"))
    }
    black = min(rivals, key=lambda title: rivals[title])
    asked = rows("attacks", HELDOUT, defended["title"])
    again, clean = ("resubmission", "defended_attacked"), ("resubmission", "defended_clean")
    by_radius = {
        2: rows("attacks", HELDOUT, "PGD-20, ε = 2, exact"),
        4: rows("attacks", HELDOUT, "PGD-20, exact"),
        8: rows("attacks", HELDOUT, "PGD-20, ε = 8, exact"),
    }
    raised = [
        flag["check"]
        for flag in summary("attacks")["flags"]
        if flag["split"] == HELDOUT and flag["defense"] in ("none", "default") and flag["raised"]
    ]
    return {
        "attacks.strongest": bare["title"],
        "attacks.strongest-leaves": _db(bare["psnr"]["mean"]),
        "attacks.black": black,
        "attacks.black-leaves": _db(rivals[black]),
        "attacks.worst": defended["title"],
        "attacks.worst-leaves": _db(defended["psnr"]["mean"]),
        "attacks.worst-gain": f"{defended['effective_gain']['mean']:.1f}",
        "attacks.again": _db(number(asked, *again, "worst")),
        "attacks.clean-again": _db(number(asked, *clean, "worst")),
        "attacks.noise": _db(mean(asked, "noise_restored")),
        "attacks.captured": _db(mean(asked, "captured")),
        "attacks.flags": "; ".join(dict.fromkeys(raised)) or "none",
    } | {f"attacks.at-{eps}": _db(mean(found, "defended_attacked")) for eps, found in by_radius.items()}


def _headline(defense: str) -> dict[str, Any]:
    wanted = {"split": HELDOUT, "defense": defense}
    (found,) = (entry for entry in summary("attacks")["headline"] if wanted.items() <= entry.items())
    return found


def _purifiers() -> dict[str, str]:
    ours, known = faced("default", HELDOUT, 4), knowing("default")
    times = {row["family"]: row["milliseconds_per_megapixel"] for row in results("cost")["rows"]}
    others = {family: defense for family, defense in reported().items() if defense != "default"}
    different = {defense: family for family, defense in reversed(others.items())}
    ahead = {
        "clean": _ahead(different, lambda name: mean(faced(name, HELDOUT, 4), "defended_clean")),
        "blind": _ahead(different, lambda name: mean(faced(name, HELDOUT, 4), "defended_attacked")),
        "known": _ahead(different, lambda name: mean(knowing(name), "defended_attacked")),
    }
    val = faced("default", VAL, 4)
    plain = {family: _at_clean_psnr(family, mean(val, "defended_clean") or 0.0) for family in families()}
    told = ", ".join(f"{family} {left:.1f}" for family, left in plain.items() if left is not None)
    return {
        "purifiers.level": str(DEFAULT.noise_level),
        "purifiers.clean": _db(mean(ours, "defended_clean")),
        "purifiers.blind": _db(mean(ours, "defended_attacked")),
        "purifiers.crops": str(len(ours)),
        "purifiers.known": _db(mean(known, "defended_attacked")),
        "purifiers.few": str(len(known)),
        "purifiers.times": f"{times[SLOW] / times['trained one step']:.0f}",
        "purifiers.others": str(len(different)),
        "purifiers.ahead-clean": ahead["clean"],
        "purifiers.ahead-blind": ahead["blind"],
        "purifiers.ahead-known": ahead["known"],
        "purifiers.val-clean": _db(mean(val, "defended_clean")),
        "purifiers.val-blind": _db(mean(val, "defended_attacked")),
        "purifiers.plain": told,
    }


def _ahead(others: Mapping[str, str], score: Any) -> str:
    """Families that have more than the default, with what they have."""
    ours, found = score("default"), {family: score(defense) for defense, family in others.items()}
    return ", ".join(f"{family} ({theirs:.1f})" for family, theirs in found.items() if theirs > ours) or "none"


def _at_clean_psnr(family: str, clean: float) -> float | None:
    """PSNR under attack on val at the strength of a plain transform with this clean PSNR; None beyond its strengths."""
    group = families()[family]
    first = parse_defense(group[0])
    if first is None or not first.is_transform:
        return None
    points = sorted(tuple(mean(faced(name, VAL, 4), stage) or 0.0 for stage in DEFENDED) for name in group)
    if not points[0][0] <= clean <= points[-1][0]:
        return None
    return float(np.interp(clean, [point[0] for point in points], [point[1] for point in points]))


def _per_photo() -> dict[str, str]:
    gains = {split: selection.gain(split) for split in SPLITS}
    fixed = selection.LEVELS[selection.best_fixed()]
    told = {f"per-photo.{split}": f"{gain.mean:+.2f}" for split, gain in gains.items()}
    told |= {f"per-photo.{split}-ends": f"{gain.low:+.2f} to {gain.high:+.2f}" for split, gain in gains.items()}
    return told | {"per-photo.fixed": str(fixed)}


def _finetuning() -> dict[str, str]:
    winner, base, paper = strongest(), System("default", False), System("purified", True)
    systems = {"best": winner, "base": base, "paper": paper}
    told = {f"finetuning.{name}": _db(system.left(HELDOUT)) for name, system in systems.items()}
    return told | {
        "finetuning.best-clean": _db(winner.clean(HELDOUT)),
        "finetuning.base-clean": _db(base.clean(HELDOUT)),
        "finetuning.winner": winner.words,
        "finetuning.equal": at_equal_cost().words,
        "finetuning.rival": System("adversarial", False).words,
        "finetuning.crops": " and ".join(str(len(winner.known(split))) for split in SPLITS),
    }


def _goals() -> dict[str, str]:
    base, paper = System("default", False), System("purified", True)
    own, bare = paper.faced(VAL, pgd(4)), base.faced(VAL, pgd(4))
    left, clean = (mean(own, stage) or 0.0 for stage in reversed(paper.stages))
    noise, cost = mean(bare, "noise_restored") or 0.0, (mean(bare, "restored") or 0.0) - clean
    returned = paper.recovered(VAL) or 0.0
    return {
        "goals.crops": str(len(own)),
        "goals.share": f"{returned:.0%}",
        "goals.share-reached": _reached(returned >= GOALS["share"]),
        "goals.purified": f"{System('default', True).recovered(VAL):.0%}",
        "goals.left": _db(left),
        "goals.noise": _db(noise),
        "goals.noise-reached": _reached(left >= noise),
        "goals.cost": _db(cost),
        "goals.cost-reached": _reached(cost <= GOALS["cost"]),
    }


def _reached(is_reached: bool) -> str:
    return "reached" if is_reached else "missed"


def _architectures() -> dict[str, str]:
    found = {network: rows("architectures", HELDOUT, pgd(4), "default", network) for network in ARCHITECTURES}

    def differences(more: str, less: str) -> dict[str, float]:
        return {ARCHITECTURES[network]: _spent(own, more, less) for network, own in found.items()}

    lost, back = differences("restored", "attacked_restored"), differences("defended_attacked", "attacked_restored")
    return {
        "architectures.number": str(len(found)),
        "architectures.lost": _span(lost),
        "architectures.noise": _span(differences("restored", "noise_restored")),
        "architectures.most": max(lost, key=lambda name: lost[name]),
        "architectures.least": min(lost, key=lambda name: lost[name]),
        "architectures.back": _span(back),
        "architectures.helped": max(back, key=lambda name: back[name]),
        "architectures.helped-least": min(back, key=lambda name: back[name]),
        "architectures.cost": _span(differences("restored", "defended_clean")),
    }


def _span(values: Mapping[str, float]) -> str:
    return f"{min(values.values()):.1f} to {max(values.values()):.1f}"


def _evaluation() -> dict[str, str]:
    entries = [entry for _, entry, _ in targets()]
    alone, defended = ([e for e in entries if e["defense"] == name] for name in ("none", "default"))
    here = [entry for panel, entry, _ in targets() if panel == COMMON]
    winner = max(here, key=lambda entry: entry["psnr"]["mean"])

    def levels(found: list[dict[str, Any]]) -> dict[str, float]:
        return {entry["restorer"]: entry["psnr"]["mean"] for entry in found}

    def below(found: list[dict[str, Any]]) -> str:
        return str(sum(entry["psnr"]["mean"] < entry["captured"]["mean"] for entry in found))

    return {
        "evaluation.restorers": str(len(alone)),
        "evaluation.below": below(alone),
        "evaluation.alone": _span(levels(alone)),
        "evaluation.defended-below": below(defended),
        "evaluation.defended": _span(levels(defended)),
        "evaluation.crops": " and ".join(map(str, sorted({entry["psnr"]["images"] for entry in alone + defended}))),
        "evaluation.best": f"`{winner['restorer']}`",
        "evaluation.best-defense": f"`{winner['defense']}`" + (" (a plain transform)" if winner["trivial"] else ""),
        "evaluation.best-keeps": _db(winner["psnr"]["mean"]),
        "evaluation.best-clean": _db(winner["clean"]["mean"]),
    }


def _generalisation() -> dict[str, str]:
    found = [row for row in results("generalisation")["rows"] if row["split"] == HELDOUT]

    def gain(condition: generalisation.Condition, network: str = "default") -> float:
        return fmean(r["restored"][network] - r["captured"] for r in found if r["condition"] == condition.words)

    as_it_is, *others = generalisation.CONDITIONS
    unseen = {c.words: gain(c) for c in others if c.panel == as_it_is.panel}
    least, most = (choose(unseen, key=lambda name: unseen[name]) for choose in (min, max))
    plain = {c.panel: c for c in generalisation.PLAIN}
    told = {f"optics.{panel}": _db(gain(condition)) for panel, condition in plain.items()}
    told |= {f"optics.{panel}-own": _db(gain(condition, panel)) for panel, condition in plain.items()}
    return told | {
        "optics.kinds": str(len(unseen)),
        "optics.least": f"{unseen[least]:.1f} dB ({least})",
        "optics.most": f"{unseen[most]:.1f} dB ({most})",
        "optics.worse": ", ".join(name for name, added in unseen.items() if added < 0) or "none",
    }


def _certification() -> dict[str, str]:
    found = results("certification")
    heldout = [row for row in found["rows"] if row["split"] == HELDOUT]
    protocol = found["protocol"]
    return {
        "certification.crops": str(len({row["image"] for row in heldout})),
        "certification.restored": _db(fmean(r["psnr"]["bare"] for r in heldout if r["system"] == "target")),
        "certification.confidence": f"{protocol['confidence']:.1%}",
        "certification.cost": f"{protocol['most_clean_cost_db']:g}",
    }


def _surrogate() -> dict[str, str]:
    found = results("ducd")
    made, moved, digits = found["distillation"], found["transfer"], found["digits"]
    taken = {name: moved["clean"] - moved[name] for name in ("white_box", "transferred", "noise")}
    gained = digits["auc_of_target_over_smoothed"]
    return {
        "surrogate.queries": f"{made['queries']:,}",
        "surrogate.scenes": str(made["scenes"]),
        "surrogate.fidelity": _db(made["fidelity"]["mean"]),
        "surrogate.worst": _db(made["fidelity"]["worst"]),
        "surrogate.fidelity-256": _db(made["fidelity_256"]["mean"]),
        "surrogate.goal": _reached(made["fidelity"]["mean"] >= GOALS["fidelity"]),
        "surrogate.transferred": _db(taken["transferred"]),
        "surrogate.share": f"{moved['share']:.0%}",
        "surrogate.white": _db(taken["white_box"]),
        "surrogate.noise": _db(taken["noise"]),
        "digits.members": str(digits["members"]),
        "digits.queries": f"{digits['queries']:,}",
        "digits.splits": str(len(digits["splits"])),
        "digits.gained": f"{gained['mean']:.3f}",
        "digits.ends": f"{gained['low']:.3f} to {gained['high']:.3f}",
    }


def _made() -> dict[str, str]:
    found = about("default_defense")
    return {"made.seed": str(found["seed"]), "made.torch": found["versions"]["torch"], "made.on": found["hardware"]}
