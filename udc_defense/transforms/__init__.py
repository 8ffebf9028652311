"""Trivial defenses, one a file: transforms without a network, which a purifier has to beat to be worth its cost."""

from __future__ import annotations

from udc_defense.transforms.base import TRANSFORMS, Transform, register


def load_transform(name: str, strength: float | None = None) -> Transform:
    """A transform by name, with the strength given or its default.

    Args:
        name: of a file of this package, such as `jpeg`.
        strength: value of its one parameter, whose name, default and range are in `Transform.strength`.

    Raises:
        SettingError: the name is unknown or the strength out of range.
    """
    method = TRANSFORMS.get(name)
    return method() if strength is None else method(**{method.strength.name: strength})


__all__ = ["TRANSFORMS", "Transform", "load_transform", "register"]
