"""The honesty list of an evaluation, filled in from its rows.

Numbers are means over images, with the ends of a 95 % bootstrap interval where there are two images or more. What the
worst attack, the clean cost and the rest are is said in `rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from udc_defense.attacks import ATTACKS
from udc_defense.evaluation import flags
from udc_defense.evaluation.rows import (
    CERTIFIED,
    NONE,
    Budget,
    Cell,
    Row,
    Rows,
    Target,
    certified,
    common_budget,
    interval,
    mean,
    select,
    targets,
    value,
)
from udc_defense.photo.flags import Flag, randomised, zero_gradients
from udc_defense.purification import Purification, has_gradient
from udc_defense.table import Interval

SHOWN = ("title", "attack", "objective", "norm", "eps", "steps", "threat")
LARGEST = 64.0  # a radius at which no restorer can hold
LIKE = ("attack", "eps", "steps", "objective", "norm", "threat", "draws")


def summarize(rows: Rows) -> dict[str, Any]:
    """Everything that a reader of an evaluation must be told, by what was measured."""
    found = targets(rows)
    budget = common_budget(found)
    return {
        "budget": budget and budget._asdict(),
        "headline": [_facts(target) | _headline(target, budget) for target in found],
        "oblivious_and_adaptive": [_facts(target) | _side_by_side(target, budget) for target in found],
        "clean_cost": [_facts(t) | {"cost": _shown(t.clean_cost(), len(t.clean()))} for t in found if t.cells],
        "certified": [_facts(target) | _certified(target) for target in found if target.lipschitz is not None],
        "flags": [_facts(target) | asdict(flag) for target in found for flag in _flags(target, budget)],
        "transfer": transfer(rows),
    }


def worst_setting(rows: Rows, **wanted: str) -> Rows:
    """The rows of the setting that a headline names, of a degradation, restorer and defense."""
    found = targets(rows)
    (target,) = (t for t in found if wanted.items() <= _facts(t).items())
    worst = target.worst(common_budget(found))
    return worst.rows if worst else []


def _facts(target: Target) -> dict[str, Any]:
    names = ("degradation", "restorer", "defense", "trivial", "split", "size", "kmac_per_pixel")
    return {name: getattr(target, name) for name in names}


def _headline(target: Target, budget: Budget | None) -> dict[str, Any]:
    """The worst of all that was measured, whatever the attacker knew."""
    worst, compared = target.worst(budget), target.compared(budget)
    if worst is None:
        return {"psnr": None}
    clean, images = target.clean(), worst.attacked
    levels = {"psnr": images, "clean": {image: clean[image] for image in images}}
    levels |= {name: worst.values(stage) for name, stage in (("noise", "noise_restored"), ("captured", "captured"))}
    return (
        _named(worst)
        | {name: _shown(interval(values), len(values)) for name, values in levels.items()}
        | {"effective_gain": _shown(worst.gain, len(images))}
        | {"worst_attack_on_each_image": fmean(min(cell.attacked[image] for cell in compared) for image in images)}
    )


def _side_by_side(target: Target, budget: Budget | None) -> dict[str, Any]:
    """The worst of those who do not know the defense beside the worst of those who do."""
    sides = {name: target.worst(budget, knows=name == "adaptive") for name in ("oblivious", "adaptive")}
    return {
        name: cell and _named(cell) | {"psnr": _shown(interval(cell.attacked), len(cell.attacked))}
        for name, cell in sides.items()
    }


def _certified(target: Target) -> dict[str, Any]:
    """Means of what is certified, with any attack of at most ε/255."""
    floors = {f"{eps:g}": interval(target.certified(eps)) for eps in CERTIFIED}
    return {
        "lipschitz": target.lipschitz,
        "psnr": {eps: _shown(found, len(target.clean())) for eps, found in floors.items()},
    }


def _named(cell: Cell) -> dict[str, Any]:
    return {name: cell.rows[0].get(name) for name in SHOWN}


def _shown(found: Interval | None, images: int) -> dict[str, Any] | None:
    return found and found._asdict() | {"images": images}


def _flags(target: Target, budget: Budget | None) -> list[Flag]:
    """Every check that these rows allow, of those who know the defense, or of all where there is none."""
    defended = target.defense != NONE
    known = [cell for cell in target.cells if cell.knows == defended]
    compared = {cell.setting.title: cell for cell in target.compared(budget) if cell.knows == defended}
    psnr = {title: cell.mean for title, cell in compared.items()}
    white = {title: left for title, left in psnr.items() if _is_white(compared[title])}
    black = {title: left for title, left in psnr.items() if title not in white}
    found = [zero_gradients([row for cell in (*known, *target.convergence) for row in cell.rows])]
    found += _unbroken(target)
    if white and black:
        found.append(flags.black_box_wins(white, black, "defense" if defended else "restorer"))
    for threat in dict.fromkeys(cell.setting.threat for cell in known):
        found += _monotone([cell for cell in known if cell.setting.threat == threat], threat)
    if defended:
        return found + _of_defense(target, compared, budget)
    worst = target.worst(budget)
    noise = mean(worst.rows, "noise_restored") if worst else None
    return found + ([flags.no_better_than_noise(worst.mean, noise)] if worst and noise is not None else [])


def _unbroken(target: Target) -> list[Flag]:
    """Where a floor is certified, no attack gets below it: on the image where one is nearest."""
    margins = []
    for row in target.rows:
        left, eps = value(row, "defended_attacked"), row.get("eps")
        floor = certified(row, eps) if eps and (row.get("norm") or "linf") in ("linf", "l2") else None
        if floor is not None and left is not None:
            margins.append((left - floor, row["title"], left, floor))
    return [flags.certificate_broken(*min(margins))] if margins else []


def _of_defense(target: Target, compared: Mapping[str, Cell], budget: Budget | None) -> list[Flag]:
    found = []
    white = [cell for cell in compared.values() if _is_white(cell)]
    by_threat = {t: [cell.mean for cell in white if cell.setting.threat == t] for t in ("exact", "bpda")}
    if all(by_threat.values()):
        found.append(flags.masked_gradient(min(by_threat["exact"]), min(by_threat["bpda"])))
    elif not has_gradient(Purification.of_facts(target.rows[0]["purifier"] or {})):
        found.append(Flag("masked gradient", True, "autograd finds no gradient at all: only BPDA can be measured."))
    unknowing, knowing = (target.worst(budget, knows=knows) for knows in (False, True))
    if unknowing and knowing:
        found.append(flags.knowledge_does_not_help(unknowing.mean, knowing.mean))
    series = sorted((cell.rows[0]["draws"], cell.mean) for cell in target.convergence)
    if len(series) > 1:
        found.append(flags.not_converged({f"{draws} draws": left for draws, left in series}))
    if asked := [row for row in target.rows if row["resubmission"]]:
        found.append(randomised(asked))
    return found


def _monotone(cells: Sequence[Cell], threat: str) -> list[Flag]:
    """More ε at the same steps, and more steps at the same ε, FGSM being one step."""
    points = {_point(cell.rows[0]): cell for cell in cells if _is_plain(cell.rows[0])}
    found = []
    for what, index, unit in (("ε", 1, "ε = {:g}"), ("steps", 0, "{} steps")):
        fixed = sorted({point[1 - index] for point in points})
        series = [{p[index]: cell for p, cell in sorted(points.items()) if p[1 - index] == one} for one in fixed]
        longest = max(series, key=len, default={})
        if len(longest) > 1:
            means = {unit.format(place): cell.mean for place, cell in longest.items()}
            found.append(flags.more_does_not_hurt(f"{what} ({threat})", means))
        if what == "ε" and max(longest, default=0) >= LARGEST:
            cell = longest[max(longest)]
            captured = mean(cell.rows, "captured")
            assert captured is not None
            found.append(flags.large_radius(max(longest), cell.mean, captured))
    return found


def _point(row: Row) -> tuple[float, float]:
    """Steps and radius."""
    return 1 if row["attack"] == "fgsm" else row["steps"] or 0, row["eps"] or 0


def _is_plain(row: Row) -> bool:
    """Of FGSM and PGD without extras: settings that differ in radius and steps alone."""
    extras = row["options"] not in ({}, {"restarts": 1, "momentum": 0.0}) or row["draws"] > 1
    named = row["norm"] or "linf", row["objective"]
    return row["attack"] in ("fgsm", "pgd") and not extras and named == ("linf", "mse")


def _is_white(cell: Cell) -> bool:
    return ATTACKS.get(cell.rows[0]["attack"]).white_box


def transfer(rows: Rows) -> list[dict[str, Any]]:
    """By degradation: PSNR of each restorer (column) under the attack that each (row) was differentiated for.

    On the images that met both kinds.
    """
    found = []
    for degradation in dict.fromkeys(row["degradation"] for row in rows if row.get("made_on")):
        here = select(rows, degradation=degradation, defense=NONE)
        foreign = [row for row in here if row.get("made_on")]
        names = sorted({row["restorer"] for row in foreign})
        like: dict[str, Any] = {name: foreign[0].get(name) for name in LIKE}
        images = {row["image"] for row in foreign}
        own = [row for row in select(here, **like) if row["image"] in images]
        made: Callable[[Row], str] = lambda row: row.get("made_on") or row["restorer"]  # noqa: E731
        psnr = [
            [
                mean([row for row in select(own, restorer=column) if made(row) == name], "attacked_restored")
                for column in names
            ]
            for name in names
        ]
        found.append(
            {"degradation": degradation, "images": len(images), "rows": names, "columns": names, "psnr": psnr} | like
        )
    return found
