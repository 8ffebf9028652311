"""Models whose worst perturbation is known, and images for them; shared by the tests of attacks and threats."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from udc_defense.noise import seeded


class Linear(nn.Module):
    """y = A x over the flattened sample."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, image: Tensor) -> Tensor:
        return (image.flatten(1) @ self.matrix.T).view_as(image)


class Gain(nn.Module):
    """A gain per value, positive or negative."""

    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, image: Tensor) -> Tensor:
        return image * self.gain


class Counting(nn.Module):
    """Counts evaluations, and those that build a graph."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.graphs = model, 0, 0

    def forward(self, image: Tensor) -> Tensor:
        self.forwards += 1
        self.graphs += image.requires_grad
        return self.model(image)


class Scripted(nn.Module):
    """x plus a constant of each evaluation's own: its mean loss over draws is known."""

    def __init__(self, offsets: list[float]) -> None:
        super().__init__()
        self.offsets = iter(offsets)

    def forward(self, image: Tensor) -> Tensor:
        return image + next(self.offsets)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def inside(*shape: int, seed: int = 0) -> Tensor:
    """Values in [0.3, 0.7]: far from the box, so that the ball alone decides."""
    return 0.3 + 0.4 * torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


def anywhere(*shape: int, seed: int = 0) -> Tensor:
    """Values in [0, 1], some of them on the border of the box."""
    return (1.4 * torch.rand(*shape, generator=seeded(seed), dtype=torch.float64) - 0.2).clamp(0, 1)


def conv(seed: int = 0) -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1)).double()
    with torch.no_grad():
        for index, parameter in enumerate(net.parameters()):
            parameter.copy_(0.4 * noise(*parameter.shape, seed=seed * 100 + index))
    return net.requires_grad_(False)


def rms(delta: Tensor) -> Tensor:
    return delta.flatten(1).square().mean(dim=1).sqrt()
