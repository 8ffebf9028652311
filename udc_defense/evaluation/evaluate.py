"""Runs a plan: sharded over processes, resumed after a kill, merged into one file of rows.

A run folder holds `run.json` (what is measured and with what, written first), `rows.jsonl`, `examples/` and
`summary.json` (written last). While it runs, each process appends to a file of its own in `parts/`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from udc_defense.checkpoints.load import weights_sum
from udc_defense.defense import Defense
from udc_defense.errors import SettingError, UDCDefenseError
from udc_defense.evaluation.examples import write_examples
from udc_defense.evaluation.jobs import purifier_of, restorer_of
from udc_defense.evaluation.overhead import overhead
from udc_defense.evaluation.rows import merge, read_run
from udc_defense.evaluation.study import Plan
from udc_defense.evaluation.summary import summarize
from udc_defense.evaluation.workers import run_jobs
from udc_defense.metrics import METRICS
from udc_defense.output import locked, write_json
from udc_defense.provenance import hardware, versions
from udc_defense.purification import defense_name

RUN, SUMMARY, PARTS = "run.json", "summary.json", "parts"
# Of run.json: what may differ when a run goes on.
INCIDENTAL = ("command", "versions", "hardware", "processes")


@dataclass(frozen=True)
class Team:
    """The processes of `accelerate launch`: which one this is, of how many, on what, and where they meet."""

    index: int = 0
    count: int = 1
    device: str | None = None
    wait: Callable[[], Any] = lambda: None


def team() -> Team:
    """This process among those that `accelerate launch` has started; alone without it.

    Raises:
        SettingError: there are several, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Team()
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise SettingError('several processes need accelerate: pip install "udc-defense[train]".') from error
    state = PartialState()
    return Team(state.process_index, state.num_processes, str(state.device), state.wait_for_everyone)


def facts(plan: Plan, processes: int) -> dict[str, Any]:
    """What `run.json` says of a plan: what is measured, and with what.

    Raises:
        CheckpointError: a network cannot be had.
    """
    jobs = plan.jobs()
    restorers = list(dict.fromkeys(job.restorer for job in jobs))
    faced = list(dict.fromkeys(p for job in jobs for p in (*plan.defenses, *job.purifications) if p))
    used = [("restorer", name) for name in restorers]
    used += [("purifier", p.weights) for p in faced if not p.is_transform]
    used += [("guide", "default") for p in faced if p.guide == "feature"]
    return {
        "seed": plan.seed,
        "panel": plan.panel,
        "size": plan.study.size,
        "precision": plan.precision,
        "photos": list(dict.fromkeys(job.photo.name for job in jobs)),
        "degradations": list(plan.restorers),
        "restorers": restorers,
        "defenses": [{"name": defense_name(p)} | p.facts() for p in faced],
        "metrics": [*METRICS, *(["lpips"] if plan.study.perceptual else [])],
        "attacks": list(dict.fromkeys(job.title for job in jobs)),
        "checkpoints": {f"{kind} {name}": weights_sum(name, kind) for kind, name in used},
        "versions": versions(),
        "hardware": hardware(torch.device(plan.device)),
        "processes": processes,
    }


def run(plan: Plan, out: Path, about: dict[str, Any], workers: int, team: Team) -> Iterator[tuple[int, int]]:
    """Measure what is missing in `out`; yields (jobs done, jobs of all) of this process.

    Args:
        plan: what is measured.
        out: the run folder, shared by the processes of a team.
        about: goes into `run.json`.
        workers: processes that this one starts, of one thread each; 0 computes in this one.
        team: of `accelerate launch`; each process measures its share of the images.

    Raises:
        UDCDefenseError: the folder holds another run, belongs to another process or cannot be written, or an image or a
            network cannot be used.
    """
    with locked(out) if team.index == 0 else contextlib.nullcontext():
        yield from _measure(plan, out, about, workers, team)


def _measure(plan: Plan, out: Path, about: dict[str, Any], workers: int, team: Team) -> Iterator[tuple[int, int]]:
    if team.index == 0:
        _claim(out, about)
        _merge(out)
    team.wait()
    jobs = plan.jobs(plan.measured[team.index :: team.count])
    try:
        yield from run_jobs(jobs, out / PARTS / f"{team.index}.jsonl", workers, read_run(out))
    except BaseException:
        if team.count == 1:
            with contextlib.suppress(UDCDefenseError):  # on a full disk the parts stay
                _merge(out)
        raise
    team.wait()
    if team.index == 0:
        _merge(out)


def _claim(out: Path, about: dict[str, Any]) -> None:
    """Say what the folder is for; a run that began with anything else must not be mixed in."""
    path, about = out / RUN, json.loads(json.dumps(about))
    if path.is_file():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SettingError(f"{path}: cannot be read as JSON; name another --out.") from error
        for name in (name for name in about if name not in INCIDENTAL):
            if known.get(name) != about[name]:
                raise SettingError(f"{out}: holds a run with other {name}, {known.get(name)}; name another --out.")
    write_json(path, about)
    (out / SUMMARY).unlink(missing_ok=True)


def _merge(out: Path) -> None:
    """Move the rows of all parts into one file."""
    parts = sorted((out / PARTS).glob("*.jsonl"))
    merge(out, parts)
    shutil.rmtree(out / PARTS, ignore_errors=True)


def finish(plan: Plan, out: Path) -> None:
    """From the rows to what is read: the honesty list, the pictures of the first defense's headline."""
    rows = read_run(out)
    summary = summarize(rows) | {"cost": _costs(plan)}
    write_examples(plan, rows, out / "examples")
    write_json(out / SUMMARY, summary)


def _costs(plan: Plan) -> list[dict[str, Any]]:
    """Overhead of each defense with the first restorer."""
    restorer = restorer_of(next(iter(plan.restorers.values()))[0], plan.device)
    purifications = (None, *plan.defenses, *plan.plain)
    defenses = [Defense(restorer, purifier_of(p, plan.device)) for p in purifications]
    found = overhead(defenses, plan.study.size, plan.device)
    return [{"defense": defense_name(p)} | cost for p, cost in zip(purifications, found, strict=True)]
