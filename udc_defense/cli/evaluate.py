"""`udc-defense evaluate`: is this restorer robust, and what does the defense cost?"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udc_defense.cli.common import complain, device, drain, say
from udc_defense.cli.flags import RESTORER, SPEC, add_pairs, add_panel, command
from udc_defense.errors import SettingError

if TYPE_CHECKING:
    from udc_defense.evaluation.api import Images
    from udc_defense.evaluation.study import Plan


def add(commands: Any) -> None:
    """Add the command."""
    words = "measure how robust restorers and defenses are, and what that costs: rows, summary and report"
    parser = command(commands, "evaluate", _evaluate, words)
    parser.add_argument(
        "--preset",
        default="quick",
        metavar="NAME",
        help="what is measured: quick, which needs no data (default), paper, full, or a study of yours, FILE.toml",
    )
    parser.add_argument("--plan", action="store_true", help="only say what would be measured, and how long it takes")
    parser.add_argument(
        "--restorer",
        action="append",
        metavar="NAME",
        help=f"{RESTORER}; repeat for a transfer matrix (default: default)",
    )
    parser.add_argument(
        "--defense",
        action="append",
        metavar="SPEC",
        help=f"a defense to measure: {SPEC}; repeat for more (default: default)",
    )
    parser.add_argument(
        "--attacks",
        nargs="+",
        metavar="NAME",
        help="attacks to measure, of `udc-defense attack --list` (default: the preset's)",
    )
    parser.add_argument(
        "--threats",
        nargs="+",
        metavar="KIND",
        help="what attackers know, of `udc-defense attack --list` (default: the preset's)",
    )
    parser.add_argument(
        "--degradation",
        action="append",
        choices=("udc", "noise", "blur"),
        help="what is done to images before they are restored (default udc); repeat for more",
    )
    parser.add_argument("--scenes", type=Path, metavar="DIR", help="folder that the paths of --crops start from")
    parser.add_argument("--crops", type=Path, metavar="FILE", help="list of crops, a CSV file")
    parser.add_argument("--split", choices=("val", "heldout"), help="measure this split of --crops only")
    add_pairs(parser)
    add_panel(parser)
    parser.add_argument("--device", default="auto", help="device to compute on: auto (default), cpu, cuda or mps")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="precision of attackers' gradients; bfloat16 is faster where the hardware has it; judged is in float32",
    )
    parser.add_argument("--workers", type=int, help="processes of one thread each (default: one per core)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default 0)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="run folder; one that was stopped goes on (default evaluate-PRESET)"
    )


def _evaluate(options: argparse.Namespace) -> int:
    import torch

    from udc_defense.evaluation import evaluate
    from udc_defense.evaluation.api import in_words

    torch.set_num_threads(1)  # as in workers: what a row says must not depend on the number of cores
    out = options.out or Path(f"evaluate-{Path(options.preset).stem}")
    team = evaluate.team()
    plan = _plan(options, team.device or device(options.device))
    if options.plan:
        return _foretell(plan)
    workers = _workers(options, plan.device, team.count)
    processes = team.count * max(1, workers)
    about = {
        "command": shlex.join(["udc-defense", *options.arguments]),
        "preset": options.preset,
        "images": in_words(plan, _images(options)),
        "bundled": _images(options).are_bundled,
    } | evaluate.facts(plan, processes)
    if team.index == 0:
        say(f"Measuring on {about['images']}.")
    steps = evaluate.run(plan, out, about, workers, team)
    jobs = len(plan.jobs(plan.measured[team.index :: team.count]))
    drain((done for done, _ in steps), jobs, "job")
    if team.index == 0:
        evaluate.finish(plan, out)
        say(str(_report(out)))
    return 0


def _foretell(plan: Plan) -> int:
    """What a run would measure, and the core-minutes that it takes here."""
    from udc_defense.evaluation.estimate import expected

    found = expected(plan.jobs())
    for entry in found:
        say(f"{entry.minutes:8.1f} min  {entry.rows:6} rows, {entry.images:3} images  {entry.title}")
    total, rows = sum(entry.minutes for entry in found), sum(entry.rows for entry in found)
    where = "core-minutes" if plan.device == "cpu" else f"minutes of {plan.device}"
    say(f"{total:8.1f} min  {rows:6} rows in all: about {total:.0f} {where} on this machine.")
    return 0


def _report(out: Path) -> Path:
    """What there is to open: the report, or the folder where the report's extra is missing."""
    from udc_defense.report import write_report

    target = out / "report.html"
    try:
        write_report([out], target)
    except SettingError as error:
        complain(error)
        return out
    return target


def _images(options: argparse.Namespace) -> Images:
    from udc_defense.evaluation.api import Images

    pairs = tuple(options.pairs) if options.pairs else None
    return Images(pairs, options.domain, options.scenes, options.crops, options.split)


def _plan(options: argparse.Namespace, chosen_device: str) -> Plan:
    from udc_defense.evaluation.api import make_plan

    plan = make_plan(
        options.restorer or (),
        options.defense or (),
        options.preset,
        _images(options),
        options.attacks,
        options.threats,
        options.degradation or (),
        panel=options.panel,
        seed=options.seed,
        device=chosen_device,
        precision=options.precision,
    )
    if not plan.study.perceptual and options.preset != "quick":
        complain("without LPIPS, whose published weights cannot be had.")
    return plan


def _workers(options: argparse.Namespace, chosen_device: str, processes: int) -> int:
    """A GPU is fed by this process alone, and so is a process among several."""
    if options.workers is not None:
        if options.workers < 0:
            raise SettingError(f"{options.workers} workers are fewer than none.")
        return options.workers
    return 0 if processes > 1 or chosen_device != "cpu" else len(os.sched_getaffinity(0))
