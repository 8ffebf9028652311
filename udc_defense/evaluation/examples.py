"""The pictures behind a headline: its best and its worst image, computed again and written as PNGs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from udc_defense.evaluation.jobs import Job, results_of
from udc_defense.evaluation.rows import Row, key_of, value
from udc_defense.evaluation.study import Plan
from udc_defense.evaluation.summary import worst_setting
from udc_defense.images import write_png
from udc_defense.output import write_json
from udc_defense.photo.result import KEYS
from udc_defense.purification import defense_name

WRITTEN = ("clean", *KEYS)


def write_examples(plan: Plan, rows: Sequence[Row], folder: Path) -> None:
    """`best/` and `worst/` with the stages of an image each, and `examples.json`.

    Of the first restorer with the first defense; of nothing where no attack at the headlines' radius was measured.

    Args:
        plan: that measured the rows.
        rows: of the evaluation.
        folder: is made.
    """
    degradation, restorers = next(iter(plan.restorers.items()))
    defense = defense_name(next(iter(plan.defenses), None))
    setting = worst_setting(rows, degradation=degradation, restorer=restorers[0], defense=defense)
    if not setting:
        return
    owners = ((job, job.keys()) for job in plan.jobs())
    jobs = {key: job for job, keys in owners for key in keys}
    found = []
    left = sorted(setting, key=lambda row: value(row, "defended_attacked") or 0.0)
    for kind, row in (("best", left[-1]), ("worst", left[0])):
        _write_stages(jobs[key_of(row)], row, folder / kind)
        told = {
            name: row[name]
            for name in ("image", "restorer", "defense", "degradation", "attack", "threat", "eps", "psnr")
        }
        found.append({"folder": kind, "kind": kind, **told})
    write_json(folder / "examples.json", found)


def _write_stages(job: Job, row: Row, folder: Path) -> None:
    (purification,) = (p for p in job.purifications if (p.facts() if p else None) == row["purifier"])
    alone = replace(job, settings=replace(job.settings, resubmit=0), purifications=(purification,))
    ((_, result),) = results_of(alone)
    for stage in WRITTEN:
        if stage in result.images:
            write_png(result.images[stage], folder / f"{stage}.png")
