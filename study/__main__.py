"""`python -m study`: the project's own measurements, and what is published of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from study.data import RESULTS, STUDIES, VAL
from study.measure.generalisation import PLAIN, Generalisation
from udc_defense.checkpoints.files import embedded_names
from udc_defense.cli.common import complain, drain, say, write_json
from udc_defense.errors import SettingError, UDCDefenseError
from udc_defense.evaluation.rows import PACKED, ROWS, read_run, write_rows
from udc_defense.images import write_file

# The purifier that chooses a level for each photo is calibrated by what is measured before it.
SETTLED = tuple(sorted(path.stem for path in STUDIES.glob("*.toml")))


def main(arguments: list[str]) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m study", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    names = ", ".join((*SETTLED, *OTHERS))
    measure = commands.add_parser("measure", help=f"measure again what results/ holds: {names}")
    measure.add_argument("name", choices=(*SETTLED, *OTHERS), metavar="NAME")
    measure.add_argument("--scenes", type=Path, metavar="DIR", help="what the crop list's paths start from")
    measure.add_argument("--crops", type=Path, metavar="FILE", help="the crop list")
    measure.add_argument("--plan", action="store_true", help="of a study: only say how long it takes")
    measure.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    measure.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="networks that are not embedded"
    )
    measure.set_defaults(function=_measure)
    commands.add_parser("calibrate", help="weights/detector.json and noise_level.json, from rows of val").set_defaults(
        function=_calibrate
    )
    for name, function, words in (
        ("publish", _publish, "README.md, RESULTS.md, cards and the figure, from results/"),
        ("cards", _cards, "cards alone"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("--check", action="store_true", help="only name what is stale")
        command.set_defaults(function=function)
    options = parser.parse_args(arguments)
    try:
        return int(options.function(options))
    except UDCDefenseError as error:
        return complain(error)


def _measure(options: argparse.Namespace) -> int:
    if options.name not in ("cost",) and not (options.scenes and options.crops):
        raise SettingError("--scenes DIR and --crops FILE name what is measured.")
    return OTHERS[options.name](options) if options.name in OTHERS else _study(options)


def _study(options: argparse.Namespace) -> int:
    """By the command that users have; its rows are packed, as they are committed."""
    from udc_defense.cli import main as udc_defense

    study, out = str(STUDIES / f"{options.name}.toml"), RESULTS / options.name
    crops = ["--scenes", str(options.scenes), "--crops", str(options.crops), "--workers", str(options.workers)]
    status = udc_defense(
        ["evaluate", "--preset", study, *crops, "--out", str(out), *(["--plan"] if options.plan else [])]
    )
    if status == 0 and not options.plan:
        write_rows(out / PACKED, read_run(out))
        (out / ROWS).unlink(missing_ok=True)
    return status


def _calibrate(options: argparse.Namespace) -> int:
    from study import selection
    from udc_defense import detection, noise_level

    for path, facts in ((detection.CALIBRATION, selection.detector()), (noise_level.CALIBRATION, selection.level())):
        write_file(path, (json.dumps(facts, indent=1) + "\n").encode())
        say(str(path))
    return 0


def _publish(options: argparse.Namespace) -> int:
    from study.publish import documents, write

    return write(documents(), check=options.check)


def _cards(options: argparse.Namespace) -> int:
    from study.publish import all_cards, write

    return write(all_cards(), check=options.check)


def _certification(options: argparse.Namespace) -> int:
    from study.measure.certification import Suite

    surrogate = options.runs / "ducd" / "surrogate"
    given = options.scenes, options.crops, "default", str(surrogate) if surrogate.is_dir() else None
    suite = Suite(*given, 0, RESULTS, workers=options.workers)
    for done, total in suite.run():
        say(f"{done} of {total} certificates")
    write_json(RESULTS / "certification.json", suite.results())
    suite.partial.unlink(missing_ok=True)
    return 0


def _ducd(options: argparse.Namespace) -> int:
    from study.measure import ducd

    folder = options.runs / "ducd"
    for done, total in ducd.distilled(options.scenes, options.crops, folder, 0):
        say(f"{done} of {total} queries and steps")
    parts = dict(ducd.measure(options.scenes, options.crops, folder, 0))
    write_json(RESULTS / "ducd.json", ducd.head(0, folder) | parts)
    return 0


def _denoising(options: argparse.Namespace) -> int:
    from study.measure.denoising import measure

    write_json(RESULTS / "denoising.json", measure(options.scenes, options.crops, 0))
    return 0


def _noise_level(options: argparse.Namespace) -> int:
    from study.measure.noise_level import measure

    write_json(RESULTS / "noise_level.json", measure(options.scenes, options.crops, 0))
    return 0


def _cost(_: argparse.Namespace) -> int:
    from study.measure.cost import measure

    write_json(RESULTS / "cost.json", measure())
    return 0


def _generalisation(options: argparse.Namespace) -> int:
    names = {name: name for name in embedded_names("restorer")}
    return _unlike(Generalisation(options.scenes, options.crops, names, 0))


def _panels(options: argparse.Namespace) -> int:
    """One restorer for all panels, or one for each; a choice, so on val."""
    names = ("blind", *(condition.panel for condition in PLAIN))
    sources = {name: str(options.runs / "panels" / name / "restorer") for name in names}
    return _unlike(Generalisation(options.scenes, options.crops, sources, 0, VAL, PLAIN, "panels"))


def _unlike(measured: Generalisation) -> int:
    drain(measured.run(), len(measured.crops), "crop")
    write_json(RESULTS / f"{measured.name}.json", measured.results())
    return 0


OTHERS: dict[str, Callable[[argparse.Namespace], int]] = {
    "certification": _certification,
    "cost": _cost,
    "denoising": _denoising,
    "ducd": _ducd,
    "generalisation": _generalisation,
    "noise_level": _noise_level,
    "panels": _panels,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
