"""`module:attribute` restorers: the sum that names them in a report, and where the command line finds them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from udc_defense import cli
from udc_defense.checkpoints.foreign import imported_sum
from udc_defense.checkpoints.load import checkpoint_sums, load_restorer, weights_sum
from udc_defense.errors import CheckpointError


class Scale(nn.Module):
    def __init__(self, start: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 1, 1), start))
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, image: Tensor) -> Tensor:
        return image * self.weight


class Wayward(nn.Module):
    """Another network every time it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(int.from_bytes(os.urandom(2)) / 2**16))

    def forward(self, image: Tensor) -> Tensor:
        return image * self.weight


one, same, other, coarse = Scale(), Scale(), Scale(0.75), Scale().half()
renamed = nn.Sequential(Scale())
reshaped = Scale()
reshaped.weight = nn.Parameter(torch.full((3, 1), 0.5))
HERE = __name__


def test_equal_weights_have_an_equal_sum_and_others_another() -> None:
    sums = {name: imported_sum(f"{HERE}:{name}") for name in ("one", "same", "other", "renamed", "reshaped")}
    assert sums["one"] == sums["same"] and len(sums["one"]) == 64
    assert len(set(sums.values())) == len(sums) - 1


def test_the_sum_is_of_the_network_in_use_and_leaves_it_alone() -> None:
    source = f"{HERE}:Wayward"
    loaded = load_restorer(source).double()
    before = imported_sum(source)
    assert load_restorer(source).network.weight == loaded.network.weight  # type: ignore[union-attr]
    assert before == imported_sum(source) == weights_sum(source, "restorer")
    loaded.double()
    imported_sum(source)
    assert loaded.network.weight.dtype == torch.float64  # type: ignore[union-attr]


def test_a_coarse_network_is_summed_as_it_is_loaded() -> None:
    before = imported_sum(f"{HERE}:coarse")
    load_restorer(f"{HERE}:coarse")
    assert imported_sum(f"{HERE}:coarse") == before == imported_sum(f"{HERE}:one")


def test_sums_of_a_report_name_it() -> None:
    assert checkpoint_sums(f"{HERE}:one") == {f"restorer {HERE}:one": imported_sum(f"{HERE}:one")}
    with pytest.raises(CheckpointError, match="cannot be imported"):
        checkpoint_sums("no.such:thing")


MODULE = """
import torch
network = torch.nn.Conv2d(3, 3, 1, bias=False)
with torch.no_grad():
    network.weight.copy_(torch.eye(3)[..., None, None])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, not on the path, as a console script starts."""
    (tmp_path / "my_module.py").write_text(MODULE)
    Image.new("RGB", (24, 24), "gray").save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return tmp_path


def test_a_module_of_the_current_folder_runs_to_the_end(folder: Path) -> None:
    options = ["--captured", "--attack", "none", "--defense", "none", "--device", "cpu", "--out", "out"]
    assert cli.main(["run", "photo.png", "--restorer", "my_module:network", *options]) == 0
    sums = json.loads((folder / "out" / "report.json").read_text())["checkpoints"]
    assert sums == {"restorer my_module:network": imported_sum("my_module:network")}
    assert sys.path.index(str(folder)) == len(sys.path) - 1  # hides nothing that is installed


def test_other_commands_leave_the_path_alone(folder: Path) -> None:
    cli.main(["restore", "photo.png", "--restorer", "nothing", "--out", "out"])
    assert str(folder) not in sys.path


def test_a_safe_path_stays_safe(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "flags", SimpleNamespace(safe_path=True, verbose=0))
    assert cli.main(["restore", "photo.png", "--restorer", "your_module:network", "--out", "out"]) == 2
    assert str(folder) not in sys.path
    assert "your_module:network: cannot be imported (ModuleNotFoundError: " in capsys.readouterr().err
