"""LPIPS against the formula in numpy, and where its weights come from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor, nn
from toy_models import inside, noise

from udc_defense import attacks
from udc_defense.attacks.lpips import BACKBONE, BLOCKS, HEADS_FILE, TAPS, Lpips, load_lpips
from udc_defense.attacks.objectives import parse_objective
from udc_defense.errors import CheckpointError, SettingError, UDCDefenseError
from udc_defense.noise import seeded
from udc_defense.vgg import Vgg

# Of the 13 convolutions in torchvision's numbering, and of the 5 layers that are compared.
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
COMPARED = (2, 7, 14, 21, 28)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Random weights that keep the magnitude from layer to layer."""
    widths = [3] + [width for width, depth in BLOCKS for _ in range(depth)]
    values = {}
    for index, number in enumerate(CONVOLUTIONS):
        shape = (widths[index + 1], widths[index], 3, 3)
        weight = torch.randn(shape, generator=seeded(index)) * (2 / (9 * widths[index])) ** 0.5
        values[f"features.{number}.weight"] = weight
        values[f"features.{number}.bias"] = 0.1 * torch.randn(shape[0], generator=seeded(100 + index))
    return values


@pytest.fixture(scope="module")
def heads() -> list[Tensor]:
    return [torch.rand(width, generator=seeded(width + layer)) for layer, (width, _) in enumerate(BLOCKS)]


@pytest.fixture(scope="module")
def lpips(state: dict[str, Tensor], heads: list[Tensor]) -> Lpips:
    with torch.device("meta"):
        network = Vgg(BLOCKS, TAPS)
    network.load_state_dict(state, assign=True)
    return Lpips(network.double().requires_grad_(False), [head.double() for head in heads])


def by_numpy(output: Tensor, reference: Tensor, state: dict[str, Tensor], heads: list[Tensor]) -> float:
    """arXiv 1801.03924, eq. 1, for one pair (3, H, W)."""
    total = 0.0
    for a, b, head in zip(features(output, state), features(reference, state), heads, strict=True):
        a, b = (x / (np.sqrt((x**2).sum(axis=0)) + 1e-10) for x in (a, b))
        total += np.tensordot(head.double().numpy(), (a - b) ** 2, axes=1).mean()
    return total


def features(image: Tensor, state: dict[str, Tensor]) -> Iterator[np.ndarray]:
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    x = ((2 * image.numpy() - 1) - shift[:, None, None]) / scale[:, None, None]
    for number in CONVOLUTIONS:
        if number in (5, 10, 17, 24):
            rows, columns = x.shape[1] // 2, x.shape[2] // 2
            x = x[:, : 2 * rows, : 2 * columns].reshape(-1, rows, 2, columns, 2).max(axis=(2, 4))
        weight, bias = (state[f"features.{number}.{part}"].double().numpy() for part in ("weight", "bias"))
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), axis=(1, 2))
        x = np.maximum(np.einsum("oikl,ihwkl->ohw", weight, windows, optimize=True) + bias[:, None, None], 0)
        if number in COMPARED:
            yield x


class TestFormula:
    def test_it_is_that_of_the_paper(self, lpips: Lpips, state: dict[str, Tensor], heads: list[Tensor]) -> None:
        output, reference = inside(2, 3, 21, 34), inside(2, 3, 21, 34, seed=1)
        expected = [by_numpy(a, b, state, heads) for a, b in zip(output, reference, strict=True)]
        assert lpips(output, reference).tolist() == pytest.approx(expected, rel=1e-9)
        assert lpips(output[1:], reference[1:]).item() == pytest.approx(expected[1], rel=1e-9)

    def test_equal_images(self, lpips: Lpips) -> None:
        image = inside(2, 3, 16, 16)
        assert lpips(image, image).tolist() == [0, 0]

    def test_the_gradient_is_the_finite_difference(self, lpips: Lpips) -> None:
        output, reference = inside(1, 3, 16, 17).requires_grad_(True), inside(1, 3, 16, 17, seed=1)
        assert torch.autograd.gradcheck(lambda x: lpips(x, reference), (output,), fast_mode=True)

    def test_features_of_zero_have_a_gradient_that_is_a_number(self) -> None:
        class Dead(nn.Module):
            def forward(self, x: Tensor) -> list[Tensor]:
                return [torch.relu(x - 100)]

        output = inside(1, 3, 16, 16).requires_grad_(True)
        value = Lpips(Dead(), [torch.ones(3).double()])(output, inside(1, 3, 16, 16, seed=1))
        (gradient,) = torch.autograd.grad(value.sum(), output)
        assert value.item() == 0 and gradient.isfinite().all()

    def test_an_attack_raises_it(self, lpips: Lpips) -> None:
        image = inside(1, 3, 16, 16)
        found = attacks.pgd(nn.Identity(), image, image, eps=0.02, steps=4, objective=lpips, generator=seeded(0))
        assert found.losses.max() > 2 * found.losses[0, 0] > 0

    @pytest.mark.parametrize("size", [(15, 16), (40, 7)])
    def test_a_side_that_is_too_short(self, size: tuple[int, int], lpips: Lpips) -> None:
        with pytest.raises(SettingError, match=rf"at least 16 pixels, not {size[1]}x{size[0]}\.$"):
            lpips(inside(1, 3, *size), inside(1, 3, *size))


@pytest.fixture
def hub(tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a download of the backbone gives."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    half = {key: value.half() for key, value in state.items()}
    save_file(half | {"head.fc.weight": torch.zeros(2, 2)}, folder / "model.safetensors")

    def download(repo: str, *, revision: str, **_: object) -> str:
        assert f"{repo}@{revision}" == BACKBONE
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    load_lpips.cache_clear()
    yield folder
    load_lpips.cache_clear()


@pytest.fixture
def torchmetrics(tmp_path: Path, heads: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name that holds heads; the path of their file."""
    package = tmp_path / "site" / "torchmetrics"
    path = package / HEADS_FILE
    path.parent.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('only looked into')\n")
    torch.save({f"lin{i}.model.1.weight": head.view(1, -1, 1, 1) for i, head in enumerate(heads)}, path)
    monkeypatch.delitem(sys.modules, "torchmetrics", raising=False)
    monkeypatch.syspath_prepend(package.parent)
    return path


def refusal(error: type[UDCDefenseError]) -> str:
    with pytest.raises(error) as caught:
        parse_objective("lpips", nn.Identity(), inside(1, 3, 16, 16).float())
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


@pytest.mark.usefixtures("hub", "torchmetrics")
class TestLoading:
    def test_the_weights_are_those_of_the_files(self, state: dict[str, Tensor], heads: list[Tensor]) -> None:
        output, reference = inside(1, 3, 16, 16).float(), inside(1, 3, 16, 16, seed=1).float()
        objective = parse_objective("lpips", nn.Identity(), output)
        rounded = {key: value.half() for key, value in state.items()}
        expected = by_numpy(output[0], reference[0], rounded, heads)
        assert objective(output, reference).item() == pytest.approx(expected, rel=1e-4)
        assert parse_objective("lpips", nn.Identity(), reference) is objective, "it is loaded once"

    def test_gradients_stay_out_of_the_weights(self) -> None:
        objective = load_lpips(torch.device("cpu"), torch.float64)
        x = inside(1, 3, 16, 16).requires_grad_(True)
        objective(x, 0 * x).sum().backward()
        assert x.grad is not None and x.grad.any()
        assert all(p.dtype == torch.float64 and p.grad is None for p in objective.backbone.parameters())

    def test_without_torchmetrics_nothing_is_downloaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchmetrics", None)  # type: ignore[arg-type]
        monkeypatch.delattr("huggingface_hub.snapshot_download")
        assert 'pip install "udc-defense[metrics]"' in refusal(SettingError)

    def test_a_hub_that_cannot_be_reached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def download(*_: object, **__: object) -> str:
            raise LocalEntryNotFoundError("offline")

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        assert refusal(CheckpointError).startswith(f"{BACKBONE}: not in the cache, and HF_HUB_OFFLINE ")

    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (lambda path: path.unlink(), "has no model.safetensors"),
            (lambda path: path.write_bytes(path.read_bytes()[:1000]), "cannot be read"),
            (lambda path: save_file({"features.0.weight": noise(64, 3, 3, 3)}, path), "not those of VGG16"),
        ],
    )
    def test_a_backbone_that_is_none(self, spoil: Callable[[Path], object], words: str, hub: Path) -> None:
        spoil(hub / "model.safetensors")
        assert words in refusal(CheckpointError)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda path: path.unlink(),
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(b"no weights"),
            lambda path: torch.save({"lin0.model.1.weight": torch.ones(1, 64, 1, 1)}, path),
            lambda path: torch.save({f"lin{i}.model.1.weight": torch.ones(1, 8, 1, 1) for i in range(5)}, path),
        ],
    )
    def test_heads_that_are_none(self, spoil: Callable[[Path], object], torchmetrics: Path) -> None:
        spoil(torchmetrics)
        assert "not the LPIPS heads" in refusal(CheckpointError)


def test_the_heads_of_torchmetrics_are_where_they_are_expected() -> None:
    pytest.importorskip("torchmetrics")
    from udc_defense.attacks.lpips import _heads

    found = _heads()
    assert [len(head) for head in found] == [width for width, _ in BLOCKS]
    assert all((head >= 0).all() and head.any() for head in found)
