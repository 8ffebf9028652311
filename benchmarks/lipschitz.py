"""Clean against certified against attacked: python benchmarks/lipschitz.py SCENES SPLIT OUT.json RESTORER...

On the 128² centres of the adaptive crops of a split (`val` to choose, `heldout` once). RESTORERs have a bounded gain;
beside them stands the best that is linear: a 33×33 filter of all colours, fitted on the val crops in closed form, whose
singular values are clipped at L. Attacks are PGD and Auto-PGD in ℓ2 with a root mean square of ε, on the restorer's own
error. The table is printed, and kept with its rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from udc_defense.attacks import ATTACKS
from udc_defense.checkpoints.load import load_restorer, weights_sum
from udc_defense.evaluation.jobs import CENTRE
from udc_defense.evaluation.rows import CERTIFIED
from udc_defense.images import write_file
from udc_defense.metrics import certified_psnr, psnr
from udc_defense.noise import seeded
from udc_defense.photo.settings import Settings
from udc_defense.photo.stages import simulate
from udc_defense.provenance import versions
from udc_defense.scenes import CROP_SIZE, clean_image, read_crops

SIDE = 33  # of the linear filter
GAINS = (1.0, 1.25, 1.5, 2.0)
STEPS = 20
ATTACKED = (4.0,)  # in 1/255
Pairs = list[tuple[str, Tensor, Tensor]]  # name, capture, clean image


class LinearFilter(nn.Module):
    """A filter of gain at most L, by FFT on a torus: exact at the one size that it was made for.

    Args:
        spectrum: of any filter, (N, N, 3, 3).
        gain: L, at which its singular values are clipped.
    """

    def __init__(self, spectrum: Tensor, gain: float) -> None:
        super().__init__()
        left, values, right = torch.linalg.svd(spectrum)
        self.spectrum = left @ (values.clamp_max(gain).unsqueeze(-1) * right)
        self.lipschitz_bound = gain

    def forward(self, image: Tensor) -> Tensor:
        filtered = torch.einsum("hwij,bjhw->bihw", self.spectrum, torch.fft.fft2(image.double()))
        return torch.fft.ifft2(filtered).real.to(image)


def fit(pairs: Pairs) -> Tensor:
    """The spectrum (N, N, 3, 3) of the SIDE × SIDE filter that is best for captures and clean images on a torus."""
    captured, clean = (torch.fft.fft2(torch.cat([pair[i] for pair in pairs]).double()) for i in (1, 2))
    power, cross = (
        torch.fft.ifft2(torch.einsum("bihw,bjhw->ijhw", one, captured.conj())).real for one in (captured, clean)
    )
    axis = torch.arange(SIDE) - SIDE // 2
    y, x = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    # Σ_jt w_ij(t) power_jk(s - t) = cross_ik(s) for all colours k and shifts s within the filter; it is symmetric.
    matrix = power[:, :, y[:, None] - y, x[:, None] - x].permute(0, 3, 1, 2).reshape(3 * SIDE**2, 3 * SIDE**2)
    matrix += 1e-4 * matrix.diagonal().mean() * torch.eye(len(matrix))
    kernel = torch.zeros_like(power)
    kernel[:, :, y, x] = torch.linalg.solve(matrix, cross[:, :, y, x].reshape(3, -1).T).T.reshape(3, 3, SIDE**2)
    return torch.fft.fft2(kernel).permute(2, 3, 0, 1)


def captures(scenes: Path, split: str, *, adaptive: bool = True) -> Pairs:
    """The middle of the crops' scenes, captured."""
    margin, pairs = (CROP_SIZE - CENTRE) // 2, []
    for crop in read_crops(scenes / "crops.csv", split):
        if crop.adaptive or not adaptive:
            scene = crop.scene(scenes)[..., margin:-margin, margin:-margin]
            pairs.append((crop.name, simulate(scene, Settings(), crop.name), clean_image(scene)))
    return pairs


def rows(name: str, model: Any, pairs: Pairs, attacked_at: tuple[float, ...]) -> Iterator[dict[str, Any]]:
    """What is certified of each capture, and what attacks leave of it."""
    for image, captured, clean in pairs:
        with torch.no_grad():
            output = model(captured)
        level = float(psnr(output, clean))
        row: dict[str, Any] = {"system": name, "image": image, "gain": model.lipschitz_bound, "clean": level}
        row["captured"] = float(psnr(captured, clean))
        row["certified"] = {f"{eps:g}": certified_psnr(level, model.lipschitz_bound, eps / 255) for eps in CERTIFIED}
        for eps in attacked_at:
            for attack in ("pgd", "apgd"):
                left, gain = attacked(model, captured, clean, output, attack, eps / 255)
                row.setdefault("attacked", {})[f"{attack} {eps:g}"] = left
                row.setdefault("measured_gain", {})[f"{attack} {eps:g}"] = gain
        yield row


def attacked(
    model: nn.Module, captured: Tensor, clean: Tensor, output: Tensor, attack: str, eps: float
) -> tuple[float, float]:
    """PSNR under an attack, and by how much it moved the output for what it changed of the capture."""
    options = {"eps": eps, "steps": STEPS, "norm": "l2", "generator": seeded(0)}
    found = ATTACKS.get(attack)(model, captured, clean, **options).image
    with torch.no_grad():
        moved = model(found)
    return float(psnr(moved, clean)), float((moved - output).norm() / (found - captured).norm())


def table(found: list[dict[str, Any]]) -> str:
    """Means over crops, and the largest gain that an attack has found."""
    lines = ["| system | gain at most | found | clean | " + " | ".join(f"certified ε = {e:g}" for e in CERTIFIED)]
    lines[0] += " | attacked ε = 4 |"
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    for name in dict.fromkeys(row["system"] for row in found):
        here = [row for row in found if row["system"] == name]
        floors = [fmean(row["certified"][f"{eps:g}"] for row in here) for eps in CERTIFIED]
        gains = [gain for row in here for gain in row.get("measured_gain", {}).values()]
        left = [min(row["attacked"][f"{attack} 4"] for attack in ("pgd", "apgd")) for row in here if "attacked" in row]
        cells = [
            f"{here[0]['gain']:.3f}",
            f"{max(gains):.3f}" if gains else "",
            f"{fmean(r['clean'] for r in here):.2f}",
        ]
        cells += [f"{floor:.2f}" for floor in floors] + [f"{fmean(left):.2f}" if left else ""]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(scenes: Path, split: str, out: Path, names: list[str]) -> None:
    pairs, spectrum = captures(scenes, split), fit(captures(scenes, "val", adaptive=False))
    systems: dict[str, Any] = {Path(name).name: load_restorer(name) for name in names}
    systems |= {f"linear filter, L = {gain:g}": LinearFilter(spectrum, gain) for gain in GAINS}
    found = []
    for name, model in systems.items():
        found += rows(name, model, pairs, ATTACKED)
        print(table(found[-len(pairs) :]).splitlines()[-1], flush=True)
    print(table(found))
    head = {
        "command": "python "
        + " ".join(["benchmarks/lipschitz.py", "SCENES", split, out.name, *(Path(name).name for name in names)])
    }
    head |= {"checkpoints": {Path(name).name: weights_sum(name, "restorer") for name in names}, "versions": versions()}
    write_file(
        out, (json.dumps(head | {"split": split, "table": table(found), "rows": found}, indent=1) + "\n").encode()
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
