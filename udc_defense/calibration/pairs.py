"""A panel from pairs of captured and clean photos, and how far to trust it.

The PSF is the non-negative one of greatest likelihood under the noise of the capture's own domain: shot and read noise
in linear light, and the rounding of the file's values. What is not known of the scene counts as noise, too: rounding in
the clean image, the radiance of its clipped pixels, the light from outside of the frame. Clipped pixels of the capture
say nothing and are left out. Noise, gain and, where asked for, the camera's tone curve are fitted between rounds.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from udc_defense.calibration.encoding import ENCODINGS, Encoding, file_step, fit_curve
from udc_defense.calibration.noise_fit import Noise, fit_noise
from udc_defense.calibration.psf_fit import Exposure, Grid, fit_psf
from udc_defense.calibration.registration import Shift, register
from udc_defense.errors import PanelError
from udc_defense.imaging import inverse_tone_map
from udc_defense.optics import FULL_WELL, LIGHT, Channels, Panel
from udc_defense.scenes import Domain, Pair

REACH = 128  # pixels that the PSF extends to each side, by default
ROUNDS = (40, 30, 30)  # steps of each search; noise, curve and trust are fitted after each
LAST_STEPS = 20  # with the pairs that were held back
LEAST_SIDE = 64  # of a photo
PLATEAU = 1e-4  # share of a channel's pixels at its highest value that shows that it clips there
HELD_STRIP = 5  # of a single pair, one column in so many is held back
FIRST_GUESS = 0.01  # noise of the capture's values, until it is known
CLIPPED_SPREAD = 0.5  # of the radiance of a clipped pixel of the clean image, relative to the highest that is known
ALIGNED = 0.03  # pixels; pairs are not moved by less
OUTSIDE_SPREAD = 0.5  # of the light outside of the frame, relative to the mean inside
MAGNIFIED = 8  # the residual picture
CHANNELS = 3


@dataclass(frozen=True)
class Calibration:
    """A panel, and what it is worth.

    Attributes:
        panel: what the rest of the package takes.
        predicted: PSNR in dB of the held-back capture's prediction, in the file's values, where neither the capture
            clips nor light from clipped pixels or from outside of the frame outweighs the noise.
        noise_alone: what the fitted noise alone would leave, in dB; the prediction cannot be better.
        gains: brightness of the captures relative to the clean images, per channel.
        residual: held-back capture minus prediction, 8 times magnified about mid grey (1, 3, H, W).
        words: what was done, a sentence each.
    """

    panel: Panel
    predicted: float
    noise_alone: float
    gains: Channels
    residual: Tensor
    words: list[str]


@dataclass
class _Shot:
    """A pair as it is used: values of both files (3, H, W), and which pixels count (H, W)."""

    name: str
    captured: Tensor
    clean: Tensor
    counts: Tensor
    shift: Shift
    steps: tuple[float, float]  # distance of levels, of capture and clean image


@dataclass
class _Channel:
    """What is known of one channel. `psf` includes the gain; `clips_at` is a value of the file, or infinite."""

    index: int
    psf: Tensor
    encoding: Encoding
    clips_at: float
    noise: Noise | None = None


@dataclass
class _Fit:
    shots: list[_Shot]
    held: _Shot
    channels: list[_Channel]
    reach: int
    clean_encoding: Encoding
    fits_curve: bool
    inside: dict[Grid, Tensor] = field(default_factory=dict)

    def grid(self, shot: _Shot) -> Grid:
        return Grid(shot.captured.shape[-2], shot.captured.shape[-1], self.reach)

    def exposure(self, shot: _Shot, channel: _Channel) -> Exposure:
        """With the weights that the present PSF and noise suggest."""
        grid = self.grid(shot)
        light = self.clean_encoding.decode(shot.clean[channel.index])
        recorded = channel.encoding.decode(shot.captured[channel.index])
        exposure = Exposure(grid, grid.spectrum(light, shot.shift), recorded, torch.zeros_like(recorded))
        noise, known, usable = self.variances(shot, channel, exposure)
        exposure.weights = usable / (noise + known).clamp_min(1e-12)
        return exposure

    def variances(self, shot: _Shot, channel: _Channel, exposure: Exposure) -> tuple[Tensor, Tensor, Tensor]:
        """Per pixel (H, W): variance of the noise, that of all else that is uncertain, and whether it counts."""
        predicted = exposure.predicted(channel.psf).clamp_min(0)
        slope = channel.encoding.slope(predicted)
        known = (slope * shot.steps[0]) ** 2 / 12 + self.unknown_light(shot, channel, exposure)
        below = shot.captured[channel.index] < channel.clips_at - 1.5 * max(shot.steps[0], 1e-4)
        if channel.noise is None:
            return (FIRST_GUESS * slope) ** 2, known, below & shot.counts
        noise = channel.noise.variance(predicted)
        if math.isfinite(channel.clips_at):  # noise that clips on one side only would pull the prediction down
            limit = float(channel.encoding.decode(torch.tensor([channel.clips_at])))
            below = below & (predicted + 2 * noise.sqrt() < limit)
        return noise, known, below & shot.counts

    def unknown_light(self, shot: _Shot, channel: _Channel, exposure: Exposure) -> Tensor:
        """Variance (H, W) that comes from what the clean image does not tell of the scene."""
        grid, psf = exposure.grid, channel.psf
        values = shot.clean[channel.index]
        light = self.clean_encoding.decode(values)
        clipped = values >= self.clean_encoding.top - shot.steps[1] / 2
        highest = float(self.clean_encoding.decode(torch.tensor([self.clean_encoding.top])))
        lamps = clipped * (CLIPPED_SPREAD * highest)
        rounding = ~clipped * (self.clean_encoding.slope(light) * shot.steps[1]) ** 2 / 12
        through = grid.psf_spectrum(psf)
        glare = grid.frame(through * grid.spectrum(lamps, shot.shift)).clamp_min(0)
        blurred = grid.frame(grid.psf_spectrum(psf**2) * grid.spectrum(rounding, shot.shift)).clamp_min(0)
        reached = grid.frame(through * grid.frame_spectrum(torch.ones_like(light)))
        outside = (psf.sum() - reached).clamp_min(0) * OUTSIDE_SPREAD * light.mean()
        return glare**2 + blurred + outside**2

    def round(self, channel: _Channel, shots: Sequence[_Shot], steps: int) -> None:
        """Search, then learn noise and curve from what is left."""
        exposures = [self.exposure(shot, channel) for shot in shots]
        channel.psf = fit_psf(exposures, channel.psf.clamp_min(1e-9), steps=steps)
        if self.fits_curve:
            self.learn_curve(channel, shots, exposures)
        self.learn_noise(channel, shots, exposures)

    def learn_curve(self, channel: _Channel, shots: Sequence[_Shot], exposures: Sequence[Exposure]) -> None:
        channel.psf = channel.psf / channel.psf.sum()
        chosen = [exposure.weights > 0 for exposure in exposures]
        light = torch.cat([e.predicted(channel.psf)[c] for e, c in zip(exposures, chosen, strict=True)])
        values = torch.cat([s.captured[channel.index][c] for s, c in zip(shots, chosen, strict=True)])
        channel.encoding = fit_curve(light, values)
        for shot, exposure in zip(shots, exposures, strict=True):
            exposure.recorded = channel.encoding.decode(shot.captured[channel.index])

    def learn_noise(self, channel: _Channel, shots: Sequence[_Shot], exposures: Sequence[Exposure]) -> None:
        parts = []
        for shot, exposure in zip(shots, exposures, strict=True):
            _, known, usable = self.variances(shot, channel, exposure)
            predicted = exposure.predicted(channel.psf)
            parts.append(torch.stack([predicted, exposure.recorded - predicted, known])[:, usable])
        channel.noise = fit_noise(*torch.cat(parts, dim=1))

    def align(self) -> None:
        """Correct the shifts of pairs that disagree with the others on where the PSF lies; a common one is its own."""
        shots = [*self.shots, self.held]
        wanted = torch.stack([self.misplaced(shot) for shot in shots])
        for shot, (rows, columns) in zip(shots, (wanted - wanted.median(dim=0).values).tolist(), strict=True):
            if max(abs(rows), abs(columns)) > ALIGNED and len(shots) > 2:
                shot.shift = (shot.shift[0] + rows, shot.shift[1] + columns)

    def misplaced(self, shot: _Shot) -> Tensor:
        """By how much (2,) the clean image should move on: one Gauss-Newton step, from all channels."""
        normal, slope = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
        for channel in self.channels:
            exposure = self.exposure(shot, channel)
            predicted = exposure.predicted(channel.psf)
            across = torch.stack(torch.gradient(predicted)).flatten(1).double()
            weighted = across * exposure.weights.flatten()
            normal += weighted @ across.T
            slope -= weighted @ (exposure.recorded - predicted).double().view(-1, 1)
        return torch.linalg.lstsq(normal, slope).solution[:, 0].clamp(-0.5, 0.5)

    def predict(self, shot: _Shot) -> tuple[Tensor, Tensor, Tensor]:
        """Of a pair (3, H, W): the values that its capture should have, their variance, where the scene is known."""
        planes = []
        for channel in self.channels:
            exposure = self.exposure(shot, channel)
            light = exposure.predicted(channel.psf).clamp_min(0)
            noise, known, usable = self.variances(shot, channel, exposure)
            variance = noise / channel.encoding.slope(light) ** 2 + shot.steps[0] ** 2 / 12
            planes.append(torch.stack([channel.encoding.encode(light), variance, (usable & (known < noise)).to(light)]))
        values, variance, usable = torch.stack(planes, dim=1)
        return values, variance, usable > 0


def calibrate_pairs(
    pairs: Sequence[Pair],
    *,
    name: str = "phone",
    reach: int = REACH,
    region: tuple[int, int, int, int] | None = None,
    fit_tone_curve: bool | None = None,
    source: str = "",
    licence: str = "",
) -> Calibration:
    """Find the panel that turns clean photos into captures.

    Args:
        pairs: aligned, or off by up to 16 pixels; the last one is held back to check the prediction, of a single one
            its right fifth. Both are used at last.
        name: of the panel.
        reach: pixels that the PSF extends to each side; its side is 2·reach + 1, at most 801.
        region: left, top, width and height of the part whose pixels count; all by default.
        fit_tone_curve: whether the captures went through an unknown curve; of the domain srgb by default.
        source, licence: of the panel file, in words.

    Raises:
        PanelError: the pairs do not match, are too small, or the region lies outside.
    """
    steps = calibration_steps(
        pairs, name=name, reach=reach, region=region, fit_tone_curve=fit_tone_curve, source=source, licence=licence
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def step_count() -> int:
    """How often `calibration_steps` yields."""
    return CHANNELS * (len(ROUNDS) + 1)


def calibration_steps(
    pairs: Sequence[Pair],
    *,
    name: str,
    reach: int,
    region: tuple[int, int, int, int] | None,
    fit_tone_curve: bool | None,
    source: str,
    licence: str,
) -> Generator[int, None, Calibration]:
    """`calibrate_pairs`, which yields how many of its `step_count` steps are done."""
    if not pairs:
        raise PanelError("no pair of photos is given to calibrate with.")
    if not 1 <= reach <= 400:
        raise PanelError(f"a PSF of {2 * reach + 1}² pixels is not of 3² to 801².")
    fit = _prepared(pairs, reach, region, fit_tone_curve)
    done = 0
    for steps in ROUNDS:
        for channel in fit.channels:
            fit.round(channel, fit.shots, steps)
            yield (done := done + 1)
        fit.align()
    predicted, noise_alone, residual = _score(fit)
    for channel in fit.channels:
        fit.round(channel, _all(fit), LAST_STEPS)
        yield (done := done + 1)
    gains = _three(float(channel.psf.sum()) for channel in fit.channels)
    words = _words(fit, gains, predicted, noise_alone)
    panel = _panel(fit, pairs[0].domain, name, " ".join([source, *words]).strip(), licence)
    return Calibration(panel, predicted, noise_alone, gains, residual, words)


def _all(fit: _Fit) -> list[_Shot]:
    """With what was held back; of a single pair, all of it."""
    if len(fit.shots) > 1 or fit.held.name != fit.shots[0].name:
        return [*fit.shots, fit.held]
    (shot,) = fit.shots
    return [_Shot(shot.name, shot.captured, shot.clean, shot.counts | fit.held.counts, shot.shift, shot.steps)]


def _prepared(
    pairs: Sequence[Pair], reach: int, region: tuple[int, int, int, int] | None, fit_tone_curve: bool | None
) -> _Fit:
    domain = pairs[0].domain
    shots = [_shot(pair, region) for pair in pairs]
    encoding = ENCODINGS[domain]
    channels = [
        _Channel(index, _start(reach), encoding, _clipping_value([shot.captured[index] for shot in shots], shots[0]))
        for index in range(CHANNELS)
    ]
    if len(shots) == 1:
        shots.append(_held_strip(shots[0]))
    curve = domain == "srgb" if fit_tone_curve is None else fit_tone_curve
    return _Fit(shots[:-1], shots[-1], channels, reach, encoding, curve)


def _shot(pair: Pair, region: tuple[int, int, int, int] | None) -> _Shot:
    captured, clean = pair.load()
    if pair.domain == "linear":  # as the files are
        captured, clean = inverse_tone_map(captured), inverse_tone_map(clean)
    height, width = captured.shape[-2:]
    if min(height, width) < LEAST_SIDE:
        raise PanelError(
            f"{pair.name}: {width}x{height} pixels are too few to calibrate with ({LEAST_SIDE}² at least)."
        )
    shift = register(captured[0], clean[0], pair.name)
    counts = _region(region, height, width, pair.name) & _known(shift, height, width)
    return _Shot(pair.name, captured[0], clean[0], counts, shift, (file_step(captured), file_step(clean)))


def _region(region: tuple[int, int, int, int] | None, height: int, width: int, name: str) -> Tensor:
    counts = torch.zeros(height, width, dtype=torch.bool)
    left, top, wide, tall = region or (0, 0, width, height)
    if min(left, top) < 0 or min(wide, tall) < LEAST_SIDE or left + wide > width or top + tall > height:
        raise PanelError(
            f"{name}: the region {left},{top},{wide},{tall} is not at least {LEAST_SIDE}x{LEAST_SIDE} pixels inside of "
            f"{width}x{height}."
        )
    counts[top : top + tall, left : left + wide] = True
    return counts


def _known(shift: Shift, height: int, width: int) -> Tensor:
    """Where a moved clean image still tells what was there."""
    counts = torch.ones(height, width, dtype=torch.bool)
    rows, columns = (math.ceil(abs(off)) + 2 if off else 0 for off in shift)
    counts[: rows if shift[0] > 0 else 0], counts[height - (rows if shift[0] < 0 else 0) :] = False, False
    counts[:, : columns if shift[1] > 0 else 0] = False
    counts[:, width - (columns if shift[1] < 0 else 0) :] = False
    return counts


def _held_strip(shot: _Shot) -> _Shot:
    """Split a single pair: its right fifth is taken out and returned."""
    width = shot.counts.shape[1]
    held = shot.counts.clone()
    held[:, : width - width // HELD_STRIP] = False
    shot.counts = shot.counts & ~held
    return _Shot(shot.name, shot.captured, shot.clean, held, shot.shift, shot.steps)


def _clipping_value(planes: Sequence[Tensor], shot: _Shot) -> float:
    values = torch.cat([plane.flatten() for plane in planes])
    highest = float(values.max())
    share = float((values >= highest - shot.steps[0] / 2).double().mean())
    return highest if share > PLATEAU or (shot.steps[0] and highest == 1) else math.inf


def _start(reach: int) -> Tensor:
    """A sharp core and a halo that falls as r^-2.5: something to begin with everywhere."""
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    halo = 1 / (axis[:, None] ** 2 + axis[None] ** 2 + 4) ** 1.25
    psf = 0.5 * halo / halo.sum()
    psf[reach, reach] += 0.5
    return psf


def _score(fit: _Fit) -> tuple[float, float, Tensor]:
    values, variance, usable = fit.predict(fit.held)
    residual = fit.held.captured - values
    if not usable.any():
        raise PanelError(
            f"{fit.held.name}: has no pixel that could check the prediction; all clip, or are lit from the unknown."
        )
    picture = 0.5 + MAGNIFIED * torch.where(usable, residual, torch.zeros_like(residual))
    return _psnr(residual[usable] ** 2), _psnr(variance[usable]), picture.clamp(0, 1)[None]


def _psnr(squares: Tensor) -> float:
    return -10 * math.log10(max(float(squares.mean(dtype=torch.float64)), 1e-12))


def _three(values: Generator[float, None, None]) -> Channels:
    red, green, blue = values
    return red, green, blue


def _words(fit: _Fit, gains: Channels, predicted: float, noise_alone: float) -> list[str]:
    clipped = [channel for channel in fit.channels if math.isfinite(channel.clips_at)]
    shifted = [shot for shot in [*fit.shots, fit.held] if shot.shift != (0.0, 0.0)]
    words = [
        f"Calibrated from {len({shot.name for shot in [*fit.shots, fit.held]})} pair(s) of photos.",
        f"The held-back capture is predicted to {predicted:.1f} dB; the fitted noise alone would leave "
        f"{noise_alone:.1f} dB.",
        "A tone curve and gain of the captures were fitted per channel; the clean images are taken to be sRGB."
        if fit.fits_curve
        else "The files' values are taken to follow their domain, and no tone curve was fitted; the captures are "
        + ", ".join(f"{gain:.3f}" for gain in gains)
        + " times as bright as the clean images (R, G, B).",
    ]
    if len(clipped) < CHANNELS:
        words.append("Not all channels clip in these photos: saturation is the brightest that was seen, or later.")
    if shifted:
        offsets = ", ".join(f"{s.name} by {s.shift[0]:+.2f} rows and {s.shift[1]:+.2f} columns" for s in shifted)
        words.append(f"Clean images were moved onto their captures: {offsets}.")
    if predicted < noise_alone - 3:
        words.append(
            "The prediction is much worse than the noise explains: the pairs may not be aligned, the scene may have "
            "changed, or the files are not what their domain says"
            + (" (linear files leave no curve to guess)." if fit.fits_curve else ".")
        )
    return words


def _panel(fit: _Fit, domain: Domain, name: str, source: str, licence: str) -> Panel:
    """Light and transmission from the noise: only their product can be told, and the gain where light was lost."""
    gains = [float(channel.psf.sum()) for channel in fit.channels]
    electrons = [_electrons(channel, gain) for channel, gain in zip(fit.channels, gains, strict=True)]
    light = max(rate / min(1.0, gain) for rate, gain in zip(electrons, gains, strict=True))
    full_well = [
        _full_well(channel, domain, gain, rate)
        for channel, gain, rate in zip(fit.channels, gains, electrons, strict=True)
    ]
    read = [
        math.sqrt(channel.noise.read) / gain * rate if channel.noise else 0.0
        for channel, gain, rate in zip(fit.channels, gains, electrons, strict=True)
    ]
    psf = torch.stack([channel.psf / channel.psf.sum() for channel in fit.channels])
    return Panel(
        name,
        f"{name}: calibrated from photos",
        None,
        _three(rate / light for rate in electrons),
        light,
        psf,
        _three(value for value in full_well),
        sum(read) / CHANNELS,
        source[:2000],
        licence,
    )


def _electrons(channel: _Channel, gain: float) -> float:
    """Per radiance 1: shot noise of variance a·l on light l counts l/a electrons."""
    return min(gain / channel.noise.shot, 1e9) if channel.noise else LIGHT


def _full_well(channel: _Channel, domain: Domain, gain: float, electrons: float) -> float:
    if not math.isfinite(channel.clips_at):
        return max(FULL_WELL, electrons)
    value = torch.tensor([channel.clips_at])
    # sRGB counts as tone-mapped in all that restores, so a photo's white is what white is there.
    light = inverse_tone_map(value) if domain == "srgb" else channel.encoding.decode(value) / gain
    return float(light) * electrons
