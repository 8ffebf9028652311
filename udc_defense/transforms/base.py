"""What a transform is, and how its one parameter is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from udc_defense.errors import SettingError
from udc_defense.options import Option, read_options
from udc_defense.registry import Registry
from udc_defense.tensors import check_image


class Transform(nn.Module):
    """Capture (B, 3, H, W) in [0, 1] to purified capture, called with `generator` as every purifier is.

    Attributes:
        name: in the registry.
        strength: its parameter; the instance has the value under `strength.name`.
        evaluations: of a network in one forward pass, as purifiers count them.
    """

    name: ClassVar[str]
    strength: ClassVar[Option]
    evaluations = 0

    def __call__(self, image: Tensor, **options: Any) -> Tensor:
        check_image(image, "the capture")
        return super().__call__(image, **options)

    def stand_in(self) -> Transform | None:
        """What does nearly the same and has a gradient, for attackers of one that has none of its own."""
        return None


TRANSFORMS: Registry[type[Transform]] = Registry("udc_defense.transforms", "transform", helpers=("base", "mirror"))


def register(name: str) -> Callable[[type[Transform]], type[Transform]]:
    """Decorator: put a transform with one keyword-only parameter, described under Args, into the registry."""

    def keep(method: type[Transform]) -> type[Transform]:
        method.name, (method.strength,) = name, read_options(method)
        return TRANSFORMS.register(name)(method)

    return keep


def between(name: str, value: float, lowest: float, highest: float) -> float:
    """The value, refused outside lowest…highest.

    Raises:
        SettingError: it is outside, or not a number.
    """
    if not lowest <= value <= highest:  # false for NaN, too
        raise SettingError(f"{name} {value} is not in {lowest}…{highest}.")
    return float(value)


def whole(name: str, value: float, lowest: int, highest: int) -> int:
    """The same for a whole number; 75.0 is one.

    Raises:
        SettingError: it is outside the range, or not whole.
    """
    if between(name, value, lowest, highest) % 1:
        raise SettingError(f"{name} {value} is not a whole number.")
    return int(value)
