"""The command line: `udc-defense run photo.jpg --out results/` and its relatives.

Every error of the input is one sentence on standard error and exit status 2; what was finished before stays.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from udc_defense import __version__
from udc_defense.cli import certify, demo, distill, evaluate, export, models, panels, photos, report, training
from udc_defense.cli.common import complain
from udc_defense.errors import UDCDefenseError
from udc_defense.output import protect, protecting

INTERRUPTED = 130
NETWORKS = ("restorer", "denoiser")  # flags that name a network, perhaps by its folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        options = _parser().parse_args(arguments)  # which prints lists, too
        options.arguments = sys.argv[1:] if arguments is None else list(arguments)
        if ":" in str(getattr(options, "restorer", "")) and not sys.flags.safe_path:
            # A module of the current folder, as of `python -m`; last, so that it hides nothing that is installed.
            sys.path.append(str(Path.cwd()))
        with protecting():
            protect(_inputs(options))
            return options.command(options)
    except UDCDefenseError as error:
        return complain(error)
    except KeyboardInterrupt:
        sys.stderr.write("\nudc-defense: interrupted; what was finished is kept.\n")
        return INTERRUPTED
    except BrokenPipeError:  # `… | head` has read enough; what is left in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return complain(f"{error.filename or 'a file'}: {error.strerror or error}.")


def _inputs(options: argparse.Namespace) -> Iterator[Path]:
    """Every file that is named, and those of a network's folder; nothing of it is ever written over."""
    for name, value in vars(options).items():
        for one in value if isinstance(value, list) else [value]:
            if name in ("out", "arguments") or not isinstance(one, str | Path):
                continue
            yield Path(one)
            yield Path(str(one).partition(":")[2])  # targeted:FILE
            if name in NETWORKS and Path(one).is_dir():
                yield from Path(one).iterdir()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="udc-defense", description="Attack, purify and restore photos of under-display cameras."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (photos, panels, demo, training, certify, distill, evaluate, models, export, report):
        module.add(commands)
    return parser
