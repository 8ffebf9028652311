"""What an attack is, and what it gives."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, get_type_hints

import torch
from torch import Tensor, nn

from udc_defense.errors import SettingError
from udc_defense.options import parse_options, read_options
from udc_defense.registry import Registry, by_name, first_line
from udc_defense.tensors import check_alike, check_capture, check_image

P = ParamSpec("P")


@dataclass(frozen=True)
class AttackResult:
    """An attack after `step` of `steps` steps.

    Attributes:
        image: the best adversarial image so far, (B, 3, H, W) in [0, 1].
        losses: of the iterate at each step, (B, evaluations).
        forwards: model evaluations per sample, draws counted.
        backwards: gradients per sample, draws counted.
        step: steps done.
        steps: steps of the whole attack.
        queries: forwards of each sample (B,), of an attack that asks about some samples less often than about others.
        zero_gradients: gradients that were zero at every value, summed over samples; more than none says that the
            model hides its gradient.
    """

    image: Tensor
    losses: Tensor
    forwards: int
    backwards: int
    step: int
    steps: int
    queries: Tensor | None = None
    zero_gradients: int = 0


# What attacks share, as far as they take it; whatever else a signature holds is the attack's own.
SHARED = ("eps", "steps", "objective", "norm", "draws", "generator")


class Attack(Generic[P]):
    """Calling it runs the attack to its end; `iterate` takes the same arguments and yields after every step.

    Its parameters `P` are those of the generator function that it was made of, so that type checkers know them.

    Attributes:
        name: the attack's name in the registry.
        white_box: it takes gradients; otherwise it sees outputs only.
        defaults: of the shared parameters that it takes; `None` where it has no default.
        options: its own parameters.
    """

    def __init__(self, name: str, white_box: bool, iterate: Callable[P, Iterator[AttackResult]]) -> None:
        functools.update_wrapper(self, iterate)
        self.name, self.white_box, self.iterate = name, white_box, iterate
        # What a call returns, not what the generator function does.
        self.__signature__ = inspect.signature(iterate, eval_str=True).replace(return_annotation=AttackResult)
        self.__annotations__ = get_type_hints(iterate) | {"return": AttackResult}
        keywords = [p for p in self.__signature__.parameters.values() if p.kind is p.KEYWORD_ONLY]
        self.defaults = {p.name: None if p.default is p.empty else p.default for p in keywords if p.name in SHARED}
        self.options = read_options(iterate, SHARED)

    def __call__(self, *args: P.args, **options: P.kwargs) -> AttackResult:
        *_, result = self.iterate(*args, **options)
        return result

    def __repr__(self) -> str:
        return f"<attack {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return by_name, (self.__module__, self.name)

    @property
    def summary(self) -> str:
        """The docstring's first line."""
        return first_line(self)

    def parse_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option of its own with its value, given or default.

        Raises:
            SettingError: one is unknown, or its value unusable.
        """
        return parse_options(f"attack {self.name}", self.options, given)


ATTACKS: Registry[Attack[...]] = Registry(
    "udc_defense.attacks", "attack", helpers=("ball", "base", "gradients", "lpips", "objectives", "search")
)


def register(name: str, *, white_box: bool = True) -> Callable[[Callable[P, Iterator[AttackResult]]], Attack[P]]:
    """Decorator: make an attack of a generator function that yields an `AttackResult` per step."""

    def keep(iterate: Callable[P, Iterator[AttackResult]]) -> Attack[P]:
        attack = Attack(name, white_box, iterate)
        ATTACKS.register(name)(attack)
        return attack

    return keep


def per_sample(value: float | Tensor, image: Tensor, name: str) -> Tensor:
    """A number, or one per sample, as (B, 1, 1, 1), in the units of images in [0, 1].

    Raises:
        SettingError: negative, above 1, not finite, or of another length than the batch.
    """
    values = torch.as_tensor(value, dtype=image.dtype, device=image.device)
    if values.dim() > 1 or (values.dim() == 1 and len(values) != len(image)):
        raise SettingError(f"{name} has the shape {tuple(values.shape)}, not one value or {len(image)}.")
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise SettingError(f"{name} {values.tolist()} is negative or not finite.")
    if bool((values > 1).any()):
        largest = float(values.max())
        raise SettingError(f"{name} {largest:g} is above 1, but images are in [0, 1]: write 4/255 for 4 of 255.")
    return values.expand(len(image)).reshape(-1, 1, 1, 1)


def check_inputs(model: nn.Module, image: Tensor, reference: Tensor, steps: int) -> None:
    """Refuse what would fail obscurely later.

    Raises:
        SettingError: wrong shapes or ranges, values that are not finite, no steps.
    """
    check_capture(image, "the image to attack")
    check_image(reference, "the reference", signed=True)
    check_alike(image, reference, ("the image to attack", "the reference"))
    if not bool(torch.isfinite(reference).all()):
        raise SettingError("the reference has values that are not finite.")
    if steps < 1:
        raise SettingError(f"{steps} steps: an attack needs at least 1.")
