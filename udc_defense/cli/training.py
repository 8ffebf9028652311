"""`udc-defense train`, `finetune` and `curve`: networks from scratch, restorers after a recipe, and their losses."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udc_defense.checkpoints.resolve import HUB_ID
from udc_defense.cli.common import json_setting, name_and_value, say
from udc_defense.cli.flags import RESTORER, add_defense, add_pairs, add_panels, command
from udc_defense.cli.progress import Meter
from udc_defense.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from udc_defense.training.loop import Progress, TrainingSettings
    from udc_defense.training.recipes import Recipe

NETWORKS = ("restorer", "purifier", "direct_purifier", "guide")
USUAL_DEFENSE = "one_step"  # of recipes that purify
SAMPLES = "samples"  # scenes that this project draws, and photos that scikit-image bundles
SMALL_CROP, CROPS_OF_A_CAPTURE = 128, 4  # a capture costs more than a small crop of it


def add(commands: Any) -> None:
    """Add `train`, `finetune` and `curve`."""
    train = command(commands, "train", _train, "train a restorer or a purifier")
    train.add_argument("network", choices=NETWORKS, help="what is trained")
    train.add_argument("--architecture", metavar="NAME", help="architecture of a restorer (default gated_unet)")
    train.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of --architecture, as JSON; repeat for more",
    )
    add_pairs(train)
    _add_run(train, steps=15_000, batch=2, learning_rate=5e-4)

    finetune = command(commands, "finetune", _finetune, "fine-tune a restorer after a recipe")
    finetune.add_argument("restorer", metavar="RESTORER", help=f"the network to start from; {RESTORER}")
    finetune.add_argument(
        "--recipe",
        default="purified",
        metavar="NAME",
        help="a recipe of `udc-defense finetune --list` (default purified)",
    )
    finetune.add_argument("--list", action=_ListRecipes, nargs=0, help="recipes with their options")
    finetune.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the recipe; repeat for more"
    )
    add_defense(finetune, "what a recipe that purifies purifies with, at the recipe's noise levels", USUAL_DEFENSE)
    finetune.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep purified copies, for --captures or a next run"
    )
    finetune.add_argument(
        "--captures", type=int, metavar="N", help="show N captures again and again (default: new ones)"
    )
    finetune.add_argument("--size", type=int, default=256, metavar="PIXELS", help="side of the crops (default 256)")
    add_pairs(finetune)
    _add_run(finetune, steps=5_000, batch=16, learning_rate=1e-4)

    curve = command(commands, "curve", _curve, "the loss curve of a training run")
    curve.add_argument("run", type=Path, metavar="RUN", help="what --out of the training was")
    curve.add_argument("--out", type=Path, metavar="FILE", help="picture, .svg or .png (default RUN/curve.svg)")


def _add_run(parser: argparse.ArgumentParser, *, steps: int, batch: int, learning_rate: float) -> None:
    parser.add_argument(
        "--scenes", metavar="DIR", help="panoramas (.hdr, .exr), photos; `samples`: a few that come along"
    )
    parser.add_argument("--crops", type=Path, metavar="FILE", help="crop list whose scenes are kept out of training")
    add_panels(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folder")
    parser.add_argument("--steps", type=int, default=steps, help=f"steps of the optimizer (default {steps})")
    parser.add_argument(
        "--batch",
        type=int,
        default=batch,
        help=f"captures that a process takes at once, each of 1 to 4 crops (default {batch})",
    )
    parser.add_argument("--accumulate", type=int, default=1, metavar="N", help="batches per step (default 1)")
    parser.add_argument(
        "--learning-rate", type=float, default=learning_rate, help=f"learning rate (default {learning_rate:g})"
    )
    parser.add_argument("--precision", choices=("no", "bf16"), default="no", help="mixed precision (default no)")
    parser.add_argument(
        "--checkpoint-every", type=int, default=500, metavar="STEPS", help="steps between checkpoints (default 500)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    parser.add_argument("--tensorboard", action="store_true", help="log for TensorBoard, too, in --out/tensorboard")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the result; made where it does not exist")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default 0)")


# --- What the commands do ---------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    """Train from scratch, or go on with --resume."""
    from importlib import import_module

    from udc_defense.training.restorer import untrained

    settings = _settings(options)
    module = import_module(f"udc_defense.training.{options.network}")
    architecture = _architecture(options)
    dataset, facts = _dataset(options, module.CROP, module.CROPS_PER_CAPTURE)
    chosen = {"network": partial(untrained, **architecture)} if architecture else {}
    progress = getattr(module, f"train_{options.network}")(dataset, settings, facts | architecture, **chosen)
    _drain(progress, options.steps)
    return _finished(options, options.out / options.network)


def _architecture(options: argparse.Namespace) -> dict[str, Any]:
    """What `untrained` is given of it, and the card says."""
    if not options.architecture:
        if options.option:
            raise SettingError(f"--option {options.option[0]!r} is of an architecture; name it with --architecture.")
        return {}
    if options.network != "restorer":
        raise SettingError(f"--architecture is of a restorer; {options.network} has its own.")
    return {"architecture": options.architecture, "options": dict(json_setting(text) for text in options.option)}


def _finetune(options: argparse.Namespace) -> int:
    """Train a restorer on, or go on with --resume."""
    from udc_defense.training.finetune import find_backbone, finetune
    from udc_defense.training.recipes import parse_recipe

    settings = _settings(options)
    recipe = parse_recipe(options.recipe, dict(name_and_value(text) for text in options.option))
    purifier, purifier_facts = _purifier(options, recipe)
    dataset, facts = _dataset(options, options.size, CROPS_OF_A_CAPTURE if options.size <= SMALL_CROP else 1)
    facts["crop"] = options.size
    if options.captures:
        facts["captures"] = options.captures
    perceptual, why_not = find_backbone(recipe, options.out)
    if why_not:
        _say(f"Without the perceptual part of the loss: {why_not}")
        facts["without_perceptual_because"] = why_not
    steps = finetune(
        options.restorer,
        recipe,
        dataset,
        settings,
        facts,
        purifier=purifier,
        purifier_facts=purifier_facts,
        perceptual=perceptual,
        cache=options.cache,
        different=options.captures,
    )
    _drain(steps, options.steps)
    return _finished(options, options.out / "restorer")


def _curve(options: argparse.Namespace) -> int:
    """A line of text, and a picture where matplotlib is installed."""
    from udc_defense.training.curve import in_words, plot, read_curve, sparkline

    log = read_curve(options.run)
    losses = [entry.loss for entry in log]
    _say(f"{sparkline(losses)}  {in_words(losses)}")
    path = options.out or options.run / "curve.svg"
    plot(log, path)
    _say(str(path))
    return 0


# --- Shared by the commands -------------------------------------------------------------------------------------------


def _settings(options: argparse.Namespace) -> TrainingSettings:
    from udc_defense.training.loop import TrainingSettings

    if options.push_to_hub and ("@" in options.push_to_hub or not HUB_ID.fullmatch(options.push_to_hub)):
        raise SettingError(f"--push-to-hub {options.push_to_hub!r} is not of the form OWNER/NAME.")
    names = [field.name for field in dataclasses.fields(TrainingSettings) if field.name != "ema_decay"]
    return TrainingSettings(**{name: getattr(options, name) for name in names})


def _dataset(
    options: argparse.Namespace, size: int, crops: int
) -> tuple[Dataset[tuple[Tensor, Tensor]], dict[str, Any]]:
    """Simulated or paired captures, and what the card says of them."""
    from udc_defense.scenes import CROP_SIZE, read_pairs
    from udc_defense.training.data import PairedCrops, SimulatedCaptures, list_scenes
    from udc_defense.training.left_out import FILE as LEFT_OUT
    from udc_defense.training.left_out import LeftOut

    if size < 1:
        raise SettingError(f"crops of {size} pixels: they need at least 1.")
    # Enough items for any number of processes; an item costs nothing until it is drawn.
    left_out = LeftOut(options.out / LEFT_OUT)
    shape: dict[str, Any] = {
        "length": 1 << 40,
        "size": size,
        "crops": crops,
        "seed": options.seed,
        "left_out": left_out,
    }
    if options.pairs:
        captures, clean = options.pairs
        pairs = read_pairs(captures, clean, options.domain)
        return PairedCrops(pairs, **shape), {"pairs": len(pairs), "domain": options.domain}
    if not options.scenes:
        raise SettingError("nothing to train on; give --scenes DIR, --scenes samples or --pairs CAPTURES CLEAN.")
    if size > CROP_SIZE:
        raise SettingError(f"crops of {size} pixels: simulated captures have {CROP_SIZE}.")
    scenes, panels = list_scenes(scene_folder(options), options.crops), options.panel or ["axon20"]
    return SimulatedCaptures(scenes, panels, **shape), {"scenes": len(scenes), "panels": panels}


def scene_folder(options: argparse.Namespace) -> Path:
    """What `--scenes` names."""
    return _write_samples(options.out / SAMPLES) if options.scenes == SAMPLES else Path(options.scenes)


def _write_samples(folder: Path) -> Path:
    """The bundled scenes to train on: whole photos where scikit-image is installed, a drawn street."""
    from importlib.resources import files

    from udc_defense.images import write_png
    from udc_defense.output import write_file
    from udc_defense.samples import PHOTOS, night_street
    from udc_defense.scenes import clean_image

    write_png(clean_image(night_street()), folder / "night_street.png")
    for sample in PHOTOS:
        try:
            write_file(folder / sample.file, files("skimage").joinpath("data", sample.file).read_bytes())
        except (ModuleNotFoundError, FileNotFoundError):
            continue
    return folder


def _purifier(options: argparse.Namespace, recipe: Recipe) -> tuple[nn.Module | None, dict[str, Any] | None]:
    """What a recipe purifies with, and its settings with the sha256 of its weights; the recipe has the levels."""
    from udc_defense.checkpoints.files import checksum
    from udc_defense.checkpoints.resolve import resolve
    from udc_defense.purification import parse_defense

    if not recipe.purifies:
        if options.defense != USUAL_DEFENSE or options.cache:
            raise SettingError(f"recipe {recipe.name} purifies nothing; leave out --defense and --cache.")
        return None, None
    purification = parse_defense(options.defense)
    if purification is None:
        raise SettingError(f"recipe {recipe.name} purifies; --defense none leaves it nothing to purify with.")
    if not purification.is_transform:
        purification = replace(purification, noise_level=recipe.noise_levels[1])  # type: ignore[attr-defined]
    facts = {name: value for name, value in purification.facts().items() if name != "noise_level"}
    if not purification.is_transform:
        facts["sha256"] = checksum(resolve(purification.weights, "purifier"))
    return purification.load().requires_grad_(False), facts


def _drain(steps: Iterator[Progress], total: int) -> None:
    """Train and show how far it is."""
    with Meter("step", total, shown=_is_main()) as meter:
        for state in steps:
            meter.note(f"loss {state.loss:.4f}")
            meter.at(state.step)


def _finished(options: argparse.Namespace, folder: Path) -> int:
    _say(f"{folder}: trained, {options.steps} steps.")
    _say_left_out(options.out)
    if options.push_to_hub and _is_main():
        from udc_defense.checkpoints.hub import push

        _say(f"{options.push_to_hub}@{push(folder, options.push_to_hub)}")
    return 0


def _say_left_out(out: Path) -> None:
    """What could not be read on the way."""
    from udc_defense.training.left_out import FILE, LeftOut

    reasons = LeftOut(out / FILE).reasons
    if reasons:
        first = next(iter(reasons.values()))
        _say(f"{len(reasons)} left out, see {out / FILE}: {first}")


def _is_main() -> bool:
    """Whether this is the first process of `accelerate launch`, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _say(text: str) -> None:
    if _is_main():
        say(text)


class _ListRecipes(argparse.Action):
    """Like --help: prints and leaves, whatever else is or is not given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from udc_defense.registry import first_line
        from udc_defense.training.recipes import RECIPES
        from udc_defense.training.recipes.base import shown_value

        _say("Recipes (--recipe NAME, --option NAME=VALUE):")
        for name in RECIPES.names():
            recipe = RECIPES.get(name)
            _say(f"  {name}: {first_line(recipe)}")
            for field in dataclasses.fields(recipe):
                _say(f"      --option {field.name}={shown_value(field.default)}: {field.metadata['words']}")
        parser.exit()
