"""The orthonormal discrete cosine transform (DCT-II) as a matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dct_matrix(size: int, like: Tensor) -> Tensor:
    """The basis functions as rows, (size, size): `D @ x` transforms, `D.T @ c` brings back.

    Args:
        size: values per row of the image, at least 1.
        like: dtype and device of the result are this tensor's.
    """
    # In float64: in half precision the angles, which grow with size², would lose their fraction.
    index = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (index + 0.5) * index[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.to(like)
