"""Uformer: a U-Net of window-attention blocks (Wang et al., CVPR 2022, arXiv 2106.03106).

State-dict compatible with the checkpoints of https://github.com/ZhendongWang6/Uformer (MIT licence); written from a
description of the architecture, no code of that repository was used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from udc_defense.restorers import register
from udc_defense.restorers.base import Restorer

# The published sizes, as arguments of `Uformer`; B is its default.
SIZES: dict[str, dict[str, Any]] = {
    "T": {"embed_dim": 16, "depths": (2, 2, 2, 2, 2, 2, 2, 2, 2)},
    "S": {"embed_dim": 32, "depths": (2, 2, 2, 2, 2, 2, 2, 2, 2)},
    "B": {"embed_dim": 32, "depths": (1, 2, 8, 8, 2, 8, 8, 2, 1)},
}
LEVELS = 4
NEGLIGIBLE = -100.0  # added to the logit of a pair that must not see each other


class WindowAttention(nn.Module):
    """Attention among the tokens of a window, with a learned bias per head and relative position."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative_positions(window))
        self.qkv = nn.ModuleDict({"to_q": nn.Linear(width, width), "to_kv": nn.Linear(width, 2 * width)})
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (B, windows, w², D) to the same shape; `mask` (windows, 1, w², w²) is added to the logits."""
        query = self._split(self.qkv["to_q"](tokens))
        key, value = (self._split(part) for part in self.qkv["to_kv"](tokens).chunk(2, dim=-1))
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) + bias
        if mask is not None:
            logits = logits + mask
        mixed = logits.softmax(dim=-1) @ value
        return self.proj(mixed.transpose(-3, -2).flatten(-2))

    def _split(self, tokens: Tensor) -> Tensor:
        """(…, w², D) to (…, heads, w², D / heads)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class FeedForward(nn.Module):
    """Two linear layers with a depthwise convolution over the map in between; (B, H, W, D) to the same shape."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Sequential(nn.Linear(width, hidden), nn.GELU())
        self.dwconv = nn.Sequential(nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), nn.GELU())
        self.linear2 = nn.Sequential(nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.dwconv(self.linear1(x).permute(0, 3, 1, 2))
        return self.linear2(x.permute(0, 2, 3, 1))


class Block(nn.Module):
    """Window attention and feed-forward, each with a skip; (B, H, W, D) to the same shape.

    Args:
        width: D.
        heads: of the attention.
        window: side of a window.
        shift: what the windows are displaced by, down and right.
        hidden: width inside the feed-forward.
        modulated: whether a learned value per position in the window is added, as the decoder does.
    """

    def __init__(self, width: int, heads: int, window: int, shift: int, hidden: int, modulated: bool) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.modulator = nn.Embedding(window**2, width) if modulated else None
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
            mask = _wrap_mask(height, width, self.window, self.shift, x.device).to(x.dtype)
        tokens = _cut(x, self.window)
        if self.modulator is not None:
            tokens = tokens + self.modulator.weight
        x = _join(self.attn(tokens, mask), height, width, self.window)
        return x.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else x


class Stage(nn.Module):
    """Blocks at one scale, every second one shifted by half a window; (B, D, H, W) to the same shape."""

    def __init__(
        self, depth: int, width: int, heads: int, window: int, shift: int, hidden: int, modulated: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(Block(width, heads, window, shift * (index % 2), hidden, modulated) for index in range(depth))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@register("uformer")
class Uformer(Restorer):
    """U-Net of shifted-window attention; size B unless told otherwise, `SIZES` has the others.

    Its official domain is sRGB / 255 (denoising and deblurring; no weights for under-display cameras were published).
    Here it takes and gives tone-mapped values as they are.

    The official code needs square images, as it takes the square root of the number of tokens for the side. Windows do
    not, so any multiple of 16 windows will do here, padded by reflection where the official scripts centre the image in
    a black square. Drop-path, which regularises training only, is left out.

    No statistic is global. Tiles still differ a little from the whole image: their windows lie elsewhere, and a window
    of the coarsest scale spans 128 pixels.

    Args:
        img_size: nominal side of the image, no limit: scales at which it is at most one window do not shift theirs. The
            weights do not tell it. All official test scripts use 128; the deblurring network was trained with 256.
        embed_dim: width at the finest scale; it doubles with every scale.
        depths: blocks per stage: 4 of the encoder, 1 at the bottom, 4 of the decoder.
        num_heads: attention heads per stage.
        win_size: side of a window.
        mlp_ratio: width inside the feed-forward over that outside.
        shift_flag: whether every second block shifts its windows at all; the official switch, which leaves no trace in
            the weights either.
    """

    @register_to_config
    def __init__(
        self,
        img_size: int = 128,
        embed_dim: int = 32,
        depths: Sequence[int] = (1, 2, 8, 8, 2, 8, 8, 2, 1),
        num_heads: Sequence[int] = (1, 2, 4, 8, 16, 16, 8, 4, 2),
        win_size: int = 8,
        mlp_ratio: float = 4.0,
        shift_flag: bool = True,
    ) -> None:
        super().__init__()
        nominal = [img_size // 2**level for level in range(LEVELS + 1)]
        windows = [min(side, win_size) for side in nominal]
        shifts = [win_size // 2 if shift_flag and side > win_size else 0 for side in nominal]
        self.multiple = math.lcm(*(2**level * window for level, window in enumerate(windows)))

        def stage(index: int, level: int, width: int, modulated: bool = False) -> Stage:
            hidden = int(width * mlp_ratio)
            return Stage(
                depths[index], width, num_heads[index], windows[level], shifts[level], hidden, modulated=modulated
            )

        self.input_proj = nn.ModuleDict(
            {"proj": nn.Sequential(nn.Conv2d(3, embed_dim, 3, padding=1), nn.LeakyReLU(0.01))}
        )
        for level in range(LEVELS):
            width = embed_dim * 2**level
            down = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
            self.add_module(f"encoderlayer_{level}", stage(level, level, width))
            # Spelt so in the checkpoints.
            self.add_module(f"dowsample_{level}", nn.ModuleDict({"conv": nn.Sequential(down)}))
        self.conv = stage(LEVELS, LEVELS, embed_dim * 2**LEVELS)
        below = embed_dim * 2**LEVELS
        for index in range(LEVELS):
            level = LEVELS - 1 - index
            width = embed_dim * 2**level
            up = nn.ConvTranspose2d(below, width, 2, stride=2)
            self.add_module(f"upsample_{index}", nn.ModuleDict({"deconv": nn.Sequential(up)}))
            # The skip, as wide as what comes from below, doubles the width.
            below = 2 * width
            self.add_module(f"decoderlayer_{index}", stage(LEVELS + 1 + index, level, below, modulated=True))
        self.output_proj = nn.ModuleDict({"proj": nn.Sequential(nn.Conv2d(below, 3, 3, padding=1))})

    def network_forward(self, image: Tensor) -> Tensor:
        x = self.input_proj["proj"](image)
        skips = []
        for level in range(LEVELS):
            x = getattr(self, f"encoderlayer_{level}")(x)
            skips.append(x)
            x = getattr(self, f"dowsample_{level}")["conv"](x)
        x = self.conv(x)
        for index in range(LEVELS):
            x = getattr(self, f"upsample_{index}")["deconv"](x)
            x = getattr(self, f"decoderlayer_{index}")(torch.cat((x, skips.pop()), dim=1))
        return image + self.output_proj["proj"](x)


def _cut(x: Tensor, window: int) -> Tensor:
    """Map (B, H, W, D) to the tokens of its windows (B, windows, w², D), all row by row."""
    rows = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return rows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _join(tokens: Tensor, height: int, width: int, window: int) -> Tensor:
    """The inverse of `_cut`."""
    grid = tokens.unflatten(2, (window, window)).unflatten(1, (height // window, width // window))
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _relative_positions(window: int) -> Tensor:
    """Row of the bias table for every query and key: (w², w²), int64."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    position = torch.stack((y, x)).flatten(1)
    dy, dx = position[:, :, None] - position[:, None, :] + window - 1
    return dy * (2 * window - 1) + dx


def _wrap_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Keeps apart what the roll has brought together from opposite borders: (windows, 1, w², w²)."""
    rows, columns = (
        (index >= side - window).long() + (index >= side - shift).long()
        for side, index in ((side, torch.arange(side, device=device)) for side in (height, width))
    )
    regions = _cut((3 * rows[:, None] + columns)[None, :, :, None], window)[0]
    return NEGLIGIBLE * (regions[:, None] != regions[:, None].transpose(-2, -1))
