"""How well `calibrate` finds a display that was never drawn: python benchmarks/calibration.py SCENES [OUT.json]

Four 8-bit pairs of 800² are photographed through it, a fifth is predicted. Views into panoramas bring their real
surroundings; photos are mirrored beyond their edges. SCENES is the folder that the paths below start from.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from udc_defense.calibration.pairs import calibrate_pairs
from udc_defense.images import quantize, read_image, write_png
from udc_defense.imaging import capture, convolve, expose, inverse_tone_map, tone_map, without_margin
from udc_defense.optics import Panel
from udc_defense.scenes import centre_crop, perspective, read_pairs, read_panorama, scene_from_photo

SIDE, MARGIN = 800, 128
PHOTOS = ("budgie_1280/casa-mila.webp", "clic2025_half/11f2b039b293758398b1a7a8afa64bb2.webp")
VIEWS = (("hdr/dancing_hall_1k.hdr", 0), ("hdr/christmas_photo_studio_07_1k.hdr", 90))
FIFTH = "budgie_1280/tea-gardens.webp"
TILT = 0.3  # radians
WIENER = 0.003  # regularisation


def layout(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Turned rows of oblong pixels with wires between them: neither stripes, pentile nor discs."""
    u, v = np.cos(TILT) * x + np.sin(TILT) * y, np.cos(TILT) * y - np.sin(TILT) * x
    across, along = np.abs((u + 47.5) % 95 - 47.5), np.abs((v + 38) % 76 - 38)
    pixel = np.clip(np.minimum(31 - across, 24 - along) / 2.5 + 0.5, 0, 1)
    wire = np.clip((4 - np.abs((v + 20) % 76 - 38)) / 2.5 + 0.5, 0, 1)
    return 1 - np.maximum(pixel, wire)


HIDDEN = Panel("hidden", "", layout, (0.45, 0.48, 0.42), 5000.0)


def scenes(folder: Path) -> list[Tensor]:
    """The light of five scenes (1, 3, 1056, 1056); the last is the fifth pair's."""
    views = [
        expose(
            perspective(read_panorama(folder / path), yaw=yaw, pitch=0, fov=70, size=SIDE, margin=MARGIN), margin=MARGIN
        )
        for path, yaw in VIEWS
    ]
    first, second, fifth = (
        scene_from_photo(centre_crop(read_image(folder / path), SIDE, margin=MARGIN)) for path in (*PHOTOS, FIFTH)
    )
    return [first, *views, second, fifth]


def photographed(scene: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Capture and clean image, 8 bit."""
    captured = capture(scene, HIDDEN, margin=MARGIN, generator=torch.Generator().manual_seed(seed))
    return quantize(captured), quantize(tone_map(without_margin(scene, MARGIN)))


def decibels(first: Tensor, second: Tensor, where: Tensor) -> float:
    return round(-10 * float(torch.log10((first - second)[where].double().square().mean())), 2)


def wiener(captured: Tensor, psf: Tensor) -> Tensor:
    """Restore by the closed form, the capture mirrored beyond its edges; tone-mapped (1, 3, H, W)."""
    reach = psf.shape[-1] // 2
    light = torch.from_numpy(
        np.pad(inverse_tone_map(captured).numpy(), ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    )
    size = light.shape[-2:]
    wide = torch.nn.functional.pad(psf, (0, size[1] - psf.shape[-1], 0, size[0] - psf.shape[-2]))
    through = torch.fft.rfft2(wide.roll((-reach, -reach), (-2, -1)))
    inverse = through.conj() * (1 + WIENER) / (through.abs() ** 2 + WIENER)
    restored = torch.fft.irfft2(torch.fft.rfft2(light) * inverse, s=size)
    return tone_map(without_margin(restored, reach).clamp_min(0))


def main(folder: str, out: str | None = None) -> None:
    lit = scenes(Path(folder))
    shots = [photographed(scene, seed) for seed, scene in enumerate(lit)]
    with tempfile.TemporaryDirectory() as place:
        for index, images in enumerate(shots[:4]):
            for kind, image in zip(("captures", "clean"), images, strict=True):
                (Path(place) / kind).mkdir(exist_ok=True)
                write_png(image, Path(place) / kind / f"{index}.png")
        start, work = time.perf_counter(), time.process_time()
        found = calibrate_pairs(read_pairs(f"{place}/captures", f"{place}/clean"))
        seconds, work = time.perf_counter() - start, time.process_time() - work
    captured, clean = shots[4]
    noiseless = tone_map(convolve(lit[4], HIDDEN.psf, margin=MARGIN))
    limit = tone_map(torch.tensor(HIDDEN.saturation)).view(3, 1, 1) - 1.5 / 255
    below = (noiseless < limit) & (captured < limit)
    ours, theirs = (tone_map(convolve(inverse_tone_map(clean), psf)) for psf in (found.panel.psf, HIDDEN.psf))
    everywhere = torch.ones_like(below)
    measured = {
        "command": "python benchmarks/calibration.py SCENES",
        "pairs": f"4 pairs of {SIDE}², 8 bit, tone-mapped; the fifth is {FIFTH}",
        "noiseless_db": {
            "calibrated": decibels(ours, noiseless, below),
            "true_psf": decibels(theirs, noiseless, below),
        },
        "noisy_db": {"calibrated": decibels(ours, captured, below), "true_psf": decibels(theirs, captured, below)},
        "wiener_db": {
            "capture": decibels(captured, clean, everywhere),
            "calibrated": decibels(wiener(captured, found.panel.psf), clean, everywhere),
            "true_psf": decibels(wiener(captured, HIDDEN.psf), clean, everywhere),
        },
        "held_back_db": {"predicted": round(found.predicted, 2), "noise_alone": round(found.noise_alone, 2)},
        "electrons": {
            "calibrated": [round(e) for e in found.panel.electrons],
            "true": [round(e) for e in HIDDEN.electrons],
        },
        "saturation": {
            "calibrated": [round(s, 2) for s in found.panel.saturation],
            "true": [round(s, 2) for s in HIDDEN.saturation],
        },
        "seconds": round(seconds),
        "processor_seconds": round(work),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
    }
    text = json.dumps(measured, indent=1)
    print(text)
    if out:
        Path(out).write_text(text + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
