"""Certified bounds for restoration, by randomised smoothing or a bounded gain: what no attack within a radius can do.

Names are imported on use (PEP 562), like those of the package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names of `_SOURCES`, for those who check types
    from udc_defense.certification.centre import smooth_centre as smooth_centre
    from udc_defense.certification.certify import Certification as Certification
    from udc_defense.certification.certify import certify as certify
    from udc_defense.certification.classification import certified_class as certified_class
    from udc_defense.certification.denoised import Denoised as Denoised
    from udc_defense.certification.lipschitz import certify_lipschitz as certify_lipschitz
    from udc_defense.certification.median import smooth_median as smooth_median
    from udc_defense.certification.noise import Budget as Budget
    from udc_defense.certification.noise import Gaussian as Gaussian
    from udc_defense.certification.noise import Laplace as Laplace
    from udc_defense.certification.noise import Uniform as Uniform
    from udc_defense.certification.noise import noise_of as noise_of
    from udc_defense.certification.sampling import draw as draw
    from udc_defense.certification.single_draw import error_bound as error_bound

_SOURCES = {
    "Budget": "noise",
    "Certification": "certify",
    "Denoised": "denoised",
    "Gaussian": "noise",
    "Laplace": "noise",
    "Uniform": "noise",
    "certified_class": "classification",
    "certify": "certify",
    "certify_lipschitz": "lipschitz",
    "draw": "sampling",
    "error_bound": "single_draw",
    "noise_of": "noise",
    "smooth_centre": "centre",
    "smooth_median": "median",
}

__all__ = list(_SOURCES)


if not TYPE_CHECKING:  # a checker that saw it would let every misspelt name pass

    def __getattr__(name: str) -> Any:
        if name not in _SOURCES:
            raise AttributeError(f"module 'udc_defense.certification' has no attribute {name!r}")
        return getattr(importlib.import_module(f"udc_defense.certification.{_SOURCES[name]}"), name)
