"""What the commands share: reading, writing and complaining."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from udc_defense.cli.progress import Meter
from udc_defense.errors import SettingError, UDCDefenseError
from udc_defense.output import protect

if TYPE_CHECKING:
    from torch import Tensor

    from udc_defense.photo.source import Photo

REPORT, NUMBERS = "report.json", "numbers.csv"
OF_THE_RUN = (REPORT, NUMBERS)  # files of a whole run, beside those of its photos


def say(text: str) -> None:
    """Print; what strangers wrote into a checkpoint cannot steer the terminal."""
    sys.stdout.write("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text) + "\n")


def complain(problem: object) -> int:
    sys.stderr.write(f"udc-defense: {problem}\n")
    return 2


def drain(counts: Iterator[int], total: int, unit: str) -> None:
    """Run to the end and show how far it is; the iterator yields how much is done."""
    with Meter(unit, total) as meter:
        for count in counts:
            meter.at(count)


def sources(options: argparse.Namespace) -> list[Photo]:
    """Every photo or pair that is named."""
    from udc_defense.photo.source import from_pair
    from udc_defense.scenes import read_pairs

    if options.pairs:
        if options.images or options.captured:
            raise SettingError("--pairs stands alone: it brings captures and their ground truth.")
        captures, clean = options.pairs
        pairs = read_pairs(captures, clean, options.domain)
        protect(path for pair in pairs for path in (pair.capture, pair.clean))
        return [from_pair(pair) for pair in pairs]
    if not options.images:
        raise SettingError("no image is given; name at least one, or a folder, or --pairs CAPTURES CLEAN.")
    return photos_of(options, captured=options.captured)


def photos_of(options: argparse.Namespace, *, captured: bool) -> list[Photo]:
    """The photos that the command line names, those of folders by their way from there; none is written over."""
    from udc_defense.photo.source import from_file

    return [replace(from_file(path, captured=captured), name=name) for path, name in named_photos(options)]


def named_photos(options: argparse.Namespace) -> list[tuple[Path, str]]:
    """Every file that is named, or lies in a folder that is, with its name; none is written over."""
    named = [entry for path in options.images for entry in _photos_in(path, options)]
    protect(path for path, _ in named)
    return named


def _photos_in(path: Path, options: argparse.Namespace) -> list[tuple[Path, str]]:
    """A file, or what a folder holds, with the name of each."""
    from udc_defense.images import SUFFIXES

    if not path.is_dir():
        return [(path, path.name)]
    out, found = options.out.resolve(), []
    for file in sorted(path.rglob("*") if options.recursive else path.iterdir()):
        name = file.relative_to(path)
        # Hidden files are those of systems and programs; what an earlier call has written there is no photo to take.
        hidden = any(part.startswith(".") for part in name.parts)
        own = out != path.resolve() and out in file.resolve().parents
        if file.suffix.lower() in SUFFIXES and file.is_file() and not hidden and not own:
            found.append((file, name.as_posix()))
    if not found:
        deeper = "" if options.recursive else "; --recursive looks into its folders, too"
        raise SettingError(f"{path}: holds no photo{deeper}.")
    return found


def each(photos: Sequence[Photo], out: Path, process: Callable[[Photo, Path], None]) -> int:
    """Process every photo into a place of its own name; those that fail are reported, and listed at the end.

    Returns:
        0; 1 where some of several photos failed, 2 where the only one did.
    """
    from udc_defense.output import locked

    failed = []
    with locked(out), Meter("photo", len(photos), leave=False, shown=len(photos) > 1) as meter:
        for done, (photo, place) in enumerate(zip(photos, _places(photos), strict=True), start=1):
            try:
                process(photo, out / place)
            except UDCDefenseError as error:
                complain(error)
                failed.append(photo.name)
            meter.at(done)
    if failed and len(photos) > 1:
        complain(f"{len(failed)} of {len(photos)} photos failed: {', '.join(failed)}.")
    return (1 if len(photos) > 1 else 2) if failed else 0


def _places(photos: Sequence[Photo]) -> list[str]:
    """Of each photo's results, below the output folder: its name without the suffix, if no other has the same."""
    shared = Counter(_key(_without_suffix(photo.name)) for photo in photos)
    named = Counter(_key(photo.name) for photo in photos)
    taken = {_key(name) for name in OF_THE_RUN}
    places = []
    for photo in photos:
        place = _without_suffix(photo.name)
        if shared[_key(place)] > 1 and named[_key(photo.name)] == 1:
            place = photo.name  # a.jpg and a.png: the suffix tells them apart
        number, base = 1, place
        while _key(place) in taken:
            number += 1
            place = f"{base}-{number}"
        taken.add(_key(place))
        places.append(place)
    return places


def _without_suffix(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _key(name: str) -> str:
    """Equal for names that some file systems take for one."""
    return name.casefold()


def save(image: Tensor, path: Path, bits: int = 8) -> None:
    from udc_defense.images import write_png

    write_png(image, path, bits=bits)


def write_numbers(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """What the rows of a report say of each photo in numbers, as a table with columns such as `psnr.restored`."""
    from udc_defense.output import write_file

    flat = [dict(_flat(row)) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_file(out / NUMBERS, text.getvalue().encode())


def _flat(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float | str) or value is None:
            yield prefix + name, value


def write_json(path: Path, value: Any) -> None:
    from udc_defense import output

    output.write_json(path, value)


def device(name: str) -> str:
    import torch

    from udc_defense.device import best_device

    if name == "auto":
        return best_device()
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"device {name!r} is not to be had on this machine.") from error
    return name


def name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingError(f"--option {text!r} is not of the form NAME=VALUE.")
    return name, value


def json_setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        problem = f"has no JSON value ({value!r})" if equals else "is not of the form NAME=VALUE"
        raise SettingError(f"--option {text!r} {problem}.") from None
