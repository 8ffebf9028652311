"""A folder that `udc-defense evaluate` has written, or is still writing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udc_defense.errors import SettingError
from udc_defense.evaluation.rows import Row, read_rows, read_run


@dataclass(frozen=True)
class Run:
    """What is there of one run.

    Attributes:
        name: of the folder, with its parents as far as two runs would be called the same.
        facts: `run.json`: command, seed, versions, hardware, checkpoints.
        rows: of the first draw of the defense's noise; the spread over draws is in their `resubmission`.
        summary: `summary.json`; None while the run is not finished.
        examples: of `examples/examples.json`, each with its `path`.
    """

    name: str
    facts: dict[str, Any]
    rows: list[Row]
    summary: dict[str, Any] | None
    examples: list[dict[str, Any]]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs, in the order given.

    Raises:
        SettingError: one is no folder of a run, has no row yet, or is damaged.
    """
    if not folders:
        raise SettingError("no run folder is given; name one that udc-defense evaluate has written.")
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise SettingError(f"{', '.join(map(str, folders))}: one run is named twice.")
    return [_read(folder, name) for folder, name in zip(folders, _names(paths), strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that are all different."""
    depth = 1
    while len(names := {"/".join(path.parts[-depth:]): None for path in paths}) < len(paths):
        depth += 1
    return list(names)


def _read(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise SettingError(f"{folder}: there is no such folder.")
    if not (folder / "run.json").is_file():
        raise SettingError(f"{folder}: has no run.json, so it is no folder that udc-defense evaluate has written.")
    # What is merged, and what each process of a run under way, or of one that was killed, has written so far.
    parts = [row for path in sorted((folder / "parts").glob("*.jsonl")) for row in read_rows(path)]
    rows = [row for row in (*read_run(folder), *parts) if not row.get("draw")]
    if not rows and (folder / "summary.json").is_file():
        raise SettingError(
            f"{folder}: its rows were left out, and only summary.json says what was measured; the command in run.json "
            "measures it again."
        )
    if not rows:
        raise SettingError(f"{folder}: holds no row yet; the run has measured nothing.")
    facts, summary = _json(folder / "run.json", dict), _summary(folder / "summary.json")
    return Run(name, facts, rows, summary, _examples(folder / "examples"))


def _summary(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found = _json(path, dict)
    for key, needed in {"flags": {"check"}, "transfer": {"rows", "columns", "psnr"}, "cost": {"defense"}}.items():
        if not all(isinstance(entry, dict) and needed <= entry.keys() for entry in found.get(key) or []):
            raise SettingError(f"{path}: {key!r} holds something else than entries with {', '.join(sorted(needed))}.")
    return found


def _json(path: Path, kind: type) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(found, kind):
        raise SettingError(f"{path}: holds a {type(found).__name__} where a {kind.__name__} is expected.")
    return found


def _examples(folder: Path) -> list[dict[str, Any]]:
    """Those whose folder is there and lies in this one, whatever the list says."""
    if not (folder / "examples.json").is_file():
        return []
    listed = [entry for entry in _json(folder / "examples.json", list) if isinstance(entry, dict)]
    # The name alone: a list from elsewhere must not reach other folders.
    found = [entry | {"path": folder / Path(str(entry.get("folder"))).name} for entry in listed]
    return [entry for entry in found if entry["path"].is_dir()]
