"""Reference data of published restorers: keys and shapes of the official weights, and a small network's output.

`tests/fixtures/restorers/NAME` holds `manifest.json` (the published configuration), `fixture.json` and
`fixture.safetensors` (a small one with random weights, run in the official code).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from udc_defense.restorers import Restorer

FOLDER = Path(__file__).parents[1] / "fixtures" / "restorers"

R = TypeVar("R", bound=Restorer)


@dataclass(frozen=True)
class Reference:
    """What is known of one network; `tensors` are inputs and outputs, `weights` the small network's."""

    manifest: dict[str, Any]
    fixture: dict[str, Any]
    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]

    def fill(self, network: R) -> R:
        """Give the small network the reference weights, strictly, and set it to evaluation."""
        network.load_state_dict(self.weights, strict=True)
        return network.eval().requires_grad_(False)

    def assert_close(self, actual: Tensor, expected: str) -> None:
        """Compare with a stored tensor within the fixture's own tolerance."""
        tolerance = self.fixture["tolerance"]
        torch.testing.assert_close(actual, self.tensors[expected], atol=tolerance["atol"], rtol=tolerance["rtol"])

    def assert_published(self, build: Callable[[], Restorer]) -> None:
        """Compare a network of the published configuration key by key, without memory for its weights."""
        with torch.device("meta"):
            network = build()
        shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
        assert shapes == self.manifest["state_dict"]
        assert sum(parameter.numel() for parameter in network.parameters()) == self.manifest["parameters"]


def reference(name: str) -> Reference:
    """Read the folder of one network."""
    folder = FOLDER / name
    stored = load_file(folder / "fixture.safetensors")
    weights = {key.removeprefix("weights/"): value for key, value in stored.items() if key.startswith("weights/")}
    tensors = {key: value for key, value in stored.items() if not key.startswith("weights/")}
    return Reference(_json(folder / "manifest.json"), _json(folder / "fixture.json"), weights, tensors)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
