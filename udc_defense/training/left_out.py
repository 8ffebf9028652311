"""Files that turn out not to be readable in the middle of a training: named, left out for good, and it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from udc_defense.errors import SceneError, UDCDefenseError
from udc_defense.output import append

FILE = "left-out.txt"

T = TypeVar("T")
V = TypeVar("V")


class LeftOut:
    """Names of what cannot be read, and why.

    Args:
        file: keeps them for a run that is resumed, one a line, a tab before the reason; in memory only if not given.
            Remove a line, or the file, to have it tried again.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.is_file() else []
        self.reasons = dict(line.partition("\t")[::2] for line in lines)

    def draw(
        self, items: Sequence[T], generator: torch.Generator, name: Callable[[T], str], read: Callable[[T], V]
    ) -> tuple[T, V]:
        """One of the items at random, with what is read of it; in the place of one that cannot be read, another.

        Which one depends on the generator alone: not on who found out first what is left out.

        Raises:
            SceneError: none can be read.
        """
        while True:
            item = items[int(torch.randint(0, len(items), (1,), generator=generator))]
            if name(item) not in self.reasons:
                try:
                    return item, read(item)
                except UDCDefenseError as error:
                    self._add(name(item), str(error))
            if all(name(other) in self.reasons for other in items):
                several = f"none of {len(items)} can be trained on, as " if len(items) > 1 else ""
                raise SceneError(several + self.reasons[name(item)])

    def _add(self, name: str, reason: str) -> None:
        self.reasons[name] = reason
        if self.file is not None:
            line = f"{name}\t{reason}".replace("\n", " ")
            append(self.file, f"{line}\n".encode())
