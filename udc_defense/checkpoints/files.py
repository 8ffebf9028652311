"""A checkpoint as files: their names, sums and faults. It knows no network and no Hub.

A checkpoint is a folder in diffusers' layout: a restorer and the encoder of a guide have `config.json` and
`diffusion_pytorch_model.safetensors`, a purifier `unet/` and `scheduler/`. `checksums.json` beside them lists size and
sha256 of every file; the client of the Hub checks sizes only. Weights are safetensors, nothing else is opened. Where
the same files were pushed to the Hub, `hub.json` says where.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from udc_defense.errors import CheckpointError
from udc_defense.formats.content import read_content
from udc_defense.formats.json_text import parse_json

EMBEDDED = Path(__file__).parents[1] / "weights"
CHECKSUMS = "checksums.json"
PUSHED = "hub.json"  # beside a checkpoint: where `models push` put it; stays at home
WEIGHTS = "diffusion_pytorch_model.safetensors"
HUB_FILES = ["*.json", "*.safetensors"]
MAX_JSON = 1 << 20  # bytes of a configuration or a list
MOST_FILES = 1000  # of a list
LISTED = re.compile(r"(?!.*(^|/)\.\.?(/|$))[\w.+-]+(/[\w.+-]+)*")  # a path below the folder
SHA256 = re.compile(r"[0-9a-f]{64}")
HUB_CACHE = re.compile(r"/models--([^/]+)--([^/]+)/snapshots/([^/]+)$")


def embedded_folder(name: str, kind: str) -> Path:
    """Where a checkpoint lies that travels with the package."""
    return EMBEDDED / kind / name


def embedded_names(kind: str) -> list[str]:
    """Names of the checkpoints of a kind (`restorer`, `purifier` or `guide`) that travel with the package."""
    folder = EMBEDDED / kind
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def training_facts(folder: Path) -> dict[str, Any]:
    """What its training left beside a checkpoint: data, steps, time, hardware; empty where it left nothing."""
    path = folder / "training.json"
    return read_json(path) if path.is_file() else {}


def checksum(folder: Path) -> str:
    """One sha256 for a checkpoint: of its weights file."""
    (weights,) = folder.rglob(WEIGHTS)
    return sha256(weights)


def verified_sum(folder: Path, part: str = "") -> str:
    """The sha256 of the weights in a part of a folder that `verify` has passed; a listed one is not hashed again."""
    weights = folder / part / WEIGHTS
    listed = read_json(folder / CHECKSUMS) if (folder / CHECKSUMS).is_file() else {}
    entry = listed.get(weights.relative_to(folder).as_posix())
    return entry["sha256"] if entry else sha256(weights)


def source_of(folder: Path) -> str:
    """Where a checkpoint lies: `embedded`, `folder`, or the `owner/name@commit` whose snapshot it is.

    Where `models push` has put these very files on the Hub, their address there is added.
    """
    if snapshot := HUB_CACHE.search(folder.as_posix()):
        owner, name, commit = snapshot.groups()
        return f"{owner}/{name}@{commit}"
    here = "embedded" if folder.is_relative_to(EMBEDDED) else "folder"
    pushed = read_json(folder / PUSHED) if (folder / PUSHED).is_file() else {}
    same = (folder / CHECKSUMS).is_file() and pushed.get("checksums") == sha256(folder / CHECKSUMS)
    return f"{here}, also {pushed.get('source')}" if same else here


def record_push(folder: Path, source: str) -> None:
    """Note beside a checkpoint, whose `checksums.json` is right, that `owner/name@commit` holds the same files.

    Raises:
        OSError: the folder cannot be written.
    """
    record = {"source": source, "checksums": sha256(folder / CHECKSUMS)}
    (folder / PUSHED).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def hub_files(folder: Path) -> list[str]:
    """What belongs to a checkpoint on the Hub, besides `checksums.json` and its card; relative to the folder."""
    found = {path.relative_to(folder).as_posix() for pattern in HUB_FILES for path in folder.rglob(pattern)}
    return sorted(found - {CHECKSUMS, PUSHED})


def write_checksums(folder: Path) -> None:
    """List size and sha256 of every file that a download brings in the checkpoint's `checksums.json`."""
    files = {name: folder / name for name in hub_files(folder)}
    table = {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in files.items()}
    text, path = json.dumps(table, indent=1) + "\n", folder / CHECKSUMS
    if not path.is_file() or path.read_bytes() != text.encode():  # a list that is right may be read-only
        path.write_bytes(text.encode())


def verify(folder: Path, source: str | Path) -> None:
    """Compare every file listed in `checksums.json`, where there is one.

    Raises:
        CheckpointError: a file is missing or differs, or the list is not one.
    """
    for name, fault in faults(folder, source).items():
        raise CheckpointError(f"{source}: its file {name} {fault}; fetch the checkpoint again.")


def faults(folder: Path, source: str | Path) -> dict[str, str]:
    """The listed files that are not what `checksums.json` says, and what is wrong with each; none without a list.

    Raises:
        CheckpointError: the list is not one.
    """
    if not (folder / CHECKSUMS).is_file():
        return {}
    found = {}
    listed = read_json(folder / CHECKSUMS)
    if len(listed) > MOST_FILES:
        raise CheckpointError(f"{source}: its {CHECKSUMS} lists {len(listed)} files, more than {MOST_FILES}.")
    for name, expected in listed.items():
        if not LISTED.fullmatch(name):
            raise CheckpointError(f"{source}: its {CHECKSUMS} lists {name[:80]!r}, which is no file of the folder.")
        path = folder / name
        if not _is_sum(expected):
            raise CheckpointError(f"{source}: its {CHECKSUMS} lacks size or sha256 of {name}.")
        if not path.is_file():
            found[name] = "is missing"
        elif path.stat().st_size != expected["bytes"] or sha256(path) != expected["sha256"]:
            found[name] = "is damaged (sha256 differs)"
    return found


def _is_sum(value: Any) -> bool:
    """Whether it is an entry of the list: a size and a sha256."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("bytes"), int)
        and bool(SHA256.fullmatch(str(value.get("sha256"))))
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a stranger.

    Raises:
        CheckpointError: it is missing, no regular file, too large or nested, or not JSON.
    """
    try:
        value = parse_json(read_content(path, MAX_JSON))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: has no {path.name}.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0].rstrip(".")
        raise CheckpointError(f"{path}: cannot be read as JSON ({reason}).") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no JSON object.")
    return value


def sha256(path: Path) -> str:
    """Of a regular file.

    Raises:
        CheckpointError: it is none; a pipe may never end.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: is no regular file.")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
