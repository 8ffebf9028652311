"""Whether what a network is made with are sizes: one check for all, by the types that their constructors state."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

from udc_defense.errors import SettingError

LARGEST = 1 << 20
LONGEST = 64  # entries of a list
COUNTS = ("blocks", "depths", "num_blk")  # of a stage's blocks, which may have none


def check_sizes(network: type, options: Mapping[str, Any]) -> None:
    """Refuse sizes that are no positive whole numbers, and numbers that are none.

    Args:
        network: the class. Its constructor's annotations say what each option is, where it is our own.
        options: of the constructor; of what it does not take, whole numbers below 0 or above a million are refused.

    Raises:
        SettingError: an option is out of range.
    """
    kinds = {name: str(parameter.annotation) for name, parameter in inspect.signature(network).parameters.items()}
    for name, value in options.items():
        kind = kinds.get(name, "")
        if value is None and "None" in kind:
            continue
        if isinstance(value, list | tuple) and len(value) > LONGEST:
            raise SettingError(f"its {name} has {len(value)} entries, more than {LONGEST}.")
        for entry in _entries(value):
            _check(name, kind, entry)


def _entries(value: Any) -> Iterator[Any]:
    """The value, or what it holds."""
    for entry in value if isinstance(value, list | tuple) else [value]:
        if isinstance(entry, list | tuple):
            yield from _entries(entry)
        else:
            yield entry


def _check(name: str, kind: str, entry: Any) -> None:
    lowest = 1 if kind in ("int", "int | None", "Sequence[int]") and not name.endswith(COUNTS) else 0
    whole = isinstance(entry, int) and not isinstance(entry, bool)
    if whole and "float" not in kind and not lowest <= entry <= LARGEST:
        raise SettingError(f"its {name} has {str(entry)[:20]}, not a whole number in {lowest}…{LARGEST}.")
    if kind in ("int", "int | None", "Sequence[int]") and not whole:
        raise SettingError(f"its {name} has {str(entry)[:20]!r}, not a whole number.")
    if "float" in kind and not (isinstance(entry, int | float) and math.isfinite(entry)):
        raise SettingError(f"its {name} has {str(entry)[:20]!r}, not a finite number.")
