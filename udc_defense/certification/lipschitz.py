"""Certificates of a restorer whose gain is bounded: no samples, no probability, no abstaining, at once.

With ‖f(x + δ) - f(x)‖₂ ≤ L ‖δ‖₂ and RMSE = ‖·‖₂/√N over all N values, the triangle inequality gives for every image y

    RMSE(f(x + δ), y) ≤ RMSE(f(x), y) + L ‖δ‖₂/√N,    and ‖δ‖₂/√N ≤ ε where |δ| ≤ ε at each value.

So it says the same at every size, unlike smoothing, whose radius is one for the whole image. It holds for images
clamped to [0, 1] too: to clamp moves nothing apart.

What is certified is the restorer evaluated in float64; the error of that arithmetic is bounded and added. In float32
the worst order of sums would allow an error that is much larger than any that occurs; it is reported.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from udc_defense.certification.median import psnr_of
from udc_defense.certification.noise import Budget
from udc_defense.errors import SettingError
from udc_defense.restorers.base import Restorer
from udc_defense.restorers.lipschitz import LipschitzRestorer

NORM_WORDS = {"l1": "L1", "l2": "L2"}


@dataclass(frozen=True)
class Floor:
    """What holds of all perturbations within a budget.

    Attributes:
        budget: what the attacker may do.
        moved: how far the output can move, RMS.
        psnr: of the output against the reference, at least.
    """

    budget: Budget
    moved: float
    psnr: float


@dataclass(frozen=True)
class LipschitzCertificate:
    """What is certified of one photo.

    Attributes:
        lipschitz: L, the bound of the gain.
        rounding: RMS error, at most, of an evaluation in float64 of any image within the budgets.
        single: how far the float32 output of this photo is from that, RMS.
        single_at_most: how far any float32 output could be, whatever the order of its sums.
        psnr: of the output against the reference; infinite where they are equal.
        floors: one per budget.
        image: the output, (1, 3, H, W), float64.
    """

    lipschitz: float
    rounding: float
    single: float
    single_at_most: float
    psnr: float
    floors: list[Floor]
    image: Tensor

    def report(self) -> dict[str, Any]:
        """As it is written to files; movements and errors in 1/255."""
        values = self.image[0].numel()
        return {
            "lipschitz": self.lipschitz,
            "psnr": {"bare": self.psnr if math.isfinite(self.psnr) else None},
            "rounding_in_255ths": 255 * self.rounding,
            "float32_differs_in_255ths": 255 * self.single,
            "float32_at_most_in_255ths": 255 * self.single_at_most,
            "floors": [
                {"norm": floor.budget.norm, "radius": floor.budget.radius}
                | {"linf_covered_in_255ths": 255 * floor.budget.linf_covered(values)}
                | {"moved_in_255ths": 255 * floor.moved, "psnr": floor.psnr}
                for floor in self.floors
            ],
        }


def certify_lipschitz(
    restorer: Restorer, image: Tensor, reference: Tensor | None, budgets: list[Budget]
) -> LipschitzCertificate:
    """What no perturbation within the budgets can do, by the restorer's bound.

    Args:
        restorer: one with a `lipschitz_bound`.
        image: the capture (1, 3, H, W) in [0, 1].
        reference: what PSNR is against, same shape; the restorer's own output where it is None.
        budgets: what the attacker may do.

    Raises:
        SettingError: nothing is proven of the restorer.
    """
    if not isinstance(restorer, LipschitzRestorer):
        raise SettingError(
            f"a {type(restorer).__name__} has no bound of its gain; certify the restorer lipschitz, or by smoothing."
        )
    exact = copy.deepcopy(restorer).cpu().double()
    with torch.no_grad():
        output = exact(image.cpu().double())
        single = rms(restorer(image).cpu().double() - output)
    target = output if reference is None else reference.cpu().double()
    error = rms(output.clamp(0, 1) - target.clamp(0, 1))
    # Sums are over the padded image, means over its values; both ends of a movement are rounded.
    padding = math.sqrt(_padded(image, restorer.multiple).numel() / image.numel())
    radii = [budget.within("l2", image[0].numel()) / math.sqrt(image[0].numel()) for budget in budgets]
    rounding, worst = (
        padding * exact.network.rounding(dtype, peak=1 + max(radii, default=0)) for dtype in (output.dtype, image.dtype)
    )
    bound = restorer.lipschitz_bound
    moved = [bound * radius + 2 * rounding for radius in radii]
    floors = [Floor(budget, most, psnr_of(error + most)) for budget, most in zip(budgets, moved, strict=True)]
    return LipschitzCertificate(bound, rounding, single, worst, psnr_of(error), floors, output)


def per_value(radius: float) -> Budget:
    """What changes each value by at most `radius`, of images in [0, 1]."""
    return Budget(radius, "linf")


def in_words(floor: Floor, values: int) -> str:
    """What is certified, as a sentence for whoever sees the photo; `values` is 3 H W."""
    radius = floor.budget.radius
    within = f"at most {255 * radius:.3g}/255 per value"
    if floor.budget.norm != "linf":
        covered = 255 * floor.budget.linf_covered(values)
        within = f"an {NORM_WORDS[floor.budget.norm]} norm up to {radius:g}, as are all of {covered:.3g}/255 per value,"
    return (
        f"No change of {within} can move the restored photo by more than {255 * floor.moved:.2f}/255 on average (RMS), "
        "whatever the photo."
    )


def rms(difference: Tensor) -> float:
    """Root mean square of all values."""
    return float(difference.double().square().mean().sqrt())


def _padded(image: Tensor, multiple: int) -> Tensor:
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple))
