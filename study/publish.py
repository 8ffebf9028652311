"""Numbers from results into prose: README.md, RESULTS.md, weights_card/, the figure of purifiers, summaries of studies.

A table stands in a marked place, `<!-- name -->…<!-- /name -->`, and a number in a sentence, `<!--= name -->…<!--/-->`;
nothing inside is typed by hand, and every sentence is.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from study import cards
from study.data import RESULTS, ROOT, SETTLED, summary
from study.facts import facts
from study.figure import figure
from study.tables import tables
from udc_defense.checkpoints.files import embedded_names
from udc_defense.checkpoints.models import KINDS

TABLE = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)
NUMBER = re.compile(r"<!--= (?P<name>[\w.-]+) -->.*?<!--/-->", re.DOTALL)
FILLED = ("README.md", "RESULTS.md")


def fill(text: str, made: Mapping[str, Callable[[], str]], numbers: Mapping[str, str]) -> str:
    """Replace what stands in the marked places.

    Raises:
        KeyError: a place has no content.
    """
    text = TABLE.sub(lambda m: f"<!-- {m['name']} -->\n{made[m['name']]()}\n<!-- /{m['name']} -->", text)
    return NUMBER.sub(lambda m: f"<!--= {m['name']} -->{numbers[m['name']]}<!--/-->", text)


def filled() -> dict[Path, str]:
    """The documents with their numbers."""
    made, numbers = tables(), facts()
    return {ROOT / name: fill((ROOT / name).read_text(encoding="utf-8"), made, numbers) for name in FILLED}


def all_cards() -> dict[Path, str]:
    """The card of every embedded checkpoint."""
    names = ((kind, name) for kind in KINDS for name in embedded_names(kind))
    return {ROOT / "weights_card" / f"{kind}-{name}.md": cards.card(kind, name) for kind, name in names}


def documents() -> dict[Path, str]:
    """Every file that holds published numbers, as it should be."""
    found = {RESULTS / name / "summary.json": json.dumps(summary(name), indent=1) + "\n" for name in SETTLED}
    return found | filled() | {RESULTS / "purifiers.svg": figure()} | all_cards()


def write(texts: Mapping[Path, str], *, check: bool = False) -> int:
    """Write what differs, or with `check` only name it; exit status 1 then."""
    stale = {path: text for path, text in texts.items() if not path.is_file() or path.read_text("utf-8") != text}
    for path, text in stale.items():
        if check:
            sys.stderr.write(f"{path.name}: stale; run python -m study publish\n")
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return int(bool(stale) and check)
