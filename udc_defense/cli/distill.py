"""`udc-defense distill`: a surrogate of a black box."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udc_defense.cli.common import drain, say
from udc_defense.cli.flags import add_panels, command
from udc_defense.cli.training import scene_folder
from udc_defense.errors import SettingError

if TYPE_CHECKING:
    from udc_defense.black_box import Target
    from udc_defense.training.distill import Questions
    from udc_defense.training.loop import TrainingSettings

QUERIES = 20_000
STEPS = 10_000


def add(commands: Any) -> None:
    """Add the command."""
    distill = command(commands, "distill", _distill, "a surrogate of a restorer that is known by its answers only")
    distill.add_argument(
        "--target",
        required=True,
        metavar="NAME",
        help="restorer (name, folder, Hub id), package.module:attribute, or gradio:URL/ENDPOINT, "
        "gradio:OWNER/SPACE/ENDPOINT",
    )
    distill.add_argument("--scenes", required=True, metavar="DIR", help="panoramas and photos; `samples` come along")
    distill.add_argument("--crops", type=Path, metavar="FILE", help="crop list whose scenes are kept out")
    add_panels(distill)
    distill.add_argument("--size", type=int, default=128, metavar="PIXELS", help="side of a query (default 128)")
    distill.add_argument(
        "--sigma", type=float, default=8.0, help="largest deviation of the queries' noise in 1/255 (default 8)"
    )
    distill.add_argument("--bits", type=int, choices=(8, 16), default=8, help="per channel of a query's PNG")
    distill.add_argument("--seed", type=int, default=0)
    distill.add_argument("--out", type=Path, required=True, metavar="DIR")
    distill.add_argument("--resume", action="store_true", help="go on with what --out holds")
    _add_effort(distill)


def _add_effort(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queries", type=int, default=QUERIES, metavar="N", help=f"at most (default {QUERIES})")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the optimizer (default {STEPS})")
    parser.add_argument("--batch", type=int, default=4, help="queries per step and process (default 4)")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="default 0.0005")
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--checkpoint-every", type=int, default=500, metavar="STEPS")


def _distill(options: argparse.Namespace) -> int:
    from udc_defense.black_box import find_target
    from udc_defense.training.data import list_scenes
    from udc_defense.training.distill import Questions

    if not options.resume and (options.out / "questions.json").exists():
        raise SettingError(f"{options.out}: holds a run already; add --resume or choose another folder.")
    questions = Questions(
        scenes=list_scenes(scene_folder(options), options.crops),
        panels=options.panel or ["axon20"],
        count=options.queries,
        size=options.size,
        sigma=options.sigma / 255,
        seed=options.seed,
    )
    _run(find_target(options.target, bits=options.bits), questions, _settings(options, options.out))
    return 0


def _settings(options: argparse.Namespace, out: Path) -> TrainingSettings:
    from udc_defense.training.loop import TrainingSettings

    return TrainingSettings(
        out=out,
        steps=options.steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        seed=options.seed,
        precision=options.precision,
        checkpoint_every=options.checkpoint_every,
        resume=True,  # of a folder that was refused before, where it holds a run that shall not go on
    )


def _run(target: Target, questions: Questions, settings: TrainingSettings) -> None:
    """Ask, train and say how faithful the surrogate is."""
    from udc_defense.training.distill import ask, distill

    drain(ask(target, questions, settings.out), questions.count, "query")
    steps = distill(target, questions, settings)
    drain((state.step for state in steps), settings.steps, "step")
    facts = json.loads((settings.out / "surrogate" / "training.json").read_text(encoding="utf-8"))
    say(
        f"{settings.out / 'surrogate'}: {facts['queries']} queries; fidelity {facts['fidelity']['mean']:.2f} dB at "
        f"{questions.size}², {facts['fidelity_256']['mean']:.2f} dB at 256²."
    )
