"""Displays that nobody built, and captures behind them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from udc_defense.images import write_png
from udc_defense.restorers.wiener_unet import WienerUNet
from udc_defense.training import display_captures, displays
from udc_defense.training.display_captures import DisplayCaptures, make_bank
from udc_defense.training.display_restorer import lights_error, train_display_restorer
from udc_defense.training.loop import TrainingSettings


@pytest.mark.parametrize("family", displays.MEASURED_LIKE)
def test_a_measured_like_psf_is_one_with_a_sharp_core(family: str) -> None:
    psf = displays.draw_psf(family, 1, radius=20)
    assert psf.shape == (3, 41, 41) and (psf >= 0).all()
    torch.testing.assert_close(psf.sum((-2, -1)), torch.ones(3))
    assert (psf[:, 18:23, 18:23].sum((-2, -1)) > 0.25).all()
    assert torch.equal(psf, displays.draw_psf(family, 1, radius=20))
    assert not torch.equal(psf, displays.draw_psf(family, 2, radius=20))


def draws(seed: int) -> displays.Draw:
    generator = torch.Generator().manual_seed(seed)
    return lambda low, high: low + (high - low) * float(torch.rand((), generator=generator))


def test_every_layout_opens_a_part_of_the_lens() -> None:
    axis = torch.arange(-200.0, 200.0, 2.5)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    for name, layout in displays.LAYOUTS.items():
        amplitude = layout(x, y, draws(3))
        assert 0.02 < amplitude.mean() < 0.98, name
        assert amplitude.min() >= 0 and amplitude.max() <= 1, name


def test_held_out_families_are_never_drawn() -> None:
    assert not set(displays.HELD_OUT) & set(displays.DRAWN)
    assert set(displays.HELD_OUT) | set(displays.DRAWN) == set(displays.FAMILIES)


@pytest.fixture
def captures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DisplayCaptures:
    monkeypatch.setattr(display_captures, "DRAWN", ("halo", "rosette"))
    write_png(torch.rand(1, 3, 500, 400, generator=torch.Generator().manual_seed(0)), tmp_path / "photo.png")
    make_bank(tmp_path / "bank.safetensors", per_family=1)
    assert set(load_file(tmp_path / "bank.safetensors")) == {"halo-0", "rosette-0"}
    return DisplayCaptures([tmp_path / "photo.png"], tmp_path / "bank.safetensors", sizes=(32,))


def test_a_batch_depends_on_its_seed_alone(captures: DisplayCaptures) -> None:
    first, again, other = captures(1, 2), captures(1, 2), captures(2, 2)
    assert first.captured.shape == first.clean.shape == (2, 3, 32, 32)
    assert first.captured.min() >= 0 and first.captured.max() < 1
    assert torch.equal(first.captured, again.captured) and not torch.equal(first.captured, other.captured)
    assert (first.unclipped > 0).all()


def test_training_leaves_a_network_that_loads(captures: DisplayCaptures, tmp_path: Path) -> None:
    def small() -> WienerUNet:
        return WienerUNet([4, 8, 8], [1, 1, 1], [1, 1], [4, 8], [1, 1], [1])

    settings = TrainingSettings(tmp_path / "run", steps=2, batch=1)
    losses = [step.loss for step in train_display_restorer(captures, settings, {}, small, batch=2)]
    assert len(losses) == 2
    trained = WienerUNet.from_pretrained(tmp_path / "run" / "restorer").float()
    assert not torch.equal(trained.strengths, small().strengths)


def test_lights_that_are_right_have_no_error(captures: DisplayCaptures) -> None:
    batch = captures(1, 2)
    bright = batch._replace(captured=torch.full_like(batch.captured, 0.9999), unclipped=batch.optics.saturation * 3.0)
    bright = bright._replace(unclipped=bright.unclipped.expand_as(batch.captured))
    true = torch.full((2, 3, 16, 16), 3.0).log()
    assert lights_error(bright, true) < 1e-5 < 0.5 < lights_error(bright, true * 0)
