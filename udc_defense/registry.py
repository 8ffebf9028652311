"""Names to methods: a registry lists the files of its package and imports one when it is asked for.

A new method is one file with one decorator; nothing else changes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from udc_defense.errors import SettingError

T = TypeVar("T")


class Registry(Generic[T]):
    """The methods of one package, one a file, under the file's name.

    Args:
        package: full name, such as `udc_defense.attacks`.
        kind: what one of them is called in messages.
        helpers: modules of the package that are no methods.
    """

    def __init__(self, package: str, kind: str, helpers: tuple[str, ...] = ()) -> None:
        self.package, self.kind, self.helpers = package, kind, helpers
        self._methods: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: put a method under `name`, which must be its file's name."""

        def keep(method: T) -> T:
            self._methods[name] = method
            return method

        return keep

    def names(self) -> list[str]:
        """All names, without importing any method."""
        path = importlib.import_module(self.package).__path__
        return sorted(m.name for m in pkgutil.iter_modules(path) if m.name not in self.helpers)

    def get(self, name: str) -> T:
        """The method of that name.

        Raises:
            SettingError: there is none.
        """
        if name not in self._methods:
            if name not in self.names():
                raise SettingError(f"{self.kind} {name!r} is not one of {', '.join(self.names())}.")
            importlib.import_module(f"{self.package}.{name}")
        return self._methods[name]


def by_name(module: str, name: str) -> Any:
    """What a pickle keeps of a method: the file that has it and its name there, as of a plain function."""
    return getattr(importlib.import_module(module), name)


def first_line(method: object) -> str:
    """What a list says of a method: the first line of its docstring."""
    return (method.__doc__ or "").strip().partition("\n")[0]
