"""Fit the layout of `axon20` to published figures by random search: python benchmarks/fit_axon20.py [TRIALS [SEED]]"""

from __future__ import annotations

import math
import sys

import numpy as np
from psf_figures import ENERGY, ENERGY_RADII, PROFILE, PROFILE_RADII, energy_within, radial_mean

from udc_defense.optics import AXON20, DiscLayout, compute_psf

# Position scatter washes the lobes out: more than this and no rosette is left.
MOST_SCATTER = 6.0


def layout(p: dict[str, float]) -> DiscLayout:
    grids = ((p["spacing1"], p["radius1"], 0.0), (p["spacing2"], p["radius2"], math.pi / 6))
    return DiscLayout(grids, min(p["occupancy"], 1.0), min(p["scatter"], MOST_SCATTER), p["radius_scatter"])


def mismatch(p: dict[str, float]) -> float:
    """Squared errors of energies (in 0.03) and of the radial profile (in 0.3), each averaged."""
    psf = compute_psf(layout(p)).numpy()
    energy = [
        (energy_within(psf[channel], radius) - value) / 0.03
        for channel, name in enumerate("RGB")
        for radius, value in zip(ENERGY_RADII[1:], ENERGY[name][1:], strict=True)
    ]
    profile = [
        (radial_mean(psf.mean(0), radius) - value) / 0.3
        for radius, value in zip(PROFILE_RADII, PROFILE, strict=True)
        if radius <= 60
    ]
    return float(np.mean(np.square(energy)) + np.mean(np.square(profile)))


def main(trials: int = 400, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    (spacing1, radius1, _), (spacing2, radius2, _) = AXON20.grids
    best = {
        "spacing1": spacing1,
        "spacing2": spacing2,
        "radius1": radius1,
        "radius2": radius2,
        "occupancy": AXON20.occupancy,
        "scatter": AXON20.position_scatter,
        "radius_scatter": AXON20.radius_scatter,
    }
    lowest, width = mismatch(best), 0.15
    print(f"start {lowest:.3f}")
    for trial in range(trials):
        near = {key: value * math.exp(random.normal() * width * (random.random() < 0.6)) for key, value in best.items()}
        value = mismatch(near)
        width = min(width * 1.3, 0.3) if value < lowest else max(width * 0.97, 0.01)
        if value < lowest:
            best, lowest = near, value
            print(f"{trial:4d} {lowest:.3f} " + " ".join(f"{key} {number:.3f}" for key, number in best.items()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
