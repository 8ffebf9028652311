"""A panel's PSF from photos of a point light: exposures merged, so that core and far lobes both are seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from udc_defense.calibration.encoding import ENCODINGS, file_step
from udc_defense.errors import PanelError
from udc_defense.optics import LIGHT, Panel
from udc_defense.panel_file import LARGEST_SIDE
from udc_defense.scenes import Domain

BRIGHT = 0.9  # of the highest value: above, a photo may clip
FAINT = 4.0  # standard deviations of the merged background that count as light
BORDER = 16  # one pixel in so many of the shorter side, at the edge, shows the background
NORMAL_MEDIAN = 0.6745  # of |z|
BRIGHTEST = 0.1  # of the brightest pixel that two exposures both show: such pixels tell their ratio


def calibrate_point_light(
    photos: Sequence[Tensor],
    domain: Domain,
    *,
    exposures: Sequence[float] | None = None,
    reach: int = 128,
    name: str = "phone",
    source: str = "",
    licence: str = "",
) -> tuple[Panel, list[str]]:
    """Merge exposures of a small light in the dark to a PSF.

    Args:
        photos: values of the files (1, 3, H, W), all of one size, the camera unmoved.
        domain: of the values. The sRGB curve is taken to be the standard's, since one light cannot tell another.
        exposures: relative times; found from what two photos both show where not given.
        reach: pixels to each side.
        name, source, licence: of the panel.

    Returns:
        The panel, without light loss and of the default light, and what was done, a sentence each.

    Raises:
        PanelError: photos differ in size, all clip, show no light, or have nothing in common.
    """
    if not photos:
        raise PanelError("no photo of a point light is given.")
    if len({photo.shape for photo in photos}) > 1:
        raise PanelError("the photos of the point light differ in size.")
    lights = [_without_background(ENCODINGS[domain].decode(photo[0]).double()) for photo in photos]
    usable = [(photo[0] < BRIGHT * photo.max()) | (photo.max() < BRIGHT) for photo in photos]
    times = _times(lights, usable, photos, exposures)
    merged, noise = _merge(lights, usable, times, [file_step(photo) for photo in photos])
    row, column = _middle(merged, noise)
    reach = min(reach, LARGEST_SIDE // 2)
    window = _window(torch.where(merged > FAINT * noise, merged, torch.zeros_like(merged)), row, column, reach)
    total = window.sum((-2, -1), keepdim=True)
    if not (total > 0).all():
        raise PanelError("the photos of the point light show none in one of the channels.")
    words = [
        f"Merged from {len(photos)} photo(s) of a point light, exposed as "
        + " : ".join(f"{time / min(times):.3g}" for time in times)
        + f"; what lies below {FAINT:g} standard deviations of the background counts as dark.",
        "The light's own size is part of the PSF, and noise and light loss are not known from it.",
    ]
    psf = (window / total).float()
    text = " ".join([source, *words]).strip()
    return Panel(
        name, f"{name}: from a point light", None, (1.0, 1.0, 1.0), LIGHT, psf, source=text, licence=licence
    ), words


def _without_background(light: Tensor) -> Tensor:
    """Minus the median of the photo's border, per channel."""
    return light - _border(light).median(dim=1).values.view(3, 1, 1)


def _border(light: Tensor) -> Tensor:
    """The pixels (3, N) at the edges."""
    height, width = light.shape[-2:]
    depth = max(1, min(height, width) // BORDER)
    inner = torch.zeros(height, width, dtype=torch.bool)
    inner[depth : height - depth, depth : width - depth] = True
    return light[:, ~inner]


def _times(
    lights: Sequence[Tensor], usable: Sequence[Tensor], photos: Sequence[Tensor], given: Sequence[float] | None
) -> list[float]:
    """Exposures relative to the shortest, which are given or found from pixels that neighbours in length both show."""
    if given is not None:
        if len(given) != len(photos) or min(given) <= 0:
            raise PanelError(f"{len(given)} exposures for {len(photos)} photos; each needs one above 0.")
        return [float(time) for time in given]
    order = sorted(range(len(photos)), key=lambda index: float(lights[index].clamp_min(0).sum()))
    times = [1.0] * len(photos)
    for shorter, longer in zip(order, order[1:], strict=False):
        both = usable[shorter] & usable[longer]
        bright = both & (lights[longer] > BRIGHTEST * (lights[longer] * both).max())
        short, long = lights[shorter][bright].sum(), lights[longer][bright].sum()
        if bright.sum() == 0 or short < 10 * _noise(lights[shorter]).max() * bright.sum().sqrt():
            raise PanelError("two exposures of the point light show nothing in common; say how long they are.")
        times[longer] = times[shorter] * float(long / short)
    return times


def _merge(
    lights: Sequence[Tensor], usable: Sequence[Tensor], times: Sequence[float], steps: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Light per unit of time, weighted by time where photos are not clipped; and its background's noise."""
    if (~torch.stack(list(usable)).any(dim=0)).any():
        raise PanelError("the light is clipped in every photo; add a shorter exposure.")
    seen = torch.stack([ok * time for ok, time in zip(usable, times, strict=True)])
    merged = (torch.stack(list(lights)) * (seen > 0)).sum(dim=0) / seen.sum(dim=0)
    floor = torch.tensor([max(steps) / max(times), 1e-12], dtype=torch.float64).max()
    return merged, _noise(merged).clamp_min(floor)


def _noise(light: Tensor) -> Tensor:
    """Standard deviation (3, 1, 1) of the border, whose median is 0."""
    return (_border(light).abs().median(dim=1).values / NORMAL_MEDIAN).view(3, 1, 1)


def _middle(merged: Tensor, noise: Tensor) -> tuple[int, int]:
    """The pixel with most light within its 3 x 3."""
    grey = torch.nn.functional.avg_pool2d(merged.mean(dim=0)[None], 3, 1, 1)[0]
    if grey.max() < FAINT * noise.mean():
        raise PanelError("the photos of the point light show no light.")
    return divmod(int(grey.argmax()), grey.shape[1])


def _window(merged: Tensor, row: int, column: int, reach: int) -> Tensor:
    """(3, K, K) about a pixel; what lies outside of the photo is dark."""
    padded = torch.nn.functional.pad(merged, (reach, reach, reach, reach))
    return padded[:, row : row + 2 * reach + 1, column : column + 2 * reach + 1].clamp_min(0)
