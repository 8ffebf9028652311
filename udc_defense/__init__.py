"""Attack, purify and restore photos of under-display cameras; measure what the defense is worth.

Names are imported on use (PEP 562): `import udc_defense` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_SOURCES = {
    "Defense": "udc_defense.defense",
    "UDCDefensePipeline": "udc_defense.pipeline",
    "capture": "udc_defense.imaging",
    "load_guide": "udc_defense.checkpoints",
    "load_purifier": "udc_defense.checkpoints",
    "load_restorer": "udc_defense.checkpoints",
    "read_image": "udc_defense.images",
    "threat": "udc_defense.threats",
    "write_png": "udc_defense.images",
}
_MODULES = ("attacks", "certification", "metrics", "optics", "scenes")

__all__ = ["__version__", *_SOURCES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _SOURCES:
        return getattr(importlib.import_module(_SOURCES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"udc_defense.{name}")
    raise AttributeError(f"module 'udc_defense' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
