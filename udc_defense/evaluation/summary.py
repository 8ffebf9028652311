"""The honesty list of an evaluation, filled in from its rows.

A setting is what all rows share that differ in their image alone. Numbers are mean PSNRs in dB over images, with the
ends of a 95 % bootstrap interval where there are two images or more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from udc_defense.attacks import ATTACKS
from udc_defense.evaluation import flags
from udc_defense.evaluation.bootstrap import bootstrap_mean
from udc_defense.evaluation.protocol import EOT, LARGEST, RADIUS, has_gradient
from udc_defense.evaluation.runner import key_of
from udc_defense.photo.flags import Flag, randomised, zero_gradients
from udc_defense.photo.result import HIGHEST_PSNR
from udc_defense.purification import Purification

Row = dict[str, Any]
Rows = Sequence[Row]  # of one setting, one per image
SHOWN = ("title", "attack", "objective", "norm", "eps", "steps", "threat")


def summarize(rows: Rows) -> dict[str, Any]:
    """Everything that a reader of an evaluation must be told, by what was measured."""
    once = [row for row in rows if row["draw"] == 0]
    attacked = [row for row in once if "made_on" not in row]
    targets = [_Target(found) for found in _grouped(attacked, ("degradation", "restorer", "defense")).values()]
    return {
        "radius": RADIUS,
        "headline": [target.headline() for target in targets],
        "oblivious_and_adaptive": [target.side_by_side() for target in targets],
        "clean_cost": [target.clean_cost() for target in targets],
        "answers": [answers for target in targets for answers in target.answers()],
        "eot_convergence": [target.facts | {"psnr": target.eot()} for target in targets if target.eot()],
        "settings": [entry for target in targets for entry in target.table()],
        "flags": [target.facts | asdict(flag) for target in targets for flag in target.flags()],
        "transfer": _transfer(once),
    }


def worst_setting(rows: Rows, degradation: str, restorer: str, defense: str) -> Rows:
    """The rows of the setting that a headline names."""
    wanted = {"degradation": degradation, "restorer": restorer, "defense": defense, "draw": 0}
    found = [row for row in rows if "made_on" not in row and all(row[key] == value for key, value in wanted.items())]
    return _Target(found).worst(lambda _: True)


def final(row: Row) -> float:
    """PSNR of what a user gets of the attacked capture."""
    return _decibel(row, "attacked_restored" if row["purifier"] is None else "defended_attacked")


def clean(row: Row) -> float:
    """The same of the capture that nobody attacked."""
    return _decibel(row, "restored" if row["purifier"] is None else "defended_clean")


def _decibel(row: Row, stage: str) -> float:
    """Null says that two images are equal."""
    value = row["psnr"][stage]
    return HIGHEST_PSNR if value is None else value


class _Target:
    """A restorer with a defense, on one degradation, and every setting in which it was attacked."""

    def __init__(self, rows: Rows) -> None:
        self.facts = {name: rows[0][name] for name in ("degradation", "restorer", "defense", "trivial")}
        named: dict[str, list[Row]] = {}
        for row in rows:
            named.setdefault(key_of(row | {"image": "", "split": ""}), []).append(row)
        self.settings: list[Rows] = list(named.values())

    def worst(self, chosen: Callable[[Row], bool]) -> Rows:
        """The setting with the lowest mean among those that compare; empty where there is none."""
        found = [rows for rows in self.at_radius() if chosen(rows[0])]
        return min(found, key=_mean, default=[])

    def at_radius(self) -> list[Rows]:
        """Settings that compare with each other, on the images that all of them met: dear attacks meet few."""
        found = [
            rows
            for rows in self.settings
            if (rows[0]["eps"], rows[0]["norm"] or "linf") == (RADIUS, "linf") and not rows[0]["title"].startswith(EOT)
        ]
        common = set.intersection(*({row["image"] for row in rows} for rows in found)) if found else set()
        return [[row for row in rows if row["image"] in common] for rows in found] if common else []

    def headline(self) -> Row:
        """The worst of all that was measured, whatever the attacker knew."""
        rows = self.worst(lambda _: True)
        if not rows:
            return self.facts | {"psnr": None}
        by_image = _grouped((row for found in self.at_radius() for row in found), ("image",)).values()
        return (
            self.facts
            | _shown(rows)
            | {
                "psnr": _interval(rows, final),
                "clean": _interval(rows, clean),
                "noise": _interval(rows, lambda row: _decibel(row, "noise_restored")),
                "captured": _interval(rows, lambda row: _decibel(row, "captured")),
                "worst_attack_on_each_image": fmean(min(map(final, found)) for found in by_image),
            }
        )

    def side_by_side(self) -> Row:
        """The worst of those who do not know the defense beside the worst of those who do."""
        sides = {"oblivious": self.worst(_is_oblivious), "adaptive": self.worst(lambda row: not _is_oblivious(row))}
        return self.facts | {
            name: _shown(rows) | {"psnr": _interval(rows, final)} if rows else None for name, rows in sides.items()
        }

    def clean_cost(self) -> Row:
        """What the defense takes from images that nobody attacked, in dB."""
        rows = max(self.settings, key=len)
        return self.facts | {"cost": _interval(rows, lambda row: _decibel(row, "restored") - clean(row))}

    def answers(self) -> list[Row]:
        """One shot, mean ± std and worst of N answers, for the attacked and for the clean capture."""
        asked = [rows for rows in self.settings if all(row["resubmission"] for row in rows)]
        return [
            self.facts
            | _shown(rows)
            | {
                words: {"one_shot": fmean(map(one, rows))}
                | {
                    name: fmean(row["resubmission"][stage][name] for row in rows)
                    for name in ("mean", "std", "worst", "n")
                }
                for words, stage, one in (("attacked", "defended_attacked", final), ("clean", "defended_clean", clean))
            }
            for rows in asked
        ]

    def eot(self) -> dict[str, float]:
        """PSNR by the number of draws that each gradient averaged, on the same images."""
        found = [rows for rows in self.settings if rows[0]["title"].startswith(EOT)]
        return {str(rows[0]["draws"]): _mean(rows) for rows in sorted(found, key=lambda rows: rows[0]["draws"])}

    def table(self) -> list[Row]:
        """Each setting, with its means and what the attacker spent."""
        return [
            self.facts
            | _shown(rows)
            | {
                "images": len(rows),
                "psnr": _interval(rows, final),
                "seconds": fmean(row["seconds"].get("attack", 0.0) for row in rows),
                "forwards": fmean(row["search"]["forwards"] for row in rows),
                "backwards": fmean(row["search"]["backwards"] for row in rows),
                "peak_memory_mb": max(row["peak_memory_mb"] or 0 for row in rows) or None,
            }
            for rows in self.settings
            if rows[0]["search"]
        ]

    def flags(self) -> list[Flag]:
        """Every check that these rows allow."""
        defended = self.facts["defense"] != "none"
        known = [rows for rows in self.settings if _is_oblivious(rows[0]) != defended]
        compared = {rows[0]["title"]: rows for rows in self.at_radius() if _is_oblivious(rows[0]) != defended}
        psnr = {title: _mean(rows) for title, rows in compared.items()}
        white = {title: value for title, value in psnr.items() if _is_white(compared[title][0])}
        black = {title: value for title, value in psnr.items() if title not in white}
        found = [zero_gradients([row for rows in known for row in rows])]
        if white and black:
            found.append(flags.black_box_wins(white, black, "defense" if defended else "restorer"))
        for threat in dict.fromkeys(rows[0]["threat"] for rows in known):
            same = [rows for rows in known if rows[0]["threat"] == threat and rows[0]["attack"] in ("fgsm", "pgd")]
            found += _monotone(same, threat)
        if defended:
            found += self._of_defense(compared)
        worst = self.worst(lambda _: True)
        if worst and not defended:
            noise = fmean(_decibel(row, "noise_restored") for row in worst)
            found.append(flags.no_better_than_noise(_mean(worst), noise))
        return found

    def _of_defense(self, compared: dict[str, Rows]) -> list[Flag]:
        found = []
        by_threat = {
            threat: [_mean(rows) for rows in compared.values() if rows[0]["threat"] == threat and _is_white(rows[0])]
            for threat in ("exact", "bpda")
        }
        if all(by_threat.values()):
            found.append(flags.masked_gradient(min(by_threat["exact"]), min(by_threat["bpda"])))
        elif not has_gradient(Purification(**self.settings[0][0]["purifier"])):
            found.append(Flag("masked gradient", True, "autograd finds no gradient at all: only BPDA can be measured."))
        unknowing, knowing = self.worst(_is_oblivious), self.worst(lambda row: not _is_oblivious(row))
        if unknowing and knowing:
            found.append(flags.knowledge_does_not_help(_mean(unknowing), _mean(knowing)))
        if len(series := self.eot()) > 1:
            found.append(flags.not_converged({f"{draws} draws": psnr for draws, psnr in series.items()}))
        if asked := [row for rows in self.settings for row in rows if row["resubmission"]]:
            found.append(randomised(asked))
        return found


def _monotone(settings: Sequence[Rows], threat: str) -> list[Flag]:
    """More ε at the same steps, and more steps at the same ε, FGSM being one step."""
    points = {(_steps(rows[0]), rows[0]["eps"]): rows for rows in settings if _is_plain(rows[0])}
    found = []
    for what, index, unit in (("ε", 1, "ε = {:g}"), ("steps", 0, "{} steps")):
        fixed = sorted({point[1 - index] for point in points})
        series = [{p[index]: rows for p, rows in sorted(points.items()) if p[1 - index] == value} for value in fixed]
        longest = max(series, key=len, default={})
        if len(longest) > 1:
            means = {unit.format(value): _mean(rows) for value, rows in longest.items()}
            found.append(flags.more_does_not_hurt(f"{what} ({threat})", means))
        if what == "ε" and max(longest, default=0) >= LARGEST:
            rows = longest[max(longest)]
            captured = fmean(_decibel(row, "captured") for row in rows)
            found.append(flags.large_radius(rows[0]["eps"], _mean(rows), captured))
    return found


def _steps(row: Row) -> int:
    return 1 if row["attack"] == "fgsm" else row["steps"]


def _is_plain(row: Row) -> bool:
    """Of FGSM and PGD without extras: settings that differ in radius and steps alone."""
    extras = row["options"] not in ({}, {"restarts": 1, "momentum": 0.0}) or row["draws"] > 1
    return (
        not extras and (row["norm"] or "linf", row["objective"]) == ("linf", "mse") and not row["title"].startswith(EOT)
    )


def _is_oblivious(row: Row) -> bool:
    return row["threat"] == "oblivious"


def _is_white(row: Row) -> bool:
    return ATTACKS.get(row["attack"]).white_box


def _transfer(rows: Rows) -> list[Row]:
    """By degradation: PSNR of each restorer (column) under the attack that each (row) was differentiated for.

    On the images that met both kinds.
    """
    found = []
    for degradation in dict.fromkeys(row["degradation"] for row in rows if "made_on" in row):
        here = [row for row in rows if row["degradation"] == degradation and row["purifier"] is None]
        foreign = [row for row in here if "made_on" in row]
        names = sorted({row["restorer"] for row in foreign})
        like = {name: foreign[0][name] for name in ("attack", "eps", "steps", "objective", "norm", "threat", "draws")}
        images = {row["image"] for row in foreign}
        own = [r for r in here if r["image"] in images and all(r[name] == value for name, value in like.items())]
        psnr = [
            [
                fmean(final(row) for row in own if row["restorer"] == column and row.get("made_on", column) == made_on)
                for column in names
            ]
            for made_on in names
        ]
        found.append(
            {"degradation": degradation, "images": len(images), "rows": names, "columns": names, "psnr": psnr} | like
        )
    return found


def _grouped(rows: Iterable[Row], names: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def _mean(rows: Rows) -> float:
    return fmean(map(final, rows))


def _shown(rows: Rows) -> Row:
    return {name: rows[0][name] for name in SHOWN}


def _interval(rows: Rows, value: Callable[[Row], float]) -> Row:
    """Mean over images and its interval, null of one image."""
    values = [value(row) for row in rows]
    if len(values) < 2:
        return {"mean": values[0], "low": None, "high": None, "images": 1}
    return {name: round(number, 4) for name, number in bootstrap_mean(values)._asdict().items()} | {
        "images": len(values)
    }
