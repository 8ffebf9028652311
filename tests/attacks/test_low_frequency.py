"""The low-frequency attack: what its δ may contain, and where it ends for a linear objective."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_models import Linear, anywhere, conv, inside, noise

from udc_defense import attacks
from udc_defense.dct import dct_matrix
from udc_defense.errors import SettingError
from udc_defense.metrics import ssim
from udc_defense.noise import seeded

SIZES = [(16, 16), (13, 10), (7, 32)]


def spectrum(delta: Tensor) -> Tensor:
    rows, columns = (dct_matrix(size, delta) for size in delta.shape[-2:])
    return rows @ delta @ columns.T


def outside_band(delta: Tensor, band: float) -> Tensor:
    coefficients = spectrum(delta).abs()
    height, width = (math.ceil(band * size) for size in delta.shape[-2:])
    coefficients[..., :height, :width] = 0
    return coefficients


def brightness(output: Tensor, reference: Tensor) -> Tensor:
    return output.flatten(1).sum(dim=1)


class TestTransform:
    @pytest.mark.parametrize("size", [1, 2, 7, 16])
    def test_rows_are_orthonormal_cosines(self, size: int) -> None:
        matrix = dct_matrix(size, torch.zeros((), dtype=torch.float64))
        assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(matrix[0], torch.full((size,), size**-0.5, dtype=torch.float64))
        # Row k changes sign k times.
        assert (matrix.sign().diff(dim=1) != 0).sum(dim=1).tolist() == list(range(size))

    def test_type_follows_the_example(self) -> None:
        assert dct_matrix(4, torch.zeros(1, dtype=torch.float16)).dtype == torch.float16


class TestBounds:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("band", [0.01, 0.125, 0.5])
    def test_no_frequency_outside_the_band(self, size: tuple[int, int], band: float) -> None:
        """ε is 0.1 and the image in [0.3, 0.7]: the box never cuts."""
        image, model = inside(2, 3, *size), conv()
        options: dict[str, Any] = {"eps": 0.1, "steps": 4, "band": band, "min_ssim": 0.5}
        for state in attacks.low_frequency.iterate(model, image, model(image), generator=seeded(0), **options):
            delta = state.image - image
            assert outside_band(delta, band).max() < 1e-12 < delta.abs().max()

    def test_the_whole_band_leaves_every_frequency(self) -> None:
        image, model = inside(2, 3, 9, 12), conv()
        options: dict[str, Any] = {"eps": 0.02, "steps": 4, "min_ssim": 0.0}
        result = attacks.low_frequency(model, image, model(image), band=1, generator=seeded(0), **options)
        assert (spectrum(result.image - image).abs() > 1e-9).double().mean() > 0.99

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("min_ssim", [0.5, 0.9, 0.99])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_similarity_and_radius_hold_at_every_step(
        self, size: tuple[int, int], min_ssim: float, dtype: torch.dtype
    ) -> None:
        """Box included: the similarity is of the image as it is returned."""
        image, model = anywhere(2, 3, *size).to(dtype), conv().to(dtype)
        options: dict[str, Any] = {"eps": 0.3, "steps": 4, "band": 0.3, "min_ssim": min_ssim}
        for state in attacks.low_frequency.iterate(model, image, model(image), generator=seeded(0), **options):
            assert (ssim(state.image, image) >= min_ssim).all()
            assert (state.image - image).abs().max() <= 0.3 + 1e-6
            assert state.image.min() >= 0 and state.image.max() <= 1

    @pytest.mark.parametrize(("eps", "min_ssim"), [(0.01, 0.1), (0.9, 0.97)])
    def test_the_tighter_bound_is_used_up(self, eps: float, min_ssim: float) -> None:
        image, model = inside(2, 3, 16, 16), conv()
        options: dict[str, Any] = {"objective": brightness}
        last = attacks.low_frequency(
            model, image, image, eps=eps, min_ssim=min_ssim, band=0.3, generator=seeded(0), **options
        )
        largest, similarity = (last.image - image).abs().amax(dim=(1, 2, 3)), ssim(last.image, image)
        if eps == 0.01:
            assert torch.allclose(largest, torch.full_like(largest, eps)) and (similarity > min_ssim).all()
        else:
            assert (largest < eps).all() and (similarity < min_ssim + 0.003).all()

    def test_each_sample_has_its_own_radius(self) -> None:
        image, radii = inside(3, 3, 8, 8), torch.tensor([0.0, 0.01, 0.02], dtype=torch.float64)
        result = attacks.low_frequency(
            conv(), image, image, eps=radii, min_ssim=0, objective=brightness, generator=seeded(0)
        )
        assert torch.allclose((result.image - image).abs().amax(dim=(1, 2, 3)), radii)


class Watched(Linear):
    def forward(self, image: Tensor) -> Tensor:
        self.seen = image
        return super().forward(image)


@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
@pytest.mark.parametrize("min_ssim", [0.0, 0.97], ids=["radius", "similarity"])
def test_a_linear_objective_ends_along_its_low_passed_gradient(size: tuple[int, int], min_ssim: float) -> None:
    """w·A δ over δ of the subspace grows fastest along the projection of Aᵀ w; both bounds only scale the iterate."""
    values = 3 * size[0] * size[1]
    model, weight, image = Watched(noise(values, values)), noise(values, seed=1), inside(2, 3, *size)

    def objective(output: Tensor, reference: Tensor) -> Tensor:
        return output.flatten(1) @ weight

    options: dict[str, Any] = {"eps": 0.2, "steps": 40, "band": 0.4, "min_ssim": min_ssim, "objective": objective}
    attacks.low_frequency(model, image, image, generator=seeded(0), **options)
    gradient = (model.matrix.T @ weight).view(1, 3, *size)
    expected = spectrum(gradient).where(outside_band(gradient, 0.4) == 0, 0)
    # The last iterate: an earlier one may do more in the corner of the ball that the random start was in.
    cosine = torch.cosine_similarity(spectrum(model.seen - image).flatten(1), expected.flatten(1))
    assert (1 - cosine).abs().max() < 1e-4


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    """Not even where only one of them is at the bound of similarity."""
    image = torch.cat([inside(1, 3, 12, 12), torch.full((1, 3, 12, 12), 0.5, dtype=torch.float64)])
    model, options = conv(), {"eps": 0.05, "steps": 4, "min_ssim": 0.9, "band": 0.5}
    reference = model(image)
    together = attacks.low_frequency(model, image, reference, generator=[seeded(0), seeded(1)], **options)
    for i in range(2):
        one = slice(i, i + 1)
        alone = attacks.low_frequency(model, image[one], reference[one], generator=[seeded(i)], **options)
        assert torch.allclose(together.image[one], alone.image, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"band": 0.0}, "band 0 "),
        ({"band": 1.5}, "band 1.5"),
        ({"band": math.nan}, "band nan"),
        ({"min_ssim": 1.5}, "min_ssim 1.5"),
        ({"min_ssim": -0.5}, "min_ssim -0.5"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(changes: dict[str, float], words: str) -> None:
    image = inside(1, 3, 4, 4)
    with pytest.raises(SettingError, match=rf"{words}.*\.$"):
        attacks.low_frequency(conv(), image, image, eps=0.1, **changes)
