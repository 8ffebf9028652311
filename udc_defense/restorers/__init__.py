"""Restoration networks, one a file."""

from udc_defense.registry import Registry
from udc_defense.restorers.base import Restorer

RESTORERS: Registry[type[Restorer]] = Registry(
    "udc_defense.restorers", "restorer", helpers=("base", "lipschitz_layers", "physics")
)
register = RESTORERS.register
CLASSICAL = ("wiener", "richardson_lucy")  # filters: no weights, but they need the PSF


def restorer_class(class_name: str) -> type[Restorer] | None:
    """The registered class that a checkpoint's `_class_name` means, if any."""
    classes = (RESTORERS.get(name) for name in RESTORERS.names())
    return next((cls for cls in classes if cls.__name__ == class_name), None)
