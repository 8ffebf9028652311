"""JSON that a stranger wrote: parsed only while it is small, flat and of finite numbers."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MOST_VALUES = 100_000
DEEPEST = 32


def parse_json(data: bytes | str, *, most_values: int = MOST_VALUES) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or has too many values, too many levels, or a number that is none.
    """
    text = data if isinstance(data, str) else data.decode("utf-8")
    # Each value but the first follows one of these, which may stand in texts too, but not as often.
    if text.count(",") + text.count("[") + text.count("{") > most_values:
        raise ValueError(f"it has more than {most_values} values")
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
    _check_depth(value)
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {DEEPEST} levels")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
