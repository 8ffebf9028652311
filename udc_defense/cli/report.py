"""`udc-defense report`: run folders as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from udc_defense.cli.common import say
from udc_defense.cli.flags import command


def add(commands: Any) -> None:
    """Add the command."""
    report = command(
        commands, "report", _report, "what a run of evaluate found out, as one HTML page; more runs are compared"
    )
    report.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="folder that evaluate has written")
    report.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the first folder)")


def _report(options: argparse.Namespace) -> int:
    from udc_defense.report import write_report

    target = options.out or options.runs[0] / "report.html"
    write_report(options.runs, target)
    say(str(target))
    return 0
