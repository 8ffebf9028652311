"""Samples: independent of batches, kept over a kill, on the grid of a 16-bit file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from udc_defense.certification.noise import Gaussian
from udc_defense.certification.sampling import LEVELS, draw, drawn, to_image
from udc_defense.errors import OutputError, SettingError

NOISE = Gaussian(0.1)
IMAGE = torch.full((1, 3, 5, 4), 0.5)


class Cut(nn.Module):
    """The identity, until it fails."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, image: Tensor) -> Tensor:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return image


def test_samples_do_not_depend_on_the_batch() -> None:
    one = drawn(nn.Identity(), IMAGE, NOISE, samples=10, seed=3, batch=1)
    assert np.array_equal(one, drawn(nn.Identity(), IMAGE, NOISE, samples=10, seed=3, batch=4))
    assert not np.array_equal(one, drawn(nn.Identity(), IMAGE, NOISE, samples=10, seed=4))
    assert len({row.tobytes() for row in one}) == 10


def test_outputs_are_clamped_and_rounded_as_a_16_bit_file_is() -> None:
    values = drawn(nn.Identity(), torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1), Gaussian(1e-9), samples=1)
    assert values.ravel().tolist() == [0, 32768, LEVELS]
    wide = to_image(drawn(nn.Identity(), IMAGE, Gaussian(5), samples=20))
    assert wide.min() == 0 and wide.max() == 1


@pytest.mark.parametrize("torn", [0, 7])
def test_a_killed_run_goes_on_and_gives_the_same(tmp_path: Path, torn: int) -> None:
    file = tmp_path / "deep" / "samples.u16"
    with pytest.raises(KeyboardInterrupt):
        list(draw(Cut(2), IMAGE, NOISE, samples=10, batch=4, file=file))
    if torn:
        with open(file, "r+b") as kept:
            kept.truncate(file.stat().st_size - torn)
    *_, last = draw(model := Cut(3), IMAGE, NOISE, samples=10, batch=4, file=file)
    assert last.values is not None
    assert np.array_equal(last.values, drawn(nn.Identity(), IMAGE, NOISE, samples=10, batch=4))
    assert model.calls == (1 if torn else 2)
    *_, again = draw(Cut(0), IMAGE, NOISE, samples=10, batch=4, file=file)
    assert again.values is not None and np.array_equal(again.values, last.values)


def test_closing_stops_and_gradients_stay_on_outside() -> None:
    steps = draw(Cut(2), IMAGE, NOISE, samples=100, batch=4)
    assert next(steps).done == 4
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    steps.close()


def test_what_cannot_be_certified_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="0 samples"):
        drawn(nn.Identity(), IMAGE, NOISE, samples=0)
    with pytest.raises(SettingError, match="not finite"):
        drawn(nn.Identity(), IMAGE * torch.nan, NOISE, samples=1)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        list(draw(nn.Identity(), IMAGE, NOISE, samples=1, file=tmp_path / "file" / "samples"))
