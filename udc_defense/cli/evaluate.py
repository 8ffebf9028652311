"""`udc-defense evaluate`: is this restorer robust, and what does the defense cost?"""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udc_defense.cli.common import complain, device, drain, say
from udc_defense.cli.flags import RESTORER, SPEC, add_pairs, add_panel, command
from udc_defense.errors import SettingError, UDCDefenseError

if TYPE_CHECKING:
    from udc_defense.evaluation.plan import Plan
    from udc_defense.photo.source import Photo

PRESETS = ("quick", "paper", "full")


def add(commands: Any) -> None:
    """Add the command."""
    words = "measure how robust restorers and defenses are, and what that costs: rows, summary and report"
    parser = command(commands, "evaluate", _evaluate, words)
    parser.add_argument("--preset", choices=PRESETS, default="quick", help="quick needs no data (default)")
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
    parser.add_argument("--attacks", nargs="+", metavar="NAME", help="these alone, see udc-defense attack --list")
    parser.add_argument("--threats", nargs="+", metavar="KIND", help="these alone: oblivious, bpda, surrogate, exact")
    parser.add_argument(
        "--degradation", action="append", choices=("udc", "noise", "blur"), help="of the images; repeat for more"
    )
    parser.add_argument("--scenes", type=Path, metavar="DIR", help="what the crop list's paths start from")
    parser.add_argument("--crops", type=Path, metavar="FILE")
    parser.add_argument("--split", choices=("val", "heldout"), help="of the crops, one only")
    add_pairs(parser)
    add_panel(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of attackers' gradients; bfloat16 is faster where the hardware has it, and all is judged in float32",
    )
    parser.add_argument("--workers", type=int, help="processes of one thread each (default: one per core)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="goes on where it was stopped (default evaluate-PRESET)"
    )


def _evaluate(options: argparse.Namespace) -> int:
    import torch

    from udc_defense.evaluation import evaluate

    torch.set_num_threads(1)  # as in workers: what a row says must not depend on the number of cores
    out = options.out or Path(f"evaluate-{options.preset}")
    team = evaluate.team()
    plan = _plan(options, team.device or device(options.device))
    workers = _workers(options, plan.device, team.count)
    processes = team.count * max(1, workers)
    about = _named(options, plan) | evaluate.facts(plan, processes)
    if team.index == 0:
        say(f"Measuring on {about['images']}.")
    steps = evaluate.run(plan, out, about, workers, team)
    jobs = len(plan.tasks(plan.photos[team.index :: team.count]))
    drain((done for done, _ in steps), jobs, "job")
    if team.index == 0:
        evaluate.finish(plan, out)
        say(str(_report(out)))
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


def _named(options: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    """What the command line says, and the images in words."""
    size, count = plan.protocol.size, len(plan.photos)
    if options.pairs:
        where = f"{count} captures of {options.pairs[0]} and their ground truth"
    elif options.scenes:
        where = f"{count} crops of {options.crops.name}"
    else:
        names = ", ".join(photo.name for photo in plan.photos)
        where = f"{count} drawn scenes and bundled photos, which are no benchmark ({names})"
    return {
        "command": shlex.join(["udc-defense", *options.arguments]),
        "preset": options.preset,
        "images": f"{where}, at most {size} × {size} pixels",
        "bundled": not (options.pairs or options.scenes),
    }


def _plan(options: argparse.Namespace, chosen_device: str) -> Plan:
    from udc_defense.evaluation import protocol
    from udc_defense.evaluation.degradations import RESTORERS
    from udc_defense.evaluation.plan import PAIRS, UDC, Plan
    from udc_defense.purification import parse_defense

    preset = protocol.PRESETS[options.preset].narrowed(options.attacks, options.threats)
    named = tuple(dict.fromkeys(options.restorer or ()))
    degradations = options.degradation or ([PAIRS] if options.pairs else [UDC])
    is_own = named or options.degradation or options.pairs
    brief = () if is_own or not preset.elsewhere else ("noise", "blur")
    found = [parse_defense(spec) for spec in options.defense or ["default"]]
    for purification in filter(None, found):
        purification.load()  # what it cannot be is said before hours of measuring
    photos = tuple(_photos(options)[: preset.images])
    return Plan(
        protocol=replace(preset, perceptual=preset.perceptual and _has_lpips()),
        photos=photos,
        scenes=str(options.scenes or ""),
        restorers={name: named or (RESTORERS.get(name, "default"),) for name in (*degradations, *brief)},
        defenses=tuple(dict.fromkeys(purification for purification in found if purification)),
        brief=brief,
        panel=options.panel,
        seed=options.seed,
        device=chosen_device,
        precision=options.precision,
    )


def _photos(options: argparse.Namespace) -> list[Photo]:
    """All images that are there."""
    from udc_defense.photo.source import from_crop, from_pair, from_title
    from udc_defense.samples import scene_titles
    from udc_defense.scenes import read_crops, read_pairs

    if options.pairs:
        if options.degradation or options.scenes or options.crops:
            raise SettingError("--pairs stands alone: it brings captures and their ground truth.")
        captures, clean = options.pairs
        return [from_pair(pair) for pair in read_pairs(captures, clean, options.domain)]
    if options.scenes and options.crops:
        return [from_crop(crop, options.scenes) for crop in read_crops(options.crops, options.split)]
    if options.scenes or options.crops:
        raise SettingError("--scenes DIR and --crops FILE go together.")
    if options.preset != "quick":
        raise SettingError(
            f"the preset {options.preset} needs images: --scenes DIR --crops FILE, or --pairs CAPTURES CLEAN."
        )
    return [from_title(title) for title in scene_titles()]


def _has_lpips() -> bool:
    """Whether its published weights can be had; a preset that wants it goes without where they cannot."""
    import torch

    from udc_defense.attacks.lpips import load_lpips

    try:
        load_lpips(torch.device("cpu"), torch.float32)
    except UDCDefenseError as error:
        complain(f"without LPIPS: {error}")
        return False
    return True


def _workers(options: argparse.Namespace, chosen_device: str, processes: int) -> int:
    """A GPU is fed by this process alone, and so is a process among several."""
    if options.workers is not None:
        if options.workers < 0:
            raise SettingError(f"{options.workers} workers are fewer than none.")
        return options.workers
    return 0 if processes > 1 or chosen_device != "cpu" else len(os.sched_getaffinity(0))
