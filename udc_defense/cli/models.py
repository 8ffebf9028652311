"""`udc-defense models`: list, show, verify, convert and push checkpoints."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udc_defense.cli.common import json_setting, say
from udc_defense.cli.flags import command

if TYPE_CHECKING:
    from udc_defense.checkpoints.models import Model

LONGEST = 300  # characters of a value that is shown


def add(commands: Any) -> None:
    """Add `models` and its actions."""
    words = "list, show, verify, convert and push checkpoints"
    models = commands.add_parser("models", help=words, description=words[0].upper() + words[1:] + ".")
    actions = models.add_subparsers(title="actions", required=True, metavar="ACTION")

    listing = command(actions, "list", _list, "the embedded checkpoints")
    listing.add_argument("--json", action="store_true", help="a list of objects")

    show = command(actions, "show", _show, "one checkpoint with its configuration and training")
    show.add_argument("name", metavar="NAME", help="[kind/]name of an embedded one, folder or owner/name[@revision]")

    verify = command(actions, "verify", _verify, "compare size and sha256 of every file")
    verify.add_argument("names", nargs="*", metavar="NAME", help="likewise; all embedded ones where none is named")

    convert = command(actions, "convert", _convert, "an official .pth to a folder that --restorer takes")
    convert.add_argument("source", type=Path, metavar="OFFICIAL.pth")
    convert.add_argument("--arch", metavar="NAME", help="a network of the zoo, or spandrel; else recognised")
    convert.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what weights do not tell, as JSON: psf_code, img_size or shift_flag of uformer, window of nafnet",
    )
    convert.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty")

    push = command(actions, "push", _push, "a checkpoint to the Hugging Face Hub")
    push.add_argument("name", metavar="NAME", help="folder, or [kind/]name of an embedded one")
    push.add_argument("--repo", required=True, metavar="OWNER/NAME", help="made where it does not exist")
    push.add_argument("--revision", metavar="BRANCH", help="made where it does not exist (default: main)")
    push.add_argument("--message", help="of the commit")
    push.add_argument("--private", action="store_true", help="a new repository is private")


def _list(options: argparse.Namespace) -> int:
    from udc_defense.checkpoints.models import list_models

    models = list_models()
    if options.json:
        say(json.dumps([asdict(model) for model in models], indent=1))
    else:
        say(_table([list(_words(model).values()) for model in models], [field.name for field in fields(models[0])]))
    return 0


def _show(options: argparse.Namespace) -> int:
    from udc_defense.checkpoints.models import show_models

    for index, details in enumerate(show_models(options.name)):
        sections = {
            "": _words(details.model) | {"sha256": details.model.sha256},
            "configuration": {key: _cut(json.dumps(value)) for key, value in details.config.items()},
            "training": {key: json.dumps(value, ensure_ascii=False) for key, value in details.training.items()},
        }
        say("\n" * bool(index) + "\n".join(_section(title, facts) for title, facts in sections.items() if facts))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from udc_defense.checkpoints.models import verify_models

    status = 0
    for verdict in verify_models(options.names):
        for problem in verdict.problems:
            sys.stderr.write(f"udc-defense: {problem}\n")
            status = 2
        if not verdict.problems:
            say(f"{verdict.name}: intact, {verdict.files} files, {verdict.bytes:,} bytes.")
    return status


def _convert(options: argparse.Namespace) -> int:
    from udc_defense.checkpoints.convert import convert

    settings = dict(json_setting(text) for text in options.option)
    done = convert(options.source, options.out, options.arch, settings)
    told = {key: value for key, value in done.config.items() if key not in done.assumed}
    say(f"{done.folder}: {done.architecture}, {done.parameters:,} parameters; {_config(told)}.")
    if done.assumed:
        say(
            f"The weights do not tell all, so this is assumed: {_config(done.assumed)}; --option NAME=VALUE changes it."
        )
    return 0


def _push(options: argparse.Namespace) -> int:
    from udc_defense.checkpoints.hub import push
    from udc_defense.checkpoints.models import intact_checkpoint

    folder, card = intact_checkpoint(options.name)
    commit = push(
        folder,
        options.repo,
        card=card,
        revision=options.revision,
        message=options.message,
        private=options.private,
    )
    say(f"{options.repo}@{commit}")
    return 0


def _words(model: Model) -> dict[str, str]:
    """The fields as people read them."""
    return {
        **{key: str(value) for key, value in asdict(model).items()},
        "parameters": f"{model.parameters:,}",
        "panels": ", ".join(model.panels) or "unknown",
        "bytes": f"{model.bytes:,}",
        "sha256": model.sha256[:12],
    }


def _table(rows: list[list[str]], heads: list[str]) -> str:
    lines = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _section(title: str, facts: dict[str, str]) -> str:
    width = max(map(len, facts))
    return "\n".join([*filter(None, [title]), *(f"  {key.ljust(width)}  {value}" for key, value in facts.items())])


def _config(config: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_cut(json.dumps(value, separators=(',', ':')))}" for key, value in config.items())


def _cut(text: str) -> str:
    """The shapes of all weights, which a checkpoint from spandrel has, fill pages."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
