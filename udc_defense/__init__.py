"""Attack, purify and restore photos of under-display cameras; measure what the defense is worth.

Names are imported on use (PEP 562): `import udc_defense` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names of `_SOURCES` and `_MODULES`, for those who check types
    from udc_defense import attacks as attacks
    from udc_defense import certification as certification
    from udc_defense import metrics as metrics
    from udc_defense import optics as optics
    from udc_defense import scenes as scenes
    from udc_defense.checkpoints.load import load_guide as load_guide
    from udc_defense.checkpoints.load import load_purifier as load_purifier
    from udc_defense.checkpoints.load import load_restorer as load_restorer
    from udc_defense.defense import Defense as Defense
    from udc_defense.evaluation.api import evaluate as evaluate
    from udc_defense.images import read_image as read_image
    from udc_defense.images import write_png as write_png
    from udc_defense.imaging import capture as capture
    from udc_defense.panel_file import get_panel as get_panel
    from udc_defense.pipeline import UDCDefensePipeline as UDCDefensePipeline
    from udc_defense.purification import load_defense as load_defense
    from udc_defense.threats import threat as threat

__version__ = "0.1.0"

_SOURCES = {
    "Defense": "udc_defense.defense",
    "UDCDefensePipeline": "udc_defense.pipeline",
    "capture": "udc_defense.imaging",
    "evaluate": "udc_defense.evaluation.api",
    "get_panel": "udc_defense.panel_file",
    "load_defense": "udc_defense.purification",
    "load_guide": "udc_defense.checkpoints.load",
    "load_purifier": "udc_defense.checkpoints.load",
    "load_restorer": "udc_defense.checkpoints.load",
    "read_image": "udc_defense.images",
    "threat": "udc_defense.threats",
    "write_png": "udc_defense.images",
}
_MODULES = ("attacks", "certification", "metrics", "optics", "scenes")

__all__ = ["__version__", *_SOURCES, *_MODULES]


if not TYPE_CHECKING:  # a checker that saw it would let every misspelt name pass

    def __getattr__(name: str) -> Any:
        if name in _SOURCES:
            return getattr(importlib.import_module(_SOURCES[name]), name)
        if name in _MODULES:
            return importlib.import_module(f"udc_defense.{name}")
        raise AttributeError(f"module 'udc_defense' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
