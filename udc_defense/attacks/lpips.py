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
from torch import Tensor, nn
from torch.nn import functional as F

from udc_defense.errors import CheckpointError, SettingError
from udc_defense.vgg import load_vgg

# torchvision's weights, whose classifier is not read. The revision is a branch, not a commit.
BACKBONE = "timm/vgg16.tv_in1k@3394518cba29aee1ea82a49d971be90d2dd1dab7"
HEADS_FILE = "functional/image/lpips_models/vgg.pth"

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
TAPS = (3, 8, 15, 22, 29)  # relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3
SMALLEST_SIDE = 16  # four poolings
# The published normalisation of values in [-1, 1]: ImageNet's mean and standard deviation, rounded.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


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
    backbone = load_vgg(BACKBONE, "lpips", BLOCKS, TAPS).to(device, dtype)
    return Lpips(backbone, [head.to(device, dtype) for head in heads])


def _heads() -> list[Tensor]:
    package = importlib.util.find_spec("torchmetrics")
    if package is None or package.origin is None:
        raise SettingError('lpips needs torchmetrics; install it with pip install "udc-defense[metrics]".')
    path = Path(package.origin).parent / HEADS_FILE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # saved on a GPU
        return [state[f"lin{layer}.model.1.weight"].reshape(width) for layer, (width, _) in enumerate(BLOCKS)]
    except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: not the LPIPS heads that torchmetrics bundles.") from error
