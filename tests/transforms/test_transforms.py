"""Trivial defenses against the libraries that have them: scipy, scikit-image, Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import skimage.data
import torch
from PIL import Image
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor
from toy_models import conv

from udc_defense import attacks, noise
from udc_defense.defense import Defense
from udc_defense.errors import SettingError
from udc_defense.images import quantize
from udc_defense.noise import seeded
from udc_defense.threats import threat
from udc_defense.transforms import TRANSFORMS, load_transform, total_variation
from udc_defense.transforms.mirror import mirror

NAMES = TRANSFORMS.names()
CODECS = ("bit_depth", "jpeg", "soft_jpeg")  # their output is what a file can hold
SMOOTHERS = [name for name in NAMES if name not in (*CODECS, "gaussian_noise")]
SIZES = [(1, 1), (1, 9), (6, 2), (17, 16), (40, 33)]


def picture(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=dtype)


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """Astronaut, (1, 3, 512, 512), on the 8-bit grid."""
    return torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None].float() / 255


def planes(image: Tensor) -> Iterator[np.ndarray]:
    yield from image.flatten(0, 1).numpy()


def stacked(results: list[np.ndarray], like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack(results)).view_as(like)


class TestContract:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("name", NAMES)
    def test_any_size_and_precision(self, name: str, size: tuple[int, int], dtype: torch.dtype) -> None:
        image = picture(2, 3, *size, dtype=dtype)
        before = image.clone()
        result = load_transform(name)(image, generator=seeded(0))
        assert result.shape == image.shape and result.dtype == dtype and result.isfinite().all()
        assert torch.equal(image, before)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_sample_does_not_depend_on_its_batch_mates(self, name: str) -> None:
        image, transform = picture(3, 3, 12, 13), load_transform(name)
        together = transform(image, generator=[seeded(i) for i in range(3)])
        for i in range(3):
            alone = transform(image[i : i + 1], generator=[seeded(i)])
            assert torch.allclose(together[i : i + 1], alone, atol=1e-12, rtol=0)

    @pytest.mark.parametrize("name", NAMES)
    def test_the_memory_format_does_not_matter(self, name: str) -> None:
        image, transform = picture(2, 3, 12, 13), load_transform(name)
        plain = transform(image, generator=seeded(0))
        swapped = transform(image.contiguous(memory_format=torch.channels_last), generator=seeded(0))
        assert torch.allclose(plain, swapped, atol=1e-12, rtol=0)

    @pytest.mark.parametrize("name", NAMES)
    def test_randomness_comes_from_the_generator_alone(self, name: str) -> None:
        image, transform, state = picture(1, 3, 8, 8), load_transform(name), torch.get_rng_state()
        first, second, other = (transform(image, generator=seeded(s)) for s in (1, 1, 2))
        assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), state)
        assert torch.equal(first, other) == (name != "gaussian_noise")

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("name", SMOOTHERS)
    def test_constants_stay_constants(self, name: str, size: tuple[int, int]) -> None:
        image = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64).view(1, 3, 1, 1).expand(2, 3, *size)
        assert torch.allclose(load_transform(name)(image), image, atol=1e-12)

    @pytest.mark.parametrize("name", SMOOTHERS)
    def test_nothing_is_clamped(self, name: str) -> None:
        """A smoother knows no black and no white: brightness moves through it."""
        image, transform = picture(1, 3, 12, 13), load_transform(name)
        for shift in (-3, 3):
            assert torch.allclose(transform(image + shift), transform(image) + shift, atol=1e-12)

    @pytest.mark.parametrize("name", CODECS)
    def test_a_codec_clamps(self, name: str) -> None:
        result = load_transform(name)(3 * picture(1, 3, 16, 16) - 1)
        assert result.min() == 0 and result.max() == 1

    @pytest.mark.parametrize("name", [name for name in NAMES if name not in ("bit_depth", "jpeg")])
    def test_autograd_agrees_with_finite_differences(self, name: str) -> None:
        image = (0.3 + 0.4 * picture(1, 3, 9, 10)).requires_grad_(True)
        transform = load_transform(name)
        assert torch.autograd.gradcheck(lambda x: transform(x, generator=seeded(0)), image, fast_mode=True)

    @pytest.mark.parametrize("name", [name for name in NAMES if name != "jpeg"])
    def test_gradients_of_a_flat_image_are_finite(self, name: str) -> None:
        image = torch.full((1, 3, 9, 9), 0.5, requires_grad=True)
        load_transform(name)(image, generator=seeded(0)).square().sum().backward()
        assert image.grad is not None and image.grad.isfinite().all()


IDENTITIES = [
    ("gaussian_blur", 0),
    ("gaussian_noise", 0),
    ("median_blur", 1),
    ("total_variation", 0),
    ("resize", 1),
    ("dct_denoise", 0),
    ("bit_depth", 8),
]


class TestStrength:
    @pytest.mark.parametrize(("name", "strength"), IDENTITIES)
    def test_the_weakest_is_the_identity(self, name: str, strength: float) -> None:
        image = quantize(picture(2, 3, 15, 12, dtype=torch.float32))
        assert torch.equal(load_transform(name, strength)(image, generator=seeded(0)), image)

    @pytest.mark.parametrize(
        ("name", "strengths"),
        [
            ("gaussian_blur", (0.05, 0.3, 1, 5)),
            ("gaussian_noise", (0.1, 4, 40)),
            ("median_blur", (1, 3, 9)),
            ("total_variation", (1e-4, 0.01, 0.1)),
            ("resize", (1, 0.7, 0.2)),
            ("dct_denoise", (0.1, 4, 40)),
            ("bit_depth", (8, 5, 1)),
            ("jpeg", (95, 60, 5)),
            ("soft_jpeg", (95, 60, 5)),
        ],
    )
    def test_more_strength_changes_more(self, name: str, strengths: tuple[float, ...], photo: Tensor) -> None:
        image = photo[..., 100:164, 200:264]
        changes = [(load_transform(name, s)(image, generator=seeded(0)) - image).abs().mean() for s in strengths]
        assert changes == sorted(changes) and changes[0] < 3 / 255 and changes[-1] > 2 * changes[0]

    @pytest.mark.parametrize("name", NAMES)
    def test_it_describes_itself(self, name: str) -> None:
        transform = load_transform(name)
        assert transform.name == name and transform.evaluations == 0
        assert getattr(transform, transform.strength.name) == transform.strength.default
        assert " to " in transform.strength.words and transform.strength.words.endswith(".")
        other = load_transform(name, 1)
        assert getattr(other, transform.strength.name) == 1

    @pytest.mark.parametrize("strength", [float("nan"), float("inf"), -1, 1e6])
    @pytest.mark.parametrize("name", NAMES)
    def test_a_bad_one_is_refused_in_one_sentence(self, name: str, strength: float) -> None:
        check_refusal(name, strength, f" {strength} is not in ")

    @pytest.mark.parametrize(
        ("name", "strength", "words"),
        [
            ("jpeg", 0, "quality 0 is not in 1…95."),
            ("jpeg", 96, "quality 96 is not in 1…95."),
            ("soft_jpeg", 75.5, "quality 75.5 is not a whole number."),
            ("bit_depth", 9, "bits 9 is not in 1…8."),
            ("median_blur", 4, "size 4 is even"),
            ("resize", 1.01, "factor 1.01 is not in 0.01…1."),
            ("resize", 0, "factor 0 is not in 0.01…1."),
        ],
    )
    def test_the_limits(self, name: str, strength: float, words: str) -> None:
        check_refusal(name, strength, words)

    @pytest.mark.parametrize("name", ["blur", "base", "mirror", ""])
    def test_an_unknown_name_is_refused(self, name: str) -> None:
        with pytest.raises(SettingError, match=r"^transform '.*' is not one of bit_depth, .*\.$"):
            load_transform(name)


def check_refusal(name: str, strength: float, words: str) -> None:
    with pytest.raises(SettingError) as caught:
        load_transform(name, strength)
    message = str(caught.value)
    assert words in message and message.endswith(".") and "\n" not in message


@pytest.mark.parametrize("length", [1, 2, 5])
def test_mirror_is_that_of_numpy(length: int) -> None:
    image = picture(1, 2, length, length + 1)
    expected = np.pad(image.numpy(), [(0, 0), (0, 0), (4, 7), (4, 7)], mode="symmetric")
    assert np.array_equal(mirror(image, 4, 7).numpy(), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.0, 6.3])
def test_gaussian_blur_is_that_of_scipy(sigma: float, size: tuple[int, int]) -> None:
    image = picture(2, 3, *size)
    expected = [scipy.ndimage.gaussian_filter(plane, sigma) for plane in planes(image)]
    assert torch.allclose(load_transform("gaussian_blur", sigma)(image), stacked(expected, image), atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [1, 3, 5, 9])
def test_median_blur_is_that_of_scipy(side: int, size: tuple[int, int]) -> None:
    image = picture(2, 3, *size)
    expected = [scipy.ndimage.median_filter(plane, side) for plane in planes(image)]
    assert torch.equal(load_transform("median_blur", side)(image), stacked(expected, image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [0.5, 0.3, 0.9])
def test_resize_is_that_of_pillow(factor: float, size: tuple[int, int]) -> None:
    image = picture(1, 3, *size, dtype=torch.float32)
    small = tuple(max(1, round(side * factor)) for side in reversed(size))
    expected = []
    for plane in planes(image):
        reduced = Image.fromarray(plane).resize(small, Image.Resampling.BICUBIC)
        expected.append(np.asarray(reduced.resize(size[::-1], Image.Resampling.BICUBIC)))
    assert torch.allclose(load_transform("resize", factor)(image), stacked(expected, image), atol=2e-6)


@pytest.mark.parametrize("name", ["gaussian_blur", "resize"])
def test_filters_are_linear(name: str) -> None:
    a, b, transform = picture(1, 3, 11, 14), picture(1, 3, 11, 14, seed=1), load_transform(name)
    assert torch.allclose(transform(3 * a - 2 * b), 3 * transform(a) - 2 * transform(b), atol=1e-12)


class TestTotalVariation:
    @pytest.mark.parametrize("weight", [0.003, 0.02, 0.3])
    def test_it_is_chambolle_of_scikit_image(self, weight: float) -> None:
        """Iteration by iteration; theirs looks at the stop criterion, switched off here, before it updates."""
        image = picture(1, 3, 20, 23)
        iterations = total_variation.ROUNDS * total_variation.ITERATIONS
        theirs = denoise_tv_chambolle(image[0].numpy(), weight, eps=0, max_num_iter=iterations + 1, channel_axis=0)
        assert np.allclose(load_transform("total_variation", weight)(image)[0].numpy(), theirs, atol=1e-12)

    @pytest.mark.parametrize(("weight", "share"), [(0.02, 0.002), (0.1, 0.02)])
    def test_it_has_nearly_converged(self, weight: float, share: float, photo: Tensor) -> None:
        image = photo[0, :, :128, 128:256].double().numpy()

        def objective(u: np.ndarray) -> float:
            down, right = np.diff(u, axis=1, append=u[:, -1:]), np.diff(u, axis=2, append=u[:, :, -1:])
            return 0.5 * ((u - image) ** 2).sum() + weight * np.hypot(down, right).sum()

        ours = load_transform("total_variation", weight)(torch.from_numpy(image)[None])[0].numpy()
        best = objective(denoise_tv_chambolle(image, weight, eps=0, max_num_iter=600, channel_axis=0))
        assert best <= objective(ours) < (1 + share) * best < objective(image)


class TestDctDenoise:
    @pytest.mark.parametrize("size", [(1, 1), (5, 9), (16, 11)])
    def test_it_is_the_mean_of_shrunk_blocks(self, size: tuple[int, int]) -> None:
        """Block by block with scipy: every second row and column starts one, beyond the border too."""
        image, sigma = picture(1, 3, *size), 20.0
        expected = []
        for plane in planes(image):
            padded = np.pad(plane, 8, mode="symmetric")
            total, count = np.zeros_like(padded), np.zeros_like(padded)
            for top in range(2, size[0] + 8, 2):
                for left in range(2, size[1] + 8, 2):
                    block = np.s_[top : top + 8, left : left + 8]
                    c = scipy.fft.dctn(padded[block], norm="ortho")
                    shrunk = np.sign(c) * np.maximum(np.abs(c) - sigma / 255, 0)
                    shrunk[0, 0] = c[0, 0]
                    total[block] += scipy.fft.idctn(shrunk, norm="ortho")
                    count[block] += 1
            expected.append((total / count.clip(1))[8 : 8 + size[0], 8 : 8 + size[1]])
        assert torch.allclose(load_transform("dct_denoise", sigma)(image), stacked(expected, image), atol=1e-12)

    def test_it_denoises(self, photo: Tensor) -> None:
        image = photo[..., :256, :256]
        noisy = load_transform("gaussian_noise", 8)(image, generator=seeded(0))
        before, after = ((x - image).square().mean() for x in (noisy, load_transform("dct_denoise", 8)(noisy)))
        assert after < before / 2


class TestBitDepth:
    @pytest.mark.parametrize("bits", range(1, 9))
    def test_all_levels_and_no_others(self, bits: int) -> None:
        image = torch.linspace(0, 1, 3000, dtype=torch.float64).view(1, 3, 20, 50)
        result, levels = load_transform("bit_depth", bits)(image), 2**bits - 1
        assert torch.equal(result.unique(), torch.arange(levels + 1, dtype=torch.float64) / levels)
        assert (result - image).abs().max() <= 0.5 / levels + 1e-12

    def test_its_gradient_is_zero_and_that_is_flagged(self) -> None:
        """BPDA is not fooled."""
        image, defense = picture(1, 3, 8, 8), Defense(conv(), load_transform("bit_depth"))
        target = torch.zeros_like(image)
        exact, bpda = (attacks.pgd(threat(defense, k), image, target, eps=0.1, steps=3) for k in ("exact", "bpda"))
        assert exact.zero_gradients > 0 and bpda.zero_gradients == 0
        assert bpda.losses.max() > exact.losses.max()


class TestGaussianNoise:
    @pytest.mark.parametrize("sigma", [1.0, 8.0, 60.0])
    def test_statistics(self, sigma: float) -> None:
        """Of n values; tolerances are 5 standard errors."""
        image = picture(1, 3, 128, 128)
        added = (load_transform("gaussian_noise", sigma)(image, generator=seeded(0)) - image) * 255
        n = added.numel()
        assert abs(added.mean()) < 5 * sigma / n**0.5
        assert added.std().item() == pytest.approx(sigma, rel=5 / (2 * n) ** 0.5)

    def test_it_is_the_project_s_noise(self) -> None:
        image = picture(2, 3, 5, 6)
        (generators,) = noise.split([seeded(4), seeded(5)], 2, 1)
        expected = image + 8 / 255 * noise.normal(image, generators)
        assert torch.equal(load_transform("gaussian_noise")(image, generator=[seeded(4), seeded(5)]), expected)


def written(image: Tensor, **options: Any) -> Image.Image:
    """(1, 3, H, W) on the 8-bit grid as a JPEG of Pillow."""
    file = io.BytesIO()
    array = (image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(array).save(file, format="JPEG", **options)
    return Image.open(file)


class TestJpeg:
    @pytest.mark.parametrize("quality", [5, 75, 95])
    def test_it_is_the_file_of_pillow(self, quality: int, photo: Tensor) -> None:
        image = torch.cat([photo[..., :50, :61], photo[..., 100:150, 200:261]])
        result = load_transform("jpeg", quality)(image)
        for i in range(2):
            expected = np.asarray(written(image[i : i + 1], quality=quality, subsampling="4:2:0"))
            assert np.array_equal((result[i].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8), expected)

    def test_its_output_hangs_on_no_graph(self) -> None:
        assert not load_transform("jpeg")(picture(1, 3, 8, 8).requires_grad_(True)).requires_grad


class TestSoftJpeg:
    @pytest.mark.parametrize(("quality", "error"), [(10, 1.3), (30, 1.0), (50, 0.9), (75, 0.9), (95, 0.8)])
    def test_it_agrees_with_the_file(self, quality: int, error: float, photo: Tensor) -> None:
        """Mean absolute difference in 1/255: at 75 mostly the 8-bit values inside the codec, at 10 the cubic."""
        file, soft = (load_transform(name, quality)(photo) for name in ("jpeg", "soft_jpeg"))
        difference = 255 * (file - soft).abs().mean()
        assert difference < error and difference < 0.5 * 255 * (file - photo).abs().mean()

    @pytest.mark.parametrize("size", [(24, 40), (101, 129), (33, 18), (7, 50)])
    def test_at_borders_too(self, size: tuple[int, int], photo: Tensor) -> None:
        image = photo[..., 200 : 200 + size[0], 180 : 180 + size[1]]
        difference = 255 * (load_transform("jpeg")(image) - load_transform("soft_jpeg")(image)).abs()
        edge = torch.cat([difference[..., -1, :].flatten(), difference[..., -1].flatten()])
        assert difference.mean() < 1 and edge.mean() < 1.5

    @pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95])
    def test_the_tables_are_those_of_the_file(self, quality: int, photo: Tensor) -> None:
        tables, soft = written(photo[..., :16, :16], quality=quality).quantization, load_transform("soft_jpeg", quality)
        assert [soft.luma.flatten().tolist(), soft.chroma.flatten().tolist()] == [tables[0], tables[1]]

    @pytest.mark.parametrize("quality", [20, 75])
    def test_grey_blocks_are_those_of_scipy(self, quality: int, photo: Tensor) -> None:
        grey = photo[:, :1, 100:140, 200:248].double() * 0.6 + 0.2
        values = grey[0, 0].numpy() * 255 - 128
        table = np.reshape(written(photo[..., :16, :16], quality=quality).quantization[0], (8, 8))
        expected = np.empty_like(values)
        for top in range(0, 40, 8):
            for left in range(0, 48, 8):
                block = np.s_[top : top + 8, left : left + 8]
                steps = scipy.fft.dctn(values[block], norm="ortho") / table
                steps = np.round(steps) + (steps - np.round(steps)) ** 3
                expected[block] = scipy.fft.idctn(steps * table, norm="ortho")
        result = load_transform("soft_jpeg", quality)(grey.expand(1, 3, -1, -1))
        assert np.allclose(result[0].numpy(), (expected + 128).clip(0, 255) / 255, atol=1e-7)

    def test_its_gradient_leads_through_the_file(self, photo: Tensor) -> None:
        """What an attacker wants of it: a step along it raises the loss behind the real codec."""
        image, model = photo[..., 100:132, 200:232].clone().requires_grad_(True), conv().float()
        model(load_transform("soft_jpeg")(image)).square().sum().backward()
        assert image.grad is not None and (image.grad != 0).float().mean() > 0.99
        losses = [
            model(load_transform("jpeg")(image.detach() + step * image.grad.sign())).square().mean()
            for step in (-8 / 255, 0, 8 / 255)
        ]
        assert losses[0] < losses[1] < losses[2]


class TestDefense:
    @pytest.mark.parametrize("kind", ["bpda", "exact"])
    @pytest.mark.parametrize("name", [name for name in NAMES if name != "jpeg"])
    def test_attacks_see_through(self, name: str, kind: Any) -> None:
        model = threat(Defense(conv(), load_transform(name)), kind, seeded(1))
        image = picture(2, 3, 9, 12)
        attacked = attacks.pgd(model, image, torch.zeros_like(image), eps=0.05, steps=2)
        assert attacked.losses.isfinite().all() and (attacked.image - image).abs().max() <= 0.05 + 1e-12

    def test_an_exact_attack_on_the_file_is_refused(self) -> None:
        model, image = threat(Defense(conv(), load_transform("jpeg")), "exact"), picture(1, 3, 8, 8)
        with pytest.raises(SettingError, match=r"^the model is not differentiable.*\.$"):
            attacks.pgd(model, image, torch.zeros_like(image), eps=0.05, steps=1)

    def test_bpda_runs_the_file_and_goes_back_through_its_smooth_double(self) -> None:
        net, image = conv(), picture(1, 3, 16, 16)
        purified = load_transform("jpeg", 50)(image)
        model = threat(Defense(net, load_transform("jpeg", 50)), "bpda")
        assert torch.equal(model(image), net(purified))

        x = image.clone().requires_grad_(True)
        behind = purified.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(net(behind).square().sum(), behind)
        (expected,) = torch.autograd.grad(load_transform("soft_jpeg", 50)(x), x, slope)
        (seen,) = torch.autograd.grad(model(x).square().sum(), x)
        assert torch.equal(seen, expected) and not torch.equal(seen, slope)
