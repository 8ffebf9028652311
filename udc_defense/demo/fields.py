"""Every choice of a visitor, once: its place, its type and its words; forms, links and endpoints agree."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from udc_defense.attacks.objectives import OBJECTIVES
from udc_defense.optics import PANELS
from udc_defense.threats import KINDS

ATTACK, DEFENSE = "quick", "fast"  # the presets of a first visit


@dataclass(frozen=True)
class Field:
    """A choice.

    Attributes:
        name: in forms, links and the API.
        kind: type of its values.
        words: what the API's page says of it.
        default: value where nothing is chosen; None leaves it to the presets.
        part: which preset it is a detail of, if any.
    """

    name: str
    kind: Any
    words: str
    default: Any = None
    part: Literal["attack", "defense", ""] = ""

    @property
    def start(self) -> Any:
        """What a form shows where nothing is chosen."""
        return "" if self.default is None else self.default


TABLE = (
    Field("captured", bool, "whether the photo comes from an under-display camera; else it is simulated.", False),
    Field("panel", str, f"the display in front of the camera: {', '.join(PANELS)}.", "axon20"),
    Field("attack", str, "preset of the attack: off, quick, strong or adaptive.", ATTACK),
    Field("defense", str, "preset of the defense: off, fast, paper or best.", DEFENSE),
    Field(
        "method",
        str,
        "an attack of the library, such as pgd (gradients) or square (outputs only).",
        None,
        "attack",
    ),
    Field("eps", float, "largest change that the attack makes, in units of 1/255, 0 to 16.", None, "attack"),
    Field("steps", int, "steps of the attack: 1 to 50, or to 1000 where it sees outputs only.", None, "attack"),
    Field("threat", str, f"what the attacker knows of the defense: {', '.join(KINDS)}.", None, "attack"),
    Field("objective", str, f"what the attack makes worse: {', '.join(OBJECTIVES)}.", None, "attack"),
    Field("norm", str, "norm of the largest change: linf or l2.", None, "attack"),
    Field("options", str, "the attack's own options, such as restarts=2, momentum=0.75.", None, "attack"),
    Field("sampler", str, "a purifier of the library, such as ddpm, or a transform such as jpeg.", None, "defense"),
    Field("noise_level", int, "forward diffusion steps of the purifier, 0 to 100.", None, "defense"),
    Field("draws", int, "purifications that are averaged, 1 to 8.", None, "defense"),
    Field("restorer", str, "a restorer: embedded name, or owner/name[@revision] on the Hugging Face Hub."),
    Field("purifier", str, "weights of the purifier: embedded name, or owner/name[@revision] on the Hugging Face Hub."),
    Field("seed", int, "seed of all noise; null draws one."),
)
FIELDS: dict[str, Any] = {field.name: field.start for field in TABLE}


def details(part: str) -> tuple[str, ...]:
    """The names of what a preset of a part, `attack` or `defense`, can be overridden by."""
    return tuple(field.name for field in TABLE if field.part == part)


def endpoint(*names: str) -> Callable[[Callable[..., Iterator[Any]]], Callable[..., Iterator[Any]]]:
    """Decorator: a handler (self, photo, fields) becomes an endpoint (self, photo, one parameter for each field).

    gradio reads parameters from the signature and their words from the docstring's Args, to which those of the fields
    are added.

    Args:
        names: of the fields, in the order of the table.
    """
    chosen = [field for field in TABLE if field.name in names]

    def shape(handler: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        plain = inspect.signature(handler, eval_str=True)
        keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
        kinds = {field.name: field.kind if field.default is not None else field.kind | None for field in chosen}
        given = [inspect.Parameter(f.name, keyword, default=f.default, annotation=kinds[f.name]) for f in chosen]
        own, photo, _ = plain.parameters.values()
        signature = plain.replace(parameters=[own, photo, *given])

        @functools.wraps(handler)
        def call(*values: Any, **named: Any) -> Iterator[Any]:
            bound = signature.bind(*values, **named)
            bound.apply_defaults()
            own, photo, *rest = bound.arguments.values()
            yield from handler(own, photo, dict(zip(kinds, rest, strict=True)))

        del call.__wrapped__  # gradio would read its parameters
        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = {photo.name: photo.annotation, **kinds, "return": plain.return_annotation}
        first, returns, last = inspect.cleandoc(handler.__doc__ or "").partition("\n\nReturns:")
        call.__doc__ = "\n".join([first, *(f"    {field.name}: {field.words}" for field in chosen)]) + returns + last
        return call

    return shape
