"""Flags that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

AUTO = "auto"  # a noise level for each photo


def command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], words: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
    parser.set_defaults(command=function)
    return parser


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--restorer", default="default", metavar="NAME", help="embedded name, folder or owner/name[@revision]"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def add_panel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--panel", default="axon20", metavar="NAME", help="axon20, toled or poled")


def add_pairs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pairs", nargs=2, type=Path, metavar=("CAPTURES", "CLEAN"), help="two folders, files of equal stem"
    )
    parser.add_argument("--domain", choices=("tonemapped", "srgb", "linear"), default="tonemapped", help="of the pairs")


def add_attack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--attack", default="pgd", metavar="NAME", help="see udc-defense attack --list; or none")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the attack's own options; repeat for more",
    )
    parser.add_argument("--eps", type=float, help="radius in units of 1/255 (default 4)")
    parser.add_argument("--steps", type=int, help="attack steps (default: the attack's own, 20 of pgd)")
    parser.add_argument("--norm", choices=("linf", "l2"), help="of the radius (default: linf)")
    parser.add_argument("--objective", metavar="NAME", help="what is made worse, see attack --list (default mse)")
    parser.add_argument(
        "--threat", default="oblivious", metavar="KIND", help="oblivious, bpda, surrogate or exact: see attack --list"
    )
    parser.add_argument("--surrogate-steps", type=int, default=2, help="evaluations per draw under --threat surrogate")
    parser.add_argument("--evade", action="store_true", help="keep the detector quiet, too (threat exact)")
    parser.add_argument("--attack-draws", type=int, default=1, help="noise draws averaged per loss and gradient")


def add_purifier(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--purifier", default="default", metavar="NAME", help="a sampler or transform of purify --list; or none"
    )
    parser.add_argument("--strength", type=float, help="of a plain transform, such as the quality of jpeg")
    parser.add_argument(
        "--purifier-weights",
        metavar="NAME",
        help="embedded name, folder or Hub id (default: direct of the default purifier, else the diffusion model)",
    )
    parser.add_argument(
        "--noise-level",
        type=_level,
        metavar="STEPS",
        help="forward diffusion steps, or auto (default: 10 of the default purifier, else 30)",
    )
    parser.add_argument("--purify-steps", type=int, default=5, help="of ddim, dpm_solver and ode (default 5)")
    parser.add_argument("--eta", type=float, default=0.0, help="randomness of ddim, 0 to 1 (default 0)")
    parser.add_argument("--guide", metavar="NAME", help="keeps the result near the input: see purify --list")
    parser.add_argument("--guidance", type=float, default=0.0, help="strength of the guide (default 0, none)")
    parser.add_argument(
        "--draws", type=int, help="purifications that are aggregated (default: 1 of the default purifier, else 8)"
    )
    parser.add_argument("--aggregate", choices=("mean", "median"), default="mean")


def _level(text: str) -> int | str:
    return text if text == AUTO else int(text)


def add_crop_list(parser: argparse.ArgumentParser) -> None:
    """Of protocols: scenes, the crops of them, the seed and where results go."""
    parser.add_argument(
        "--scenes", type=Path, required=True, metavar="DIR", help="what the crop list's paths start from"
    )
    parser.add_argument("--crops", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR")
