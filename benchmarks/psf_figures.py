"""Our `axon20` PSF beside the published figures of the phone's: python benchmarks/psf_figures.py"""

from __future__ import annotations

import numpy as np

from udc_defense.optics import PANELS
from udc_defense.panel_file import panel_psf

ENERGY_RADII = (0.5, 3.5, 5, 7, 10, 15, 20, 25, 30, 40, 60, 100)
ENERGY = {
    "R": (0.607, 0.609, 0.622, 0.638, 0.660, 0.711, 0.794, 0.833, 0.865, 0.900, 0.947, 0.983),
    "G": (0.638, 0.642, 0.656, 0.672, 0.692, 0.739, 0.803, 0.837, 0.863, 0.898, 0.947, 0.984),
    "B": (0.593, 0.597, 0.610, 0.625, 0.650, 0.731, 0.816, 0.855, 0.882, 0.917, 0.957, 0.986),
}
PROFILE_RADII = (4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 40, 50, 60, 80, 100)
PROFILE = (-3.5, -3.6, -3.8, -4.0, -3.9, -3.7, -3.7, -3.9, -4.1, -4.3, -4.5, -4.7, -4.9, -5.2, -5.4, -5.8, -6.2)


def radii(size: int) -> np.ndarray:
    axis = np.arange(size) - size // 2
    return np.hypot(*np.meshgrid(axis, axis))


def energy_within(psf: np.ndarray, radius: float) -> float:
    return float(psf[radii(psf.shape[-1]) <= radius].sum() / psf.sum())


def radial_mean(psf: np.ndarray, radius: float) -> float:
    ring = np.abs(radii(psf.shape[-1]) - radius) <= 0.5
    return float(np.log10(psf[ring].mean()))


def lobe_contrast(psf: np.ndarray, inner: float, outer: float) -> float:
    """Brightest to median of the angular profile of a ring, in sectors of 10°."""
    size = psf.shape[-1]
    axis = np.arange(size) - size // 2
    x, y = np.meshgrid(axis, axis)
    ring = (radii(size) >= inner) & (radii(size) <= outer)
    sector = ((np.degrees(np.arctan2(y, x)) % 360) // 10).astype(int)
    means = [psf[ring & (sector == index)].mean() for index in range(36)]
    return float(np.max(means) / np.median(means))


def main() -> None:
    psf = panel_psf("axon20").numpy()
    print("energy within r   " + "".join(f"{radius:>7}" for radius in ENERGY_RADII))
    for channel, name in enumerate("RGB"):
        print(f"{name} published       " + "".join(f"{value:7.3f}" for value in ENERGY[name]))
        print(f"{name} ours            " + "".join(f"{energy_within(psf[channel], r):7.3f}" for r in ENERGY_RADII))
    print("\nlog10 radial mean " + "".join(f"{radius:>6}" for radius in PROFILE_RADII))
    print("published         " + "".join(f"{value:6.1f}" for value in PROFILE))
    print("ours              " + "".join(f"{radial_mean(psf.mean(0), r):6.1f}" for r in PROFILE_RADII))
    print("\nlobe contrast (max/median over angle)   r 14-18    r 24-32    r 38-42")
    print("published                                  4.0        6.0          -")
    rings = ((14, 18), (24, 32), (38, 42))
    print("ours                                  " + "".join(f"{lobe_contrast(psf.mean(0), *r):10.1f}" for r in rings))
    for name in PANELS:
        total = panel_psf(name).sum((-2, -1)).tolist()
        print(f"{name}: sums {[round(value, 6) for value in total]}, core pixel {panel_psf(name).amax().item():.3f}")


if __name__ == "__main__":
    main()
