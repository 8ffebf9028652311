"""JSON that a stranger wrote: parsed only while it is small, flat and of finite numbers."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MOST_VALUES = 100_000
DEEPEST = 32
LONGEST_TEXT = 1000
MOST_DIGITS = 18  # of a whole number, which 64 bits can have


def parse_json(data: bytes | str, *, most_values: int = MOST_VALUES) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or has too many values or levels, too long a text, or a number that is none.
    """
    text = data if isinstance(data, str) else data.decode("utf-8")
    # Each value but the first follows one of these, which may stand in texts too, but not as often.
    if text.count(",") + text.count("[") + text.count("{") > most_values:
        raise ValueError(f"it has more than {most_values} values")
    try:
        value = json.loads(text, parse_constant=_refuse, parse_int=_whole, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
    _check_shape(value)
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of it has {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError("a number of it is larger than any")
    return value


def _check_shape(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        if any(isinstance(item, str) and len(item) > LONGEST_TEXT for item in level):
            raise ValueError(f"a text of it is longer than {LONGEST_TEXT} characters")
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {DEEPEST} levels")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []
