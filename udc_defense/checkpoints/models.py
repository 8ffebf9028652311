"""What checkpoints are: embedded ones, folders, repositories on the Hub. No weights are loaded.

Where `UDC_DEFENSE_REPO` moves the embedded names to the Hub, they are listed, shown and verified as they are there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from udc_defense.checkpoints.files import (
    CHECKSUMS,
    WEIGHTS,
    checksum,
    embedded_folder,
    embedded_names,
    faults,
    hub_files,
    read_json,
    source_of,
    training_facts,
)
from udc_defense.checkpoints.resolve import HUB_ID, HUB_OWNER, resolve
from udc_defense.errors import CheckpointError

KINDS = ("restorer", "purifier", "guide")


@dataclass(frozen=True)
class Model:
    """One checkpoint.

    Attributes:
        name: embedded name, folder, or `owner/name[@revision]`.
        kind: restorer, purifier or guide.
        architecture: class of the network.
        parameters: their number, as the header of the weights file lists them.
        panels: displays that it was trained for, where that is known.
        bytes: of the weights file.
        sha256: of the weights file.
        source: where the files are: embedded, folder, or `owner/name@commit`, also of what was pushed there.
        origin: what made the weights: a training, or the official file that was converted.
    """

    name: str
    kind: str
    architecture: str
    parameters: int
    panels: tuple[str, ...]
    bytes: int
    sha256: str
    source: str
    origin: str


@dataclass(frozen=True)
class Details:
    """One checkpoint, the configuration of its network (`scheduler.…` of a purifier's too), what its training left."""

    model: Model
    config: dict[str, Any]
    training: dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """Whether the files of a checkpoint are those listed in its `checksums.json`.

    Attributes:
        name: `kind/name` of an embedded one, or what was asked for.
        files: how many are listed.
        bytes: of all that are as listed.
        problems: a sentence per file that differs, is missing or is not listed; or why nothing could be compared.
    """

    name: str
    files: int = 0
    bytes: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Place:
    """Where a checkpoint lies; without a kind where only its files can tell."""

    name: str
    folder: Path
    kind: str | None = None

    @property
    def label(self) -> str:
        return f"{self.kind}/{self.name}" if self.kind else self.name


def list_models() -> list[Model]:
    """All embedded checkpoints.

    Raises:
        CheckpointError: the header of one cannot be read, or the Hub does not have it.
    """
    return [_details(_moved(place)).model for place in _embedded()]


def show_models(source: str) -> list[Details]:
    """The checkpoint of that name; several where the kinds share an embedded name.

    Args:
        source: `name` or `kind/name` of an embedded one, a folder, or `owner/name[@revision]` on the Hub.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    return [_details(_moved(place)) for place in _find(source)]


def verify_models(sources: Iterable[str] = ()) -> Iterator[Verdict]:
    """Compare size and sha256 of every file, one checkpoint after the other; all embedded ones where none is named."""
    for source in list(sources) or [place.label for place in _embedded()]:
        try:
            places = [_moved(place) for place in _find(source)]
        except CheckpointError as error:
            yield Verdict(source, problems=(str(error),))
        else:
            yield from map(_verified, places)


def intact_checkpoint(source: str) -> tuple[Path, Path | None]:
    """The folder of one checkpoint, none of whose listed files is damaged, and the card of an embedded one.

    Raises:
        CheckpointError: there is none or more than one of that name, or a file differs.
    """
    places = _find(source)
    if len(places) > 1:
        raise CheckpointError(f"{source}: name one of {', '.join(place.label for place in places)}.")
    (place,) = places
    for name, what in faults(place.folder, source).items():
        raise CheckpointError(f"{source}: its file {name} {what}.")
    return place.folder, _card(place)


def _card(place: _Place) -> Path | None:
    """In a checkout the cards lie beside the package, in a wheel inside it."""
    package = Path(__file__).parents[1]
    cards = [folder / "weights_card" / f"{place.kind}-{place.name}.md" for folder in (package, package.parent)]
    return next((card for card in cards if place.kind and card.is_file()), None)


def _embedded() -> list[_Place]:
    return [_Place(name, embedded_folder(name, kind), kind) for kind in KINDS for name in embedded_names(kind)]


def _moved(place: _Place) -> _Place:
    """The place on the Hub of an embedded name, where `UDC_DEFENSE_REPO` says so."""
    if place.kind and os.environ.get(HUB_OWNER):
        return replace(place, folder=resolve(place.name, place.kind))
    return place


def _find(source: str) -> list[_Place]:
    embedded = _embedded()
    if found := [place for place in embedded if source in (place.name, place.label)]:
        return found
    if Path(source).is_dir():
        return [_Place(source, Path(source))]
    if not HUB_ID.fullmatch(source) or Path(source).exists():
        names = ", ".join(place.label for place in embedded)
        raise CheckpointError(
            f"{source}: neither an embedded checkpoint ({names}), nor a folder, nor owner/name[@revision] on the Hub."
        )
    # The kind is for names of embedded checkpoints only.
    return [_Place(source, resolve(source, "restorer"))]


def _details(place: _Place) -> Details:
    folder = place.folder
    network = folder / "unet" if (folder / "unet").is_dir() else folder
    config, training = read_json(network / "config.json"), training_facts(folder)
    architecture = str(config.get("_class_name"))
    if network != folder:
        scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
        config |= {f"scheduler.{key}": value for key, value in scheduler.items() if not key.startswith("_")}
    weights = network / WEIGHTS
    parameters, metadata = _header(weights, place.label)
    panels = training.get("panels")
    model = Model(
        name=place.name,
        kind=place.kind or _kind(network, folder, architecture, place.name),
        architecture=architecture,
        parameters=parameters,
        panels=tuple(dict.fromkeys(map(str, panels))) if isinstance(panels, list) else (),
        bytes=weights.stat().st_size,
        sha256=checksum(folder),
        source=source_of(folder),
        origin=metadata.get("source") or _trained(training),
    )
    return Details(model, {key: value for key, value in config.items() if not key.startswith("_")}, training)


def _kind(network: Path, folder: Path, architecture: str, source: str) -> str:
    """Of a folder, by its layout and architecture."""
    from udc_defense.restorers import restorer_class

    if network != folder:
        return "purifier"
    if architecture == "GuideEncoder":
        return "guide"
    if restorer_class(architecture) is None:
        raise CheckpointError(f"{source}: its architecture {architecture!r} is not known here.")
    return "restorer"


def _header(path: Path, source: str) -> tuple[int, dict[str, str]]:
    """Number of parameters and metadata; integers are buffers."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            tensors = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118, it is no mapping
            count = sum(math.prod(t.get_shape()) for t in tensors if t.get_dtype().startswith(("F", "BF")))
            return count, file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"{source}: has no {path.name}.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{source}: its weights cannot be read ({error}).") from error


def _trained(facts: dict[str, Any]) -> str:
    data = next((f"{facts[kind]} {kind}" for kind in ("scenes", "pairs") if kind in facts), None)
    return f"trained {facts['steps']} steps on {data}" if data and "steps" in facts else "unknown"


def _verified(place: _Place) -> Verdict:
    folder, label = place.folder, place.label
    if not (folder / CHECKSUMS).is_file():
        return Verdict(label, problems=(f"{label}: has no {CHECKSUMS} to compare its files with.",))
    try:
        found, listed = faults(folder, label), read_json(folder / CHECKSUMS)
    except CheckpointError as error:
        return Verdict(label, problems=(str(error),))
    found |= {name: f"is not listed in its {CHECKSUMS}" for name in hub_files(folder) if name not in listed}
    return Verdict(
        name=label,
        files=len(listed),
        bytes=sum((folder / name).stat().st_size for name in listed.keys() - found.keys()),
        problems=tuple(f"{label}: its file {name} {what}; fetch the checkpoint again." for name, what in found.items()),
    )
