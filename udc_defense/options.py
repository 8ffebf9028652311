"""Options of a method, read from its signature and its docstring: attacks, samplers and transforms say them alike."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from udc_defense.errors import SettingError


class Between(NamedTuple):
    """Bounds of a number, for an annotation: `eta: Annotated[float, Between(0, 1)]`."""

    lowest: float
    highest: float


@dataclass(frozen=True)
class Option:
    """A parameter that one method has and others lack."""

    name: str
    kind: type
    default: Any
    choices: tuple[str, ...] = ()
    words: str = ""
    bounds: Between | None = None

    def parse(self, value: Any) -> Any:
        """The value in the option's type; text is converted.

        Raises:
            SettingError: it cannot be, or is not among the choices or within the bounds.
        """
        try:
            parsed = self.kind(value)
        except (TypeError, ValueError) as error:
            raise SettingError(f"option {self.name}={value!r} is not of the type {self.kind.__name__}.") from error
        if self.choices and parsed not in self.choices:
            raise SettingError(f"option {self.name}={value!r} is not one of {', '.join(self.choices)}.")
        if self.bounds and not self.bounds.lowest <= parsed <= self.bounds.highest:  # true for NaN, too
            raise SettingError(f"{self.name} {parsed:g} is not in {self.bounds.lowest:g}…{self.bounds.highest:g}.")
        return parsed


def read_options(function: Callable[..., Any], shared: Collection[str] = ()) -> tuple[Option, ...]:
    """The keyword-only parameters of a function, but for those that it shares with others of its kind.

    The type, the choices and the bounds come from the annotation, the words from the docstring's Args.
    """
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    words = argument_words(function.__doc__ or "")
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in shared]
    return tuple(make_option(p.name, p.annotation, p.default, words.get(p.name, "")) for p in own)


def make_option(name: str, annotation: Any, default: Any, words: str = "") -> Option:
    """An option of what an annotation says; a type that allows None is that of the other values."""
    bounds = None
    if get_origin(annotation) is Annotated:
        annotation, bounds = get_args(annotation)
    if get_origin(annotation) is Literal:
        return Option(name, str, default, get_args(annotation), words)
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    kind = kinds[0] if isinstance(kinds[0], type) else type(default)
    return Option(name, kind, default, (), words, bounds)


def parse_options(owner: str, options: Iterable[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option with its value, given or default.

    Args:
        owner: whose options they are, for messages.
        options: all there are.
        given: name -> value; text is converted.

    Raises:
        SettingError: one is unknown, or its value unusable.
    """
    known = {option.name: option for option in options}
    for name in given:
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise SettingError(f"{owner} has no option {name!r}; {has}.")
    values = {name: given.get(name, option.default) for name, option in known.items()}
    return {name: None if value is None else known[name].parse(value) for name, value in values.items()}


def argument_words(docstring: str, section: str = "Args") -> dict[str, str]:
    """Name -> description, from a section of a Google docstring."""
    _, _, block = inspect.cleandoc(docstring).partition(f"{section}:\n")
    block = re.split(r"\n(?=\S)", block)[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", block, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
