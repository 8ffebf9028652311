"""The perceptual loss of the paper's fine-tuning (arXiv 2402.13629): VGG19's relu3_3 and relu4_2, no torchvision."""

from __future__ import annotations

import torch
from torch import Tensor

from udc_defense.vgg import Vgg, load_vgg

BACKBONE = "timm/vgg19.tv_in1k@128d4708565b3a414bcbb9bbad440b2fe37b9f18"  # torchvision's weights
BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
RELU3_3, RELU4_2 = 15, 22
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def vgg19() -> Vgg:
    """VGG19 up to relu4_2 with its published weights, frozen.

    Raises:
        CheckpointError: they cannot be had, or are not what they should be.
    """
    return load_vgg(BACKBONE, "perceptual", BLOCKS, (RELU3_3, RELU4_2))


def perceptual_distance(backbone: Vgg, output: Tensor, reference: Tensor) -> Tensor:
    """Mean squared difference of the features of images in [0, 1], summed over both layers, (B,)."""
    mean, std = (output.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        targets = backbone((reference - mean) / std)
    pairs = zip(backbone((output - mean) / std), targets, strict=True)
    return torch.stack([(a - b).square().flatten(1).mean(dim=1) for a, b in pairs]).sum(dim=0)
