"""RESULTS.md and cards: in a checkout beside the package, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def found(name: str) -> Path | None:
    """A file or folder such as `RESULTS.md`; None where this installation lacks it."""
    return next((folder / name for folder in (PACKAGE, PACKAGE.parent) if (folder / name).exists()), None)
