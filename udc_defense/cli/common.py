"""What the commands share: reading, writing and complaining."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udc_defense.errors import SettingError, UDCDefenseError

if TYPE_CHECKING:
    from torch import Tensor

    from udc_defense.photo.source import Photo


def say(text: str) -> None:
    """Print; what strangers wrote into a checkpoint cannot steer the terminal."""
    sys.stdout.write("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text) + "\n")


def complain(problem: object) -> int:
    sys.stderr.write(f"udc-defense: {problem}\n")
    return 2


def drain(counts: Iterator[int], total: int, unit: str) -> None:
    """Run to the end under a progress bar; the iterator yields how much is done."""
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, disable=None) as bar:
        for count in counts:
            bar.update(count - bar.n)


def sources(options: argparse.Namespace) -> list[Photo]:
    """Every photo or pair that is named."""
    from udc_defense.photo.source import from_file, from_pair
    from udc_defense.scenes import read_pairs

    if options.pairs:
        if options.images or options.captured:
            raise SettingError("--pairs stands alone: it brings captures and their ground truth.")
        captures, clean = options.pairs
        return [from_pair(pair) for pair in read_pairs(captures, clean, options.domain)]
    if not options.images:
        raise SettingError("no image is given; name at least one, or --pairs CAPTURES CLEAN.")
    return [from_file(path, captured=options.captured) for path in options.images]


def each(photos: Iterable[Photo], out: Path, process: Callable[[Photo, Path], None]) -> int:
    """Process every photo into a folder of its own name; a bad one is reported and the others still run."""
    status, taken = 0, set()
    for photo in photos:
        stem = base = Path(photo.name).stem
        number = 1
        while stem in taken:
            number += 1
            stem = f"{base}-{number}"
        taken.add(stem)
        try:
            process(photo, out / stem)
        except UDCDefenseError as error:
            status = complain(error)
    return status


def save(image: Tensor, path: Path, bits: int = 8) -> None:
    from udc_defense.images import write_png

    write_png(image, path, bits=bits)


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
