"""Exposures of one small light, merged to the PSF that made them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from udc_defense.calibration.encoding import linear_to_srgb
from udc_defense.calibration.point_light import calibrate_point_light
from udc_defense.errors import PanelError
from udc_defense.panel_file import panel_psf

REACH = 24


def truth() -> Tensor:
    """The middle of a built-in PSF, which spans five orders of magnitude."""
    psf = panel_psf("axon20")[:, 128 - REACH : 129 + REACH, 128 - REACH : 129 + REACH].double()
    return psf / psf.sum((-2, -1), keepdim=True)


def photo(exposure: float, seed: int) -> Tensor:
    """16-bit linear light of 120 x 100 pixels, the light at (50, 61), noisy, clipped at 1, with a grey background."""
    light = torch.zeros(3, 120, 100, dtype=torch.float64)
    light[:, 50 - REACH : 51 + REACH, 61 - REACH : 62 + REACH] = truth() * exposure
    noise = torch.randn(light.shape, generator=torch.Generator().manual_seed(seed)) * (light / 40_000 + 1e-8).sqrt()
    return ((light + noise + 0.01).clamp(0, 1) * 65535).round().float()[None] / 65535


@pytest.mark.parametrize("told", [True, False])
def test_exposures_are_merged(told: bool) -> None:
    times = [1.0, 30.0, 900.0]
    photos = [photo(time, seed) for seed, time in enumerate(times)]
    panel, words = calibrate_point_light(photos, "linear", exposures=times if told else None, reach=REACH)
    alone, _ = calibrate_point_light(photos[:1], "linear", reach=REACH)
    error, single = ((found.psf - truth()).abs().sum((-2, -1)).max() for found in (panel, alone))
    assert error < 0.03 and error < 0.5 * single
    assert "Merged from 3 photo(s)" in panel.source and words[0] in panel.source


def test_srgb() -> None:
    photos = [linear_to_srgb(photo(time, 0)) for time in (1.0, 30.0)]
    panel, _ = calibrate_point_light(photos, "srgb", reach=REACH)
    assert (panel.psf - truth()).abs().sum((-2, -1)).max() < 0.1


@pytest.mark.parametrize(
    ("photos", "exposures", "words"),
    [
        ([], None, "no photo"),
        ([torch.zeros(1, 3, 60, 60), torch.zeros(1, 3, 50, 60)], None, "differ in size"),
        ([photo(100.0, 0)], None, "clipped in every photo"),
        ([torch.zeros(1, 3, 60, 60)], None, "show no light"),
        ([photo(1.0, 0)], [1.0, 2.0], "2 exposures for 1 photos"),
        ([photo(1.0, 0)], [0.0], "1 exposures for 1 photos"),
        ([photo(1.0, 0), photo(1e7, 1)], None, "nothing in common"),
    ],
    ids=["none", "sizes", "clipped", "dark", "too many times", "no time", "far apart"],
)
def test_refused_in_a_sentence(photos: list[Tensor], exposures: list[float] | None, words: str) -> None:
    with pytest.raises(PanelError, match=words):
        calibrate_point_light(photos, "linear", exposures=exposures, reach=REACH)
