"""LPIPS (arXiv 1801.03924) on VGG16, differentiable, without torchvision.

The backbone comes from the Hub, the heads from the package torchmetrics, which bundles the published ones.
"""

from __future__ import annotations

import functools
import importlib.util
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from udc_defense import checkpoints
from udc_defense.errors import CheckpointError, SettingError

# torchvision's weights, whose classifier is not read. The revision is a branch, not a commit.
BACKBONE = "timm/vgg16.tv_in1k@3394518cba29aee1ea82a49d971be90d2dd1dab7"
BACKBONE_FILE = "model.safetensors"
HEADS_FILE = "functional/image/lpips_models/vgg.pth"

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = (2, 2, 3, 3, 3)
SMALLEST_SIDE = 16  # four poolings
# The published normalisation of values in [-1, 1]: ImageNet's mean and standard deviation, rounded.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Vgg16(nn.Module):
    """The 13 convolutions of VGG16 (arXiv 1409.1556), numbered as in torchvision."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps: list[int] = []
        for block, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
            if block > 0:
                layers.append(nn.MaxPool2d(2))
            for index in range(depth):
                before = width if index > 0 else (3, *WIDTHS)[block]
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
            self.taps.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) to relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3."""
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                found.append(x)
        return found


class Lpips:
    """Perceptual distance per sample, (B,), of images in [0, 1] with sides of at least 16 pixels.

    Args:
        backbone: normalised images -> features (B, C, h, w) of several layers.
        heads: weight per channel (C,) of each layer.
    """

    def __init__(self, backbone: nn.Module, heads: Sequence[Tensor]) -> None:
        self.backbone, self.heads = backbone, heads

    def __call__(self, output: Tensor, reference: Tensor) -> Tensor:
        if min(output.shape[-2:]) < SMALLEST_SIDE:
            width, height = output.shape[-1], output.shape[-2]
            raise SettingError(f"lpips needs sides of at least {SMALLEST_SIDE} pixels, not {width}x{height}.")
        # d = Σ_l mean_hw w_l · (ŷ_l - ŷ0_l)², eq. 1
        pairs = zip(self._features(output), self._features(reference), self.heads, strict=True)
        return torch.stack([torch.einsum("bchw,c->bhw", (a - b).square(), w).mean((1, 2)) for a, b, w in pairs]).sum(0)

    def _features(self, image: Tensor) -> list[Tensor]:
        shift, scale = (image.new_tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        features = self.backbone((2 * image - 1 - shift) / scale)
        # x / max(‖x‖, ε), not the published x / (‖x‖ + ε): the same number, and a gradient where ‖x‖ = 0.
        return [F.normalize(x, dim=1, eps=1e-10) for x in features]


@functools.cache  # a row of a run would otherwise ask the Hub again
def load_lpips(device: torch.device, dtype: torch.dtype) -> Lpips:
    """LPIPS with the published weights.

    Raises:
        SettingError: torchmetrics, which has the heads, is not installed.
        CheckpointError: backbone or heads cannot be had, or are not what they should be.
    """
    heads = _heads()  # first, for the backbone is a long download
    backbone = _backbone().to(device, dtype)
    return Lpips(backbone, [head.to(device, dtype) for head in heads])


def _heads() -> list[Tensor]:
    package = importlib.util.find_spec("torchmetrics")
    if package is None or package.origin is None:
        raise SettingError('lpips needs torchmetrics; install it with pip install "udc-defense[metrics]".')
    path = Path(package.origin).parent / HEADS_FILE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # saved on a GPU
        return [state[f"lin{layer}.model.1.weight"].reshape(width) for layer, width in enumerate(WIDTHS)]
    except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: not the LPIPS heads that torchmetrics bundles.") from error


def _backbone() -> Vgg16:
    path = checkpoints.resolve(BACKBONE, "lpips") / BACKBONE_FILE
    if not path.is_file():
        raise CheckpointError(f"{BACKBONE}: has no {BACKBONE_FILE}.")
    with torch.device("meta"):  # no values until they are read: a missing one could not pass for a random one
        network = Vgg16()
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys() if name.startswith("features.")}  # noqa: SIM118
        network.load_state_dict(state, strict=True, assign=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{BACKBONE}: its weights cannot be read ({error}).") from error
    except RuntimeError as error:
        raise CheckpointError(f"{BACKBONE}: its weights are not those of VGG16.") from error
    return network.eval().requires_grad_(False)
