"""`udc-defense run`, and its stages: `simulate`, `attack`, `purify`, `restore`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udc_defense.cli.common import (
    REPORT,
    device,
    each,
    name_and_value,
    named_photos,
    photos_of,
    save,
    say,
    sources,
    write_json,
    write_numbers,
)
from udc_defense.cli.flags import (
    add_attack,
    add_common,
    add_defense,
    add_output,
    add_pairs,
    add_panel,
    add_restorer,
    command,
)
from udc_defense.cli.lists import ListAttacks, ListPurifiers
from udc_defense.cli.progress import Meter
from udc_defense.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor

    from udc_defense.defense import Defense
    from udc_defense.photo.result import Result
    from udc_defense.photo.settings import Settings
    from udc_defense.photo.source import Photo
    from udc_defense.purification import Purification

STAGE_WORDS = {
    "simulate": "simulating the capture",
    "restore": "restoring",
    "attack": "attacking",
    "control": "restoring under random noise",
    "purify": "purifying",
    "resubmit": "asking again",
}

# What may be said beside a recipe: where things are here.
BESIDE_A_RECIPE = {"recipe", "images", "recursive", "out", "device", "restorer", "defense"}


def add(commands: Any) -> None:
    """Add the commands."""
    run = command(commands, "run", _run, "capture, attack, purify and restore photos; PNGs and report.json")
    photos = run.add_argument_group("photos and captures")
    photos.add_argument("images", nargs="*", type=Path, metavar="PHOTO", help="photos to work on, or folders of such")
    photos.add_argument("--captured", action="store_true", help="the photos were taken by an under-display camera")
    add_pairs(photos)
    add_panel(photos)
    add_attack(run.add_argument_group("attack"))
    defense = run.add_argument_group("defense")
    add_defense(defense)
    add_restorer(defense)
    defense.add_argument(
        "--resubmit",
        type=int,
        default=0,
        metavar="N",
        help="ask the defended restorer N times more, with fresh noise (default 0)",
    )
    rest = run.add_argument_group("run and output")
    rest.add_argument(
        "--recipe", type=Path, metavar="FILE", help="do again what the demo wrote down in FILE, with all its settings"
    )
    add_output(rest)
    run.set_defaults(command=lambda options: _run_recipe(run, options) if options.recipe else _run(options))

    simulate = _one_stage_command(commands, "simulate", _simulate, "photos to under-display captures")
    add_panel(simulate)
    add_output(simulate)
    attack = _one_stage_command(commands, "attack", _attack, "captures to attacked captures")
    attack.add_argument(
        "--list", action=ListAttacks, nargs=0, help="list attacks with their options, objectives and threats, and leave"
    )
    add_attack(attack.add_argument_group("attack"))
    add_defense(attack, "what the attacked captures will be purified by, for attackers who know it")
    add_common(attack)
    purify = _one_stage_command(commands, "purify", _purify, "captures to purified captures")
    purify.add_argument("--list", action=ListPurifiers, nargs=0, help="list purifiers with their options, and leave")
    add_defense(purify)
    add_output(purify)
    restore = _one_stage_command(commands, "restore", _restore, "captures to restored images")
    add_common(restore)


def _one_stage_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], words: str
) -> argparse.ArgumentParser:
    parser = command(commands, name, function, words)
    parser.add_argument("images", nargs="+", type=Path, metavar="PHOTO", help="photos to work on, or folders of such")
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8, help="bits per channel of the PNGs (default 8)")
    return parser


def _run(options: argparse.Namespace) -> int:
    """Everything on every photo."""
    from udc_defense.photo.report import checkpoints_of, new_report
    from udc_defense.purification import parse_defense

    settings, purification, defense = _settings(options), parse_defense(options.defense), _defense(options)
    facts = purification.facts() if purification else None
    checkpoints = checkpoints_of(defense, options.restorer, purification)
    report = new_report(settings, facts, checkpoints, captured=options.captured)
    return each(sources(options), options.out, partial(_process, defense, settings, report, options.out))


def _run_recipe(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """What the demo did, again: its photo gives the same pixels on the same device."""
    import torch

    from udc_defense.checkpoints.load import load_restorer
    from udc_defense.defense import Defense
    from udc_defense.photo.recipe import photo_sum, read_recipe
    from udc_defense.photo.report import checkpoints_of, new_report

    usual = vars(parser.parse_args(["--out", str(options.out)]))
    changed = {name for name, value in usual.items() if getattr(options, name) != value}
    if others := sorted(changed - BESIDE_A_RECIPE):
        raise SettingError(f"--{others[0].replace('_', '-')} cannot stand beside --recipe, which settles it.")
    if not options.images:
        raise SettingError("no image is given; name the photo of the recipe.")
    recipe = read_recipe(options.recipe)
    # The demo of a folder's network has written its name only: whoever has the folder says where it is.
    given = {"restorer": options.restorer} if "restorer" in changed else {}
    if "defense" in changed:
        given["purifier"] = _weights_of(options.defense, recipe.purification)
    names = {kind: given.get(kind) or recipe.public_name(kind) for kind in recipe.networks}
    purification = recipe.purification
    if purification and "purifier" in names:
        purification = replace(purification, weights=names["purifier"])
    purifier = purification.load() if purification else None
    place = device(recipe.device if options.device == "auto" else options.device)
    defense = Defense(load_restorer(names["restorer"]), purifier).to(place).eval()
    recipe.check_weights({kind: getattr(defense, kind).sha256 for kind in names})
    for difference in recipe.differences():
        say(f"the recipe was made with another version, so that pixels may differ: {difference}")
    torch.set_num_threads(recipe.threads)
    checkpoints = checkpoints_of(defense, names["restorer"], purification)
    facts = purification.facts() if purification else None
    report = new_report(recipe.settings, facts, checkpoints, captured=recipe.captured)
    named = [path for path, _ in named_photos(options)]
    for path in named:
        if path.is_file() and photo_sum(path) != recipe.photo:
            say(f"{path.name}: not the photo of the recipe; its settings are applied all the same")

    def process(photo: Photo, folder: Path) -> None:
        _process(defense, recipe.settings, report, options.out, replace(photo, name=recipe.name), folder)

    return each([recipe.photo_at(path) for path in named], options.out, process)


def _weights_of(spec: str, wanted: Purification | None) -> str:
    """The weights that a spec names, which says of all else what the recipe says."""
    from udc_defense.purification import parse_defense

    given = parse_defense(spec)
    if given is None or wanted is None or replace(given, weights=wanted.weights) != wanted:
        raise SettingError(f"--defense {spec} is not the recipe's; beside --recipe it can name other weights only.")
    return given.weights


def _process(
    defense: Defense, settings: Settings, report: dict[str, Any], out: Path, photo: Photo, folder: Path
) -> None:
    """One photo; report.json is rewritten after each, so that an interruption loses nothing."""
    from udc_defense.output import check_free
    from udc_defense.photo import stages
    from udc_defense.photo.result import STAGES

    for stage in STAGES:
        check_free(folder / f"{stage}.png")
    result = _watch(stages.run(defense, settings, photo.name, **photo.load()), photo.name)
    for stage, image in result.images.items():
        save(image, folder / f"{stage}.png")
    report["images"].append(result.report())
    write_json(out / REPORT, report)
    write_numbers(out, report["images"])
    _print_scores(report["images"][-1], report["detector"])


def _simulate(options: argparse.Namespace) -> int:
    from udc_defense.photo import stages
    from udc_defense.photo.settings import Settings
    from udc_defense.scenes import scene_from_photo

    settings = Settings(panel=options.panel, seed=options.seed, attack="none")

    def change(image: Tensor, name: str) -> Tensor:
        return stages.simulate(scene_from_photo(image), settings, name)

    return _one_stage(options, change)


def _attack(options: argparse.Namespace) -> int:
    from udc_defense.photo import stages

    defense, settings = _defense(options), _settings(options)

    def change(image: Tensor, name: str) -> Tensor:
        steps = stages.attack(defense, settings, stages.begin(defense, settings, name, image))
        return _watch(steps, name).images["attacked_input"]

    return _one_stage(options, change)


def _purify(options: argparse.Namespace) -> int:
    import torch

    from udc_defense.noise import seeded
    from udc_defense.photo import stages
    from udc_defense.purification import parse_defense

    purification = parse_defense(options.defense)
    if purification is None:
        raise SettingError("--defense none leaves nothing to do.")
    purifier = purification.load().to(device(options.device))

    def change(image: Tensor, name: str) -> Tensor:
        generator = seeded(stages.row_seed(options.seed, name, "purify", 0, "", 0))
        with torch.no_grad():
            return purifier(image, generator=generator)

    return _one_stage(options, change)


def _restore(options: argparse.Namespace) -> int:
    import torch

    from udc_defense.checkpoints.load import load_restorer

    restorer = load_restorer(options.restorer)

    def change(image: Tensor, name: str) -> Tensor:
        with torch.no_grad():
            return restorer(image)

    return _one_stage(options, change)


def _one_stage(options: argparse.Namespace, change: Callable[[Tensor, str], Tensor]) -> int:
    """Read, change and write every image as OUT/STEM.png; of several, a table says which is which."""
    from udc_defense.output import check_free

    photos, rows = photos_of(options, captured=True), list[dict[str, Any]]()

    def process(photo: Photo, folder: Path) -> None:
        target = folder.with_name(folder.name + ".png")
        check_free(target)
        started, image = time.monotonic(), photo.load()["captured"]
        save(change(image, photo.name), target, options.bits)
        height, width = image.shape[-2:]
        seconds = round(time.monotonic() - started, 3)
        written = target.relative_to(options.out).as_posix()
        rows.append({"image": photo.name, "written": written, "width": width, "height": height, "seconds": seconds})
        if len(photos) > 1:
            write_numbers(options.out, rows)
        say(str(target))

    return each(photos, options.out, process)


def _defense(options: argparse.Namespace) -> Defense:
    from udc_defense.purification import load_defense

    return load_defense(options.defense, options.restorer).to(device(options.device))


def _settings(options: argparse.Namespace) -> Settings:
    from udc_defense.photo.settings import Settings

    return Settings(
        panel=getattr(options, "panel", "axon20"),
        attack=options.attack,
        objective=options.objective,
        norm=options.norm,
        eps=options.eps,
        steps=options.steps,
        threat=options.threat,
        draws=options.attack_draws,
        seed=options.seed,
        options=dict(name_and_value(text) for text in options.option),
        **({} if options.surrogate_steps is None else {"surrogate_steps": options.surrogate_steps}),
        resubmit=getattr(options, "resubmit", 0),
        evade=options.evade,
    )


def _watch(steps: Iterator[Any], name: str) -> Result:
    """Drain the steps of one photo and show how far it is."""
    with Meter("step", leave=False) as meter:
        for state in steps:
            meter.at(state.step, state.steps, f"{name}: {STAGE_WORDS[state.stage]}")
    return state.result


def _print_scores(row: dict[str, Any], detector: dict[str, Any] | None) -> None:
    psnr = {key: value for key, value in row["psnr"].items() if value is not None}
    say(f"{row['image']}: " + ", ".join(f"{key} {value:.2f} dB" for key, value in psnr.items()))
    if row["recovered"] is not None:
        say(f"  the defense recovered {row['recovered']:.0%} of what the attack took")
    if detector and row["detection"]:
        say(f"  the detector's score: {_detected(row['detection'], detector['threshold'])}")
    for words in row["flags"]:
        say(f"  {words}")


def _detected(scores: dict[str, float], threshold: float | None) -> str:
    said = ", ".join(f"{kind} {score:.1f} dB" for kind, score in scores.items())
    if threshold is None:
        return f"{said}; it has no threshold for these networks"
    noticed = [kind for kind, score in scores.items() if score > threshold]
    return f"{said}; above {threshold:.1f} dB, so suspicious: {', '.join(noticed) or 'none'}"
