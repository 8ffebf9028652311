"""Where networks run, and that they can run where there is no float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from udc_defense.checkpoints.files import embedded_names
from udc_defense.checkpoints.load import load_purifier, load_restorer
from udc_defense.device import best_device


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_best_device_that_is_there(cuda: bool, mps: bool, best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == best


def test_no_network_holds_float64() -> None:
    """Apple's GPUs have none: moving such a network there fails."""
    networks: list[nn.Module] = [load_restorer(name) for name in embedded_names("restorer")]
    networks += [load_purifier(name, noise_level=5) for name in embedded_names("purifier")]
    for network in networks:
        assert torch.float64 not in {tensor.dtype for tensor in (*network.parameters(), *network.buffers())}
