"""`udc-defense panel list|show|make|plot`, and `calibrate`: displays in front of the camera, and how to get one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udc_defense.cli.common import drain, say
from udc_defense.cli.flags import add_pairs, command
from udc_defense.errors import SettingError

if TYPE_CHECKING:
    from udc_defense.calibration.pairs import Calibration
    from udc_defense.optics import Panel


def add(commands: Any) -> None:
    """Add the commands."""
    panel = commands.add_parser("panel", help="displays: list, show, make, plot", description="Displays.")
    kinds = panel.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command(kinds, "list", _list, "the built-in panels")
    show = command(kinds, "show", _show, "what is known of a panel, energy within radii, contrast of detail")
    show.add_argument("panel", metavar="NAME|FILE")
    plot = command(kinds, "plot", _plot, "a picture of a panel's PSF, its energy within a radius and its MTF")
    plot.add_argument("panel", metavar="NAME|FILE")
    plot.add_argument("--out", type=Path, required=True, metavar="PNG")
    _add_make(kinds)
    _add_calibrate(commands)


def _add_make(kinds: Any) -> None:
    make = command(kinds, "make", _make, "a panel file from a PSF, from a picture of one cell, or from another panel")
    source = make.add_mutually_exclusive_group(required=True)
    source.add_argument("--psf", type=Path, metavar="FILE", help=".npy or .npz of (3, K, K) or (K, K, 3), linear light")
    source.add_argument("--layout", type=Path, metavar="IMAGE", help="one cell of the display; white lets light pass")
    source.add_argument("--from", dest="base", metavar="NAME|FILE", help="a panel to change")
    make.add_argument("--psf-scale", type=float, default=1.0, help="capture pixels per sample of the PSF (default 1)")
    make.add_argument("--pitch", type=float, metavar="UM", help="width of the cell in µm, with --layout")
    make.add_argument("--focal-length", type=float, default=4.67, metavar="MM", help="of the lens (default 4.67)")
    make.add_argument("--f-number", type=float, default=2.0, help="of the lens (default 2)")
    make.add_argument(
        "--sensor-pitch", type=float, default=2.0, metavar="UM", help="pixel of the capture in µm (default 2)"
    )
    make.add_argument("--wavelengths", type=float, nargs=3, metavar=("R", "G", "B"), help="in nm (default 615 530 465)")
    make.add_argument(
        "--transmission",
        type=float,
        nargs=3,
        metavar=("R", "G", "B"),
        help="share of the light that passes (default: the open part of the cell; 1 of a PSF)",
    )
    make.add_argument("--light", type=float, help="electrons of radiance 1 without the panel (default 4005)")
    make.add_argument(
        "--saturation", type=float, metavar="RADIANCE", help="where captures clip (default: a full well of 15,506 e-)"
    )
    _add_facts(make)


def _add_calibrate(commands: Any) -> None:
    calibrate = command(
        commands, "calibrate", _calibrate, "the panel of a phone from pairs of photos, or from photos of a point light"
    )
    add_pairs(calibrate)
    calibrate.add_argument(
        "--point", type=Path, nargs="+", metavar="IMAGE", help="photos of a point light in the dark, --domain too"
    )
    calibrate.add_argument("--exposures", type=float, nargs="+", help="relative times of --point (default: found)")
    calibrate.add_argument("--reach", type=int, default=128, help="pixels of the PSF to each side (default 128)")
    calibrate.add_argument(
        "--region", type=int, nargs=4, metavar=("LEFT", "TOP", "WIDTH", "HEIGHT"), help="calibrate this part alone"
    )
    calibrate.add_argument(
        "--curve",
        choices=("auto", "fit", "none"),
        default="auto",
        help="fit the captures' tone curve (auto: of srgb files only)",
    )
    _add_facts(calibrate)


def _add_facts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", default="phone", help="of the panel (default phone)")
    parser.add_argument("--source", default="", help="where it comes from, in words")
    parser.add_argument("--licence", default="", help="under which others may use it")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="panel file, .safetensors")


def _list(_: argparse.Namespace) -> int:
    from udc_defense.optics import PANELS

    for name, panel in PANELS.items():
        say(f"{name:8} {panel.title}; captures clip at a radiance of {_numbers(panel.saturation)}")
    return 0


def _numbers(values: Iterator[float] | tuple[float, ...]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def _show(options: argparse.Namespace) -> int:
    from udc_defense.panel_file import get_panel
    from udc_defense.psf_figures import FREQUENCIES, RADII, contrast, energy_within

    panel = get_panel(options.panel)
    psf = panel.psf
    facts = {
        "name": panel.name,
        "title": panel.title,
        "PSF": f"{psf.shape[-1]} x {psf.shape[-1]} pixels",
        "transmission": _numbers(panel.transmission),
        "light": f"{panel.light:.4g} electrons of radiance 1 without the panel",
        "saturation": f"{_numbers(panel.saturation)} radiance",
        "read noise": f"{panel.read_noise:.3g} electrons",
        "source": panel.source,
        "licence": panel.licence,
    }
    for name, value in facts.items():
        if value:
            say(f"{name:13} {value}")
    say("Share of the light within a radius, and contrast left of stripes (R G B):")
    for radius in RADII:
        if radius <= psf.shape[-1] // 2 + 1:
            say(f"  {radius:>5} pixels           {_numbers(tuple(energy_within(psf, radius).tolist()))}")
    for frequency in FREQUENCIES:
        say(f"  {frequency:>5} cycles per pixel {_numbers(tuple(contrast(psf, frequency).tolist()))}")
    return 0


def _plot(options: argparse.Namespace) -> int:
    from udc_defense.output import write_file
    from udc_defense.panel_file import get_panel
    from udc_defense.psf_figures import plot_psf

    write_file(options.out, plot_psf(get_panel(options.panel)))
    return 0


def _make(options: argparse.Namespace) -> int:
    panel = _with_facts(_made(options), options)
    _write(panel, options.out)
    return 0


def _made(options: argparse.Namespace) -> Panel:
    """The PSF and what comes with it, before flags change it."""
    from udc_defense.images import read_image
    from udc_defense.layout_picture import psf_of_picture
    from udc_defense.optics import LIGHT, Panel
    from udc_defense.panel_file import get_panel, read_psf

    if options.base:
        base = get_panel(options.base)
        return replace(base, layout=None, measured=base.psf, title=f"{options.name}: from {base.name}")
    if options.psf:
        psf, words = read_psf(options.psf, scale=options.psf_scale)
        for remark in words:
            say(f"{options.psf.name}: {remark}")
        return Panel(options.name, f"{options.name}: PSF of {options.psf.name}", None, (1.0, 1.0, 1.0), LIGHT, psf)
    if options.pitch is None:
        raise SettingError("--layout needs --pitch, the width of its cell in µm.")
    psf, share = psf_of_picture(
        read_image(options.layout),
        pitch=options.pitch,
        focal_length=options.focal_length,
        f_number=options.f_number,
        pixel=options.sensor_pitch,
        wavelengths=options.wavelengths,
    )
    say(f"{options.layout.name}: {share:.1%} of the light passes the cell")
    return Panel(options.name, f"{options.name}: layout {options.layout.name}", None, (share,) * 3, LIGHT, psf)


def _with_facts(panel: Panel, options: argparse.Namespace) -> Panel:
    if options.transmission:
        panel = replace(panel, transmission=tuple(options.transmission))
    if options.light is not None:
        panel = replace(panel, light=options.light)
    if options.saturation is not None:
        panel = replace(panel, full_well=tuple(options.saturation * rate for rate in panel.electrons))
    return replace(
        panel,
        name=options.name,
        source=options.source or panel.source,
        licence=options.licence or panel.licence,
    )


def _write(panel: Panel, path: Path) -> None:
    from udc_defense.panel_file import SUFFIX, write_panel

    if path.suffix != SUFFIX:
        raise SettingError(f"{path}: a panel file ends in {SUFFIX}.")
    write_panel(panel, path)
    say(f"{path}: use it as --panel {path}")


def _calibrate(options: argparse.Namespace) -> int:
    if bool(options.pairs) == bool(options.point):
        raise SettingError("calibrate takes either --pairs CAPTURES CLEAN or --point IMAGE …, and one of them.")
    return _calibrate_pairs(options) if options.pairs else _calibrate_point(options)


def _calibrate_point(options: argparse.Namespace) -> int:
    from udc_defense.calibration.point_light import calibrate_point_light
    from udc_defense.images import read_image

    panel, words = calibrate_point_light(
        [read_image(path) for path in options.point],
        options.domain,
        exposures=options.exposures,
        reach=options.reach,
        name=options.name,
        source=options.source,
        licence=options.licence,
    )
    say("\n".join(words))
    _write(panel, options.out)
    return 0


def _calibrate_pairs(options: argparse.Namespace) -> int:
    from udc_defense.calibration.pairs import calibration_steps, step_count
    from udc_defense.images import write_png
    from udc_defense.scenes import read_pairs

    found: list[Calibration] = []
    captures, clean = options.pairs

    def steps() -> Iterator[int]:
        result = yield from calibration_steps(
            read_pairs(captures, clean, options.domain),
            name=options.name,
            reach=options.reach,
            region=tuple(options.region) if options.region else None,
            fit_tone_curve={"auto": None, "fit": True, "none": False}[options.curve],
            source=options.source,
            licence=options.licence,
        )
        found.append(result)

    drain(steps(), step_count(), "step")
    (calibration,) = found
    say("\n".join(calibration.words))
    residual = options.out.with_name(f"{options.out.stem}-residual.png")
    _write(calibration.panel, options.out)
    write_png(calibration.residual, residual)
    say(f"{residual}: the held-back capture minus its prediction, 8 times magnified about grey")
    return 0
