"""Links that carry choices, in the query of the page's address; of the photo at most the name of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from udc_defense.demo.fields import FIELDS
from udc_defense.demo.presets import choose

LONGEST = 200  # characters of one value


def named(values: tuple[Any, ...]) -> dict[str, Any]:
    """The values of all fields, by name."""
    return dict(zip(FIELDS, values, strict=True))


def query(fields: Mapping[str, Any], sample: str | None) -> str:
    """`attack=strong&panel=toled`: what differs from the start."""
    said = {name: 1 if value is True else value for name, value in fields.items() if value not in (None, FIELDS[name])}
    return urlencode(({"sample": sample} if sample else {}) | said)


def read_query(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Fields that an address names; parameters of others, such as the theme, are left alone.

    Raises:
        UDCDefenseError: a value cannot be chosen.
    """
    fields: dict[str, Any] = {name: parameters[name][:LONGEST] for name in FIELDS if name in parameters}
    if "captured" in fields:
        fields["captured"] = fields["captured"] == "1"
    choose(**fields)
    return fields
