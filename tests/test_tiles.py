"""Tiles against the whole image."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from udc_defense.checkpoints.load import load_purifier, load_restorer
from udc_defense.metrics import psnr
from udc_defense.noise import seeded
from udc_defense.tiles import apply_tiled

SIZES = [(64, 64), (65, 64), (70, 97), (131, 40), (20, 150), (33, 8), (200, 65)]
TILE, OVERLAP = 64, 24


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed))


def blur(radius: int) -> Callable[[Tensor], Tensor]:
    """A depthwise convolution of random positive weights; its border is continued by reflection, as networks pad."""
    kernel = picture(3, 1, 2 * radius + 1, 2 * radius + 1, seed=9)
    kernel = kernel / kernel.sum(dim=(-1, -2), keepdim=True)

    def function(image: Tensor) -> Tensor:
        return F.conv2d(F.pad(image, (radius,) * 4, mode="reflect"), kernel.to(image), groups=3)

    return function


@pytest.mark.parametrize("size", SIZES)
def test_equal_to_untiled_where_the_outer_overlap_covers_the_reach(size: tuple[int, int]) -> None:
    """A quarter of the overlap at each border counts for nothing: a reach of 6 pixels is not seen at all."""
    image, function = picture(2, 3, *size), blur(OVERLAP // 4)
    assert torch.allclose(apply_tiled(function, image, size=TILE, overlap=OVERLAP), function(image), atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_close_to_untiled_where_the_reach_is_longer(size: tuple[int, int]) -> None:
    image, function = picture(2, 3, *size), blur(min(OVERLAP // 2, *(side - 1 for side in size)))
    tiled = apply_tiled(function, image, size=TILE, overlap=OVERLAP)
    assert (psnr(tiled, function(image)) >= 45).all()


def test_a_border_that_is_spoilt_counts_for_nothing() -> None:
    """Even values that are not finite, or huge, in the outer quarter of the overlap of a tile's inner border."""
    image = picture(1, 3, 150, 64)

    def spoilt(tile: Tensor) -> Tensor:
        tile = tile.clone()
        tile[..., :6, :] = tile[..., -6:, :] = 1e9
        return tile

    tiled = apply_tiled(spoilt, image, size=TILE, overlap=OVERLAP)
    assert torch.allclose(tiled[..., 6:-6, :], image[..., 6:-6, :], atol=1e-6)


@pytest.mark.parametrize("overlap", [0, 1, 2, 3, 7, 24, 31])
@pytest.mark.parametrize("size", SIZES)
def test_weights_sum_to_one(size: tuple[int, int], overlap: int) -> None:
    image = picture(1, 3, *size)
    assert torch.allclose(apply_tiled(lambda tile: tile, image, size=TILE, overlap=overlap), image, atol=1e-6)


@pytest.mark.parametrize("stride", [4, 16, 24])
@pytest.mark.parametrize("size", SIZES)
def test_tiles_start_on_the_grid_of_the_network(size: tuple[int, int], stride: int) -> None:
    """A function of the place on a grid gives the same in tiles and whole; tiles that start anywhere would not."""
    image, seen = picture(1, 3, *size), []

    def function(tile: Tensor) -> Tensor:
        seen.append(tile.shape[-2:])
        rows, columns = (torch.arange(side) % stride for side in tile.shape[-2:])
        return tile + rows[:, None] + 10 * columns

    tiled = apply_tiled(function, image, size=TILE, overlap=OVERLAP, stride=stride)
    assert max(max(side) for side in seen) < TILE + stride + OVERLAP
    assert torch.allclose(tiled, function(image), atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (30, 64), (1, 1)])
def test_one_tile_goes_through_whole(size: tuple[int, int]) -> None:
    seen: list[tuple[int, ...]] = []

    def function(tile: Tensor) -> Tensor:
        seen.append(tuple(tile.shape))
        return tile * 2

    image = picture(1, 3, *size)
    assert torch.equal(apply_tiled(function, image, size=TILE, overlap=OVERLAP), image * 2)
    assert seen == [(1, 3, *size)]


def test_no_tile_is_larger_than_asked_and_none_is_in_vain() -> None:
    seen: list[tuple[int, ...]] = []

    def function(tile: Tensor) -> Tensor:
        seen.append(tuple(tile.shape[-2:]))
        return tile

    apply_tiled(function, picture(1, 3, 184, 40), size=TILE, overlap=OVERLAP)
    assert seen == [(64, 40)] * 4  # 184 = 64 + 3 · 40


def test_no_seam() -> None:
    """A function whose tiles disagree (each subtracts its own mean) changes from tile to tile without a step."""
    ramp = torch.linspace(0, 1, 300).view(1, 1, 1, -1).expand(1, 3, 40, 300).contiguous()
    tiled = apply_tiled(lambda tile: tile - tile.mean(), ramp, size=TILE, overlap=OVERLAP)
    steps = (tiled[..., 1:] - tiled[..., :-1])[0, 0, 0]
    # Tiles are 39.3 pixels apart: they disagree by 0.13, spread over a ramp of half the overlap.
    assert steps.abs().max() < 0.13 / (OVERLAP / 2) + 1 / 299
    assert (tiled - tiled[..., :1, :]).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(70, 97), (131, 40)])
def test_gradient_equals_untiled(size: tuple[int, int]) -> None:
    function, weight = blur(5), picture(2, 3, *size, seed=4)

    def gradient(evaluate: Callable[[Tensor], Tensor]) -> Tensor:
        x = picture(2, 3, *size).requires_grad_(True)
        (evaluate(x).square() * weight).sum().backward()
        assert x.grad is not None
        return x.grad

    tiled = gradient(lambda x: apply_tiled(function, x, size=TILE, overlap=OVERLAP))
    assert torch.allclose(tiled, gradient(function), atol=1e-5)


def test_gradient_across_seams_is_as_inside() -> None:
    """Where a pointwise function is summed, the gradient is 1 everywhere; a seam would show as another value."""
    x = picture(1, 3, 150, 97).requires_grad_(True)
    apply_tiled(lambda tile: tile + 1, x, size=TILE, overlap=OVERLAP).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, torch.ones_like(x), atol=1e-5)


def test_batch_and_precision_are_kept() -> None:
    image = picture(3, 3, 100, 70).double()
    tiled = apply_tiled(lambda tile: tile, image, size=TILE, overlap=OVERLAP)
    assert tiled.dtype == torch.float64 and torch.allclose(tiled, image, atol=1e-15)


def photo(height: int, width: int) -> Tensor:
    """Structure at all scales, in [0, 1]."""
    octaves = [
        F.interpolate(picture(1, 3, 2**k, 2**k, seed=k), size=(height, width), mode="bilinear") for k in range(1, 10)
    ]
    return torch.stack([octave / 1.4**k for k, octave in enumerate(octaves)]).sum(dim=0).div(3.5).clamp(0, 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "name"), [("restorer", "default"), ("purifier", "diffusion"), ("purifier", "direct")])
def test_embedded_network_in_tiles_equals_itself(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1 MP, at least 45 dB to the untiled result; and no larger steps at the seams."""
    module = load_restorer(name) if kind == "restorer" else load_purifier(name, noise_level=20)
    image = photo(1024, 1024)
    size, overlap = module.tile_size, module.tile_overlap
    with torch.no_grad():
        tiled = module(image, **({} if kind == "restorer" else {"generator": seeded(0)}))
        monkeypatch.setattr(type(module), "tile_size", 1 << 20)
        whole = module(image, **({} if kind == "restorer" else {"generator": seeded(0)}))
    decibels = psnr(tiled, whole).item()
    print(f"{kind} {name}: {decibels:.1f} dB, largest difference {(tiled - whole).abs().max():.2e}")
    assert decibels >= 45
    # What tiles change, from pixel to pixel, must not gather where two of them are faded into each other.
    fading = slice(1024 - size + overlap // 4, size - overlap // 4)
    steps = (tiled - image).diff(dim=-1).abs().mean(dim=(0, 1, 2))
    inside = torch.cat([steps[: fading.start - overlap], steps[fading.stop + overlap :]]).mean()
    ratio = float(steps[fading].mean() / inside)
    print(f"{kind} {name}: steps at the seam are {ratio:.3f} of those inside")
    assert 0.9 < ratio < 1.1


MEMORY = """
import resource, sys, torch
from udc_defense import load_purifier, load_restorer
from udc_defense.noise import seeded
torch.set_num_threads(1)
module = load_restorer() if sys.argv[1] == "restorer" else load_purifier(draws=2)
image = torch.rand(1, 3, *map(int, sys.argv[2:]), generator=seeded(0))
with torch.no_grad():
    output = module(image) if sys.argv[1] == "restorer" else module(image, generator=seeded(0))
assert output.shape == image.shape and bool(output.isfinite().all())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["restorer", "purifier"])
def test_12_megapixels_in_bounded_memory(kind: str) -> None:
    def peak(*size: int) -> int:
        done = subprocess.run([sys.executable, "-c", MEMORY, kind, *map(str, size)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return int(done.stdout)

    images = (peak(3000, 4000) - peak(640, 640)) / (3 * 3000 * 4000 * 4)
    print(f"{kind}: {images:.1f} images more than for one tile")
    assert images < 12, "and further draws need no more, for they are summed"
