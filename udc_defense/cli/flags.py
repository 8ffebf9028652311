"""Flags that several commands have."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Flags = argparse.ArgumentParser | argparse._ArgumentGroup

# What help says of a kind of value, so that no line needs its neighbours. What a registry knows stands in its list.
RESTORER = "restorer: embedded name, folder, owner/name[@revision] on the Hub, or package.module:attribute"
PANEL = "a built-in panel of `udc-defense panel list` or a panel file"
SPEC = "none, default, or NAME[:OPTION=VALUE,…] of `udc-defense purify --list`, such as jpeg:quality=50"


def command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], words: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
    parser.set_defaults(command=function)
    return parser


def add_common(parser: Flags) -> None:
    add_restorer(parser)
    add_output(parser)


def add_restorer(parser: Flags) -> None:
    parser.add_argument("--restorer", default="default", metavar="NAME", help=f"{RESTORER} (default: default)")


def add_output(parser: Flags) -> None:
    parser.add_argument("--device", default="auto", help="device to compute on: auto (default), cpu, cuda or mps")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default 0)")
    parser.add_argument("--recursive", action="store_true", help="take the photos of a folder's folders, too")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder that the results go to")


def add_panel(parser: Flags) -> None:
    words = f"display in front of the camera: {PANEL} (default axon20)"
    parser.add_argument("--panel", default="axon20", metavar="NAME|FILE", help=words)


def add_panels(parser: Flags) -> None:
    words = f"display in front of the camera: {PANEL}; repeat to mix displays, a name twice for twice as often"
    parser.add_argument("--panel", action="append", metavar="NAME|FILE", help=words)


def add_pairs(parser: Flags) -> None:
    parser.add_argument(
        "--pairs",
        nargs=2,
        type=Path,
        metavar=("CAPTURES", "CLEAN"),
        help="two folders, of captures and of their clean images; files of equal stem belong together",
    )
    parser.add_argument(
        "--domain",
        choices=("tonemapped", "srgb", "linear"),
        default="tonemapped",
        help="what the values of --pairs mean (default tonemapped)",
    )


def add_attack(parser: Flags) -> None:
    parser.add_argument(
        "--attack",
        default="pgd",
        metavar="NAME",
        help="an attack of `udc-defense attack --list`, or none (default pgd)",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the attack's own, see `udc-defense attack --list`; repeat for more",
    )
    parser.add_argument("--eps", type=radius, help="radius of the attack in 1/255; 4/255 is 4, too (default 4)")
    parser.add_argument("--steps", type=int, help="steps of the attack (default: what the attack is used to)")
    parser.add_argument("--norm", choices=("linf", "l2"), help="norm of the attack's radius (default linf)")
    parser.add_argument(
        "--objective", metavar="NAME", help="what is made worse, see `udc-defense attack --list` (default mse)"
    )
    parser.add_argument(
        "--threat",
        default="oblivious",
        metavar="KIND",
        help="what the attacker knows, see `udc-defense attack --list` (default oblivious)",
    )
    parser.add_argument(
        "--surrogate-steps",
        type=int,
        metavar="N",
        help="network evaluations per draw that the threat surrogate differentiates (default: the library's, a few)",
    )
    parser.add_argument(
        "--evade", action="store_true", help="the attacker of the threat exact keeps the detector quiet, too"
    )
    parser.add_argument(
        "--attack-draws",
        type=int,
        default=1,
        help="noise draws averaged per loss and gradient of the attack (default 1)",
    )


def add_defense(
    parser: Flags, words: str = "what purifies captures before they are restored", default: str = "default"
) -> None:
    parser.add_argument("--defense", default=default, metavar="SPEC", help=f"{words}: {SPEC} (default: {default})")


def add_crop_list(parser: argparse.ArgumentParser) -> None:
    """Of protocols: scenes, the crops of them, the seed and where results go."""
    parser.add_argument(
        "--scenes", type=Path, required=True, metavar="DIR", help="what the crop list's paths start from"
    )
    parser.add_argument("--crops", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR")


def radius(text: str) -> float:
    """A radius in units of 1/255, from `4` or `4/255`; one that is meant in units of the whole range gets a warning."""
    value = _number(text)
    if 0 < value < 0.5 and "/" not in text:
        sys.stderr.write(
            f"udc-defense: --eps {text} is {text}/255, less than a file of 8 bits can hold; 4/255 is --eps 4.\n"
        )
    return value


def unit(text: str) -> float:
    """A number of the range of an image, [0, 1], from `0.05` or `12/255`."""
    value = _number(text) / (255 if "/" in text else 1)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is above 1, but images are in [0, 1]; {text} of 255 is {text}/255")
    return value


def _number(text: str) -> float:
    """What stands before /255, if anything does."""
    number, slash, levels = text.partition("/")
    if slash and levels.strip() != "255":
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor one of 255ths, such as 4/255")
    return float(number)
