"""Attacks that search in bfloat16 beside float32: python benchmarks/bfloat16_attacks.py

On the default defense and its exact gradient, on drawn scenes and bundled photos at 128²: what PGD-20 leaves, and how
large a perturbation C&W needs. What is found is judged in float32 both times.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from udc_defense import Defense, load_restorer
from udc_defense.photo import stages
from udc_defense.photo.settings import Settings
from udc_defense.precision import PRECISIONS
from udc_defense.purification import DEFAULT
from udc_defense.samples import scene_of, scene_titles

SIZE, PHOTOS = 128, 4
ATTACKS = {
    "PGD-20": Settings(attack="pgd", threat="exact"),
    "C&W": Settings(attack="cw", threat="exact", steps=20, options={"psnr": 15.0}),
}


def main() -> None:
    torch.set_num_threads(1)
    defense = Defense(load_restorer(), DEFAULT.load())
    print("photo              attack   left (dB)        δ RMS (1/255)    float32 / bfloat16 (s)")
    for title in scene_titles()[:PHOTOS]:
        for name, settings in ATTACKS.items():
            left, sizes, seconds = [], [], []
            for precision in PRECISIONS:
                steps = stages.run(defense, replace(settings, precision=precision), title, scene=scene_of(title, SIZE))
                start = time.perf_counter()
                row = stages.finish(steps).report()
                seconds.append(time.perf_counter() - start)
                left.append(row["psnr"]["defended_attacked"])
                sizes.append(row["search"]["delta_rms"])
            pairs = "   ".join(f"{one:6.2f} {other:6.2f}   " for one, other in (left, sizes))
            print(f"{title:18.18} {name:6}   {pairs}{seconds[0] / seconds[1]:.2f} x", flush=True)


if __name__ == "__main__":
    main()
