"""Pairs that are off: by how much, to a fraction of a pixel, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from calibration.test_pairs import FACTS, PHONE, drawn_scene, write_pairs
from torch import Tensor

from udc_defense.calibration.pairs import calibrate_pairs
from udc_defense.calibration.registration import register
from udc_defense.errors import PanelError
from udc_defense.images import quantize
from udc_defense.imaging import capture, tone_map

MARGIN = 20


def cut(scene: Tensor, rows: float, columns: float) -> Tensor:
    """The inner part of a smooth scene, of which it shows what lies (rows, columns) further up and left."""
    height, width = scene.shape[-2:]
    y, x = torch.arange(MARGIN, height - MARGIN) - rows, torch.arange(MARGIN, width - MARGIN) - columns
    grid = torch.stack(
        torch.meshgrid(2 * (y + 0.5) / height - 1, 2 * (x + 0.5) / width - 1, indexing="ij")[::-1], dim=-1
    )
    return F.grid_sample(scene, grid[None], mode="bicubic", align_corners=False).clamp_min(0)


def soft_scene(seed: int, side: int) -> Tensor:
    return F.avg_pool2d(drawn_scene(seed, side).clamp_max(3), 5, 1, 2)


def shot(seed: int, rows: float, columns: float, side: int = 190) -> tuple[Tensor, Tensor]:
    """A capture, and a clean image that must move by (rows, columns) to lie on it."""
    scene = soft_scene(seed, side)
    inner = cut(scene, 0, 0)
    captured = capture(inner, PHONE, generator=torch.Generator().manual_seed(seed))
    return quantize(captured), quantize(tone_map(cut(scene, -rows, -columns)))


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -2.0), (-7.3, 11.8)])
@pytest.mark.parametrize("side", [190, 300])
def test_offset_is_found(shift: tuple[float, float], side: int) -> None:
    captured, clean = shot(1, *shift, side=side)
    rows, columns = register(captured[0], clean[0], "it")
    assert rows == pytest.approx(shift[0], abs=0.35) and columns == pytest.approx(shift[1], abs=0.35)


def test_moved_pairs_calibrate_as_well(tmp_path: Path) -> None:
    shifts = [(0.0, 0.0), (2.4, -1.3), (0.0, 0.0)]
    moved = write_pairs(tmp_path, [shot(seed, *shift) for seed, shift in enumerate(shifts)])
    found = calibrate_pairs(moved, **FACTS)
    assert found.predicted == pytest.approx(found.noise_alone, abs=0.7)
    assert "1 by +2.4" in " ".join(found.words) and "0 by" not in " ".join(found.words)


def test_too_far() -> None:
    with pytest.raises(PanelError, match=r"^it: capture and clean image are off by \+1[89]\.\d+ rows and .*columns"):
        register(*(image[0] for image in shot(1, 18.5, 0.0)), "it")


@pytest.mark.parametrize("change", ["turned", "scaled"])
def test_turned_or_scaled(change: str) -> None:
    captured, clean = shot(1, 0.0, 0.0, side=300)
    angle, scale = (torch.tensor(0.04), 1.0) if change == "turned" else (torch.tensor(0.0), 0.94)
    affine = torch.stack([angle.cos() * scale, -angle.sin(), angle * 0, angle.sin(), angle.cos() * scale, angle * 0])
    grid = F.affine_grid(affine.view(1, 2, 3), list(clean.shape), align_corners=False)
    other = F.grid_sample(clean, grid, padding_mode="reflection", align_corners=False)
    with pytest.raises(PanelError, match=r"^it: .* in a corner, so that it is turned, scaled"):
        register(captured[0], other[0], "it")


def test_flat_images() -> None:
    with pytest.raises(PanelError, match="do not show the same scene"):
        register(torch.zeros(3, 80, 80), torch.full((3, 80, 80), 0.5), "it")
