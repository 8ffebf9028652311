"""A drawn cell, tiled and diffracted, against the same layout as a formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from udc_defense.errors import PanelError
from udc_defense.layout_picture import CellLayout, psf_of_picture
from udc_defense.optics import PANELS, compute_psf

REACH = 20


def stripes(width: int) -> Tensor:
    """One period of the T-OLED, 168 µm, in so many samples; rows are alike, so that few of them do."""
    x = (np.arange(width) + 0.5) / width * 168
    layout = PANELS["toled"].layout
    assert layout is not None
    cell = torch.from_numpy(layout(x[None], np.zeros((1, width)))).float()
    return cell.expand(1, 3, 4, width)


@pytest.mark.parametrize("width", [168, 600])
def test_picture_of_stripes_is_the_toled(width: int) -> None:
    psf, share = psf_of_picture(stripes(width), pitch=168.0, reach=REACH)
    layout = PANELS["toled"].layout
    assert layout is not None
    expected = compute_psf(layout, radius=REACH)
    assert (psf - expected).abs().sum((-2, -1)).max() < 0.03
    assert share == pytest.approx(0.21, abs=0.01)
    torch.testing.assert_close(psf.sum((-2, -1)), torch.ones(3), atol=1e-5, rtol=0)


def test_orders_lie_where_the_grating_puts_them() -> None:
    """λf/pitch: half the pitch, twice as far; twice the focal length too; a larger pixel, nearer."""

    def first_order(**changes: float) -> int:
        numbers = {"pitch": 84.0, "focal_length": 4.0, "f_number": 4.0, "pixel": 2.0} | changes
        cell = torch.zeros(1, 3, 4, 84)
        cell[..., :30] = 1
        psf, _ = psf_of_picture(cell, reach=60, wavelengths=[600, 600, 600], **numbers)
        return int(psf[0, 60, 66:].argmax()) + 6

    assert first_order() == pytest.approx(0.6 * 4000 / 84 / 2, abs=1)
    assert first_order(pitch=42.0) == pytest.approx(0.6 * 4000 / 42 / 2, abs=1)
    assert first_order(focal_length=8.0, f_number=8.0) == pytest.approx(0.6 * 8000 / 84 / 2, abs=1)
    assert first_order(pixel=1.0) == pytest.approx(0.6 * 4000 / 84, abs=1)


def test_open_cell_is_the_lens_alone() -> None:
    psf, share = psf_of_picture(torch.ones(1, 3, 1, 1), pitch=100.0, reach=8)
    assert share == 1 and psf[:, 8, 8].min() > 0.7


def test_cell_repeats() -> None:
    cell = CellLayout(np.random.default_rng(0).random((5, 7)), 70.0)
    x, y = np.random.default_rng(1).random((2, 50)) * 300 - 150
    np.testing.assert_allclose(cell(x, y), cell(x + 70, y - 100), atol=1e-9)
    np.testing.assert_allclose(cell(np.array([5.0]), np.array([15.0])), cell.cell[1, 0])  # the middle of a sample


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pitch": 0.0}, "pitch of the cell of 0 µm is not in 5…5000"),
        ({"pitch": float("nan")}, "pitch of the cell of nan"),
        ({"focal_length": 0.0}, "focal length of 0 mm"),
        ({"f_number": 0.0}, "f-number of 0 is not in"),
        ({"pixel": 100.0}, "pixel of the sensor of 100 µm"),
        ({"wavelengths": [600, 0.5, 400]}, "wavelength of 0.5 nm is not in 380…780"),
        ({"focal_length": 40.0, "f_number": 1.0}, "diameter of the lens of 40 mm"),
        ({"reach": 500}, "PSF of 1001² pixels"),
    ],
)
def test_numbers_out_of_range(changes: dict[str, float], words: str) -> None:
    with pytest.raises(PanelError, match=words):
        psf_of_picture(torch.ones(1, 3, 2, 2), **({"pitch": 100.0} | changes))  # type: ignore[arg-type]


def test_black_cell() -> None:
    with pytest.raises(PanelError, match="no light passes"):
        psf_of_picture(torch.zeros(1, 3, 2, 2), pitch=100.0)
