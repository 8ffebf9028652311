"""How things are called in the report."""

from __future__ import annotations

from udc_defense.evaluation.rows import Budget
from udc_defense.threats import TITLES

DEGRADATIONS = {"udc": "display", "pairs": "photographed pairs", "noise": "noise", "blur": "blur"}
NORMS = {"linf": "L∞", "l2": "L2"}
# Name, decimals, and whether more is better; units where there are any.
METRICS = {
    "psnr": ("PSNR, dB ↑", 2),
    "ssim": ("SSIM ↑", 3),
    "ms_ssim": ("MS-SSIM ↑", 3),
    "gmsd": ("GMSD ↓", 4),
    "delta_e": ("ΔE00 ↓", 2),
    "lpips": ("LPIPS ↓", 3),
    "psnr_to_clean_output": ("PSNR to the restorer's own clean output, dB ↑", 2),
}


def threat(kind: str) -> str:
    """What an attacker knows of the defense, in a cell."""
    return TITLES.get(kind, kind)


def restorer(name: str) -> str:
    """Of `package.module:attribute` the attribute; the whole name is under "Run it again"."""
    return name.rpartition(":")[2]


def degradation(name: str) -> str:
    """What was done to the light, or to the image, before it is restored."""
    return DEGRADATIONS.get(name, name)


def norm(name: str | None) -> str | None:
    return None if name is None else NORMS.get(name, name)


def budget(found: Budget) -> str:
    """What an attacker may do."""
    return f"{norm(found.norm)}, ε = {found.eps:g}/255"
