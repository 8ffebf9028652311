"""docs/files.md says what the readers do: their limits, formats and lists are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from udc_defense.checkpoints import files
from udc_defense.formats import json_text, tiff
from udc_defense.images import MAX_BYTES, MAX_PIXELS, NAMES
from udc_defense.scenes import MAX_PANORAMA_PIXELS, MAX_STORED, PAIRED_SUFFIXES

PAGE = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


def test_limits() -> None:
    assert f"larger than {MAX_PIXELS // 10**6} megapixels or {MAX_BYTES >> 30} GiB" in TEXT
    assert f"up to {MAX_PANORAMA_PIXELS // 10**6} megapixels" in TEXT and MAX_STORED == 1e6
    json_limits = f"{files.MAX_JSON >> 20} MiB, {json_text.MOST_VALUES:,} values, {json_text.DEEPEST} levels, "
    assert json_limits + f"{json_text.LONGEST_TEXT} characters a text and {json_text.MOST_DIGITS} digits" in TEXT


def test_limits_of_the_demo() -> None:
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    from udc_defense.demo.door import MAX_JSON, MOST_VALUES
    from udc_defense.demo.engine import MAX_BYTES as MAX_PHOTO

    assert f"A photo may have {MAX_PHOTO // 10**6} MB." in TEXT
    assert f"A request of JSON may have {MAX_JSON // 10**6} MB and {MOST_VALUES:,} values." in TEXT


def test_formats() -> None:
    table = "".join(re.findall(r"^\| ([\w, ]+) \|", PAGE, re.MULTILINE))
    assert all(name.lower() in table.lower() for name in NAMES.split(", "))
    assert ", ".join(dict.fromkeys(tiff.COMPRESSIONS.values())) in TEXT
    assert {".npy", ".exr", ".hdr"} <= PAIRED_SUFFIXES
