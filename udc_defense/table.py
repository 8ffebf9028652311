"""A table, held once as data: the page, CSV, LaTeX and Markdown are made from the same cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean over images and the ends of its 95 % interval, which one image does not have."""

    mean: float
    low: float | None
    high: float | None


Value = str | float | int | Interval | None
EMPTY = "–"
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
    | {"ε": r"$\varepsilon$", "δ": r"$\delta$", "∞": r"$\infty$", "±": r"$\pm$", "²": r"$^2$", "×": r"$\times$"}
    | {"−": "$-$", "≥": r"$\ge$", "≤": r"$\le$", "→": r"$\to$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    | {"–": "--", "…": r"\dots{}", "\n": " "}
)
MARKDOWN = str.maketrans({"|": r"\|", "<": "&lt;", ">": "&gt;", "\n": " "})


@dataclass(frozen=True)
class Column:
    """A heading with its unit, and how many decimals its numbers have; `signed` numbers carry a plus."""

    title: str
    digits: int = 2
    signed: bool = False

    def text(self, value: Value) -> str:
        """A cell as it is read, before any escaping."""
        if value is None:
            return EMPTY
        if isinstance(value, str):
            return value
        if isinstance(value, Interval):
            return self._number(value.mean) + ("" if value.low is None else f" [{self.ends(value)}]")
        return self._number(value)

    def ends(self, value: Interval) -> str:
        """Of an interval that has them."""
        return f"{self._number(value.low)}, {self._number(value.high)}"

    def _number(self, value: float | None) -> str:
        if value is None:
            return EMPTY
        rounded = round(value, self.digits) + 0.0  # no minus before a zero
        return f"{rounded:{'+' if self.signed else ''},.{self.digits}f}".replace("-", "−")


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns; the first `labels` columns name a row.

    Attributes:
        key: its place in the page, and the name of its files.
        title: heading.
        caption: what the numbers are, in full sentences.
    """

    key: str
    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    labels: int = 1

    def texts(self) -> list[list[str]]:
        return [[column.text(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]

    def is_words(self, index: int) -> bool:
        """Whether a column holds words, which are set to the left; a number among them says that it does not."""
        cells = [row[index] for row in self.rows]
        return index < self.labels or {str} <= {type(cell) for cell in cells} <= {str, type(None)}

    def csv(self) -> str:
        """Numbers unrounded; an interval takes three columns."""
        wide = [any(isinstance(row[i], Interval) for row in self.rows) for i in range(len(self.columns))]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        heads = [_heads(column.title, three) for column, three in zip(self.columns, wide, strict=True)]
        writer.writerow(sum(heads, []))
        for row in self.rows:
            writer.writerow(sum((_plain(value, three) for value, three in zip(row, wide, strict=True)), []))
        return text.getvalue()

    def markdown(self) -> str:
        """A pipe table under its caption, where it has one."""
        lines = [_line(column.title.translate(MARKDOWN) for column in self.columns)]
        lines.append(_line("---" if self.is_words(i) else "---:" for i in range(len(self.columns))))
        lines += [_line(text.translate(MARKDOWN) for text in row) for row in self.texts()]
        above = f"{self.caption.translate(MARKDOWN)}\n\n" if self.caption else ""
        return above + "\n".join(lines) + "\n"

    def latex(self) -> str:
        """A `table` for the package booktabs."""
        places = "".join("l" if self.is_words(i) else "r" for i in range(len(self.columns)))
        body = [r"\toprule", _latex_line([column.title for column in self.columns]), r"\midrule"]
        body += [*map(_latex_line, self.texts()), r"\bottomrule"]
        inside = "\n".join(body)
        return (
            "\\begin{table}\n\\centering\n"
            f"\\caption{{{self.caption.translate(LATEX)}}}\n\\label{{tab:{self.key}}}\n"
            f"\\begin{{tabular}}{{{places}}}\n{inside}\n\\end{{tabular}}\n\\end{{table}}\n"
        )


def _heads(title: str, three: bool) -> list[str]:
    return [title, f"{title}, low", f"{title}, high"] if three else [title]


def _plain(value: Value, three: bool) -> list[str | float | None]:
    if isinstance(value, Interval):
        return list(value)
    # A name that begins like a formula would be one in a spreadsheet.
    safe = "'" + value if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value
    return [safe, None, None] if three else [safe]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cell.translate(LATEX) for cell in cells) + r" \\"
