"""`udc-defense certify`: what no attack within a radius can do to the smoothed restorer, or to one of bounded gain."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udc_defense.cli.common import REPORT, device, each, say, sources, write_json, write_numbers
from udc_defense.cli.flags import add_common, add_defense, add_pairs, add_panel, command, radius, unit
from udc_defense.cli.progress import Meter
from udc_defense.errors import SettingError

if TYPE_CHECKING:
    from torch import nn

    from udc_defense.certification.certify import Certificate, Certification, Step
    from udc_defense.certification.noise import Budget
    from udc_defense.photo.result import Result
    from udc_defense.photo.source import Photo
    from udc_defense.purification import Purification

DENOISER = "one_step"  # the one sampler that draws no noise and whose level the smoothing sets
KINDS = {"median": "the median image", "draw": "half of all single draws", "centre": "the centre of the draws"}
NORM_WORDS = {"l1": "L1", "l2": "L2", "linf": "L-infinity"}
COMPARED = 4  # of L-infinity, in 1/255: the usual attack


def add(commands: Any) -> None:
    """Add the command."""
    certify = command(commands, "certify", _certify, "bounds of PSNR that no attack within a radius can break")
    certify.add_argument("images", nargs="*", type=Path, metavar="PHOTO", help="photos to certify, or folders of such")
    certify.add_argument("--captured", action="store_true", help="the photos were taken by an under-display camera")
    add_pairs(certify)
    add_panel(certify)
    certify.add_argument(
        "--method",
        choices=("smoothing", "lipschitz"),
        default="smoothing",
        help="any restorer under noise, or the restorer lipschitz by its bounded gain, at once (default smoothing)",
    )
    certify.add_argument(
        "--eps",
        type=radius,
        action="append",
        help="largest change of a value in units of 1/255, of method lipschitz; repeat for more (default 1, 2, 4, 8)",
    )
    certify.add_argument(
        "--radius",
        type=float,
        action="append",
        help="norm of the whole perturbation, of images in [0, 1]; not per value; repeat for more (default 0.1)",
    )
    certify.add_argument("--norm", choices=("l1", "l2", "linf"), default="l2", help="norm of --radius (default l2)")
    certify.add_argument("--confidence", type=float, default=0.999, help="confidence of each bound (default 0.999)")
    families = "family of the noise: gaussian (default), laplace or uniform"
    certify.add_argument("--noise", default="gaussian", metavar="FAMILY", help=families)
    certify.add_argument("--sigma", type=unit, default=0.05, help="deviation of the noise: 0.05 (default), 12/255")
    certify.add_argument("--samples", type=int, default=1000, help="samples of the noise (default 1000)")
    certify.add_argument("--batch", type=int, default=4, help="samples that a network takes at once (default 4)")
    certify.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="precision of networks under noise; bfloat16 is faster where the hardware has it, and is then certified",
    )
    add_defense(certify, "what takes the noise out before the restorer, in one step at the level of --sigma", DENOISER)
    add_common(certify)


def _certify(options: argparse.Namespace) -> int:
    """Photo by photo; report.json is rewritten after each, and the samples of a killed run are kept."""
    from udc_defense.checkpoints.load import checkpoint_sums, load_restorer
    from udc_defense.defense import Defense
    from udc_defense.photo import stages
    from udc_defense.photo.settings import Settings
    from udc_defense.provenance import versions
    from udc_defense.purification import defense_name, parse_defense

    if options.method == "lipschitz":
        from udc_defense.cli.certify_lipschitz import certify

        return certify(options)
    settings = _settings(options)
    restorer = load_restorer(options.restorer).to(device(options.device)).eval()
    purification = parse_defense(options.defense)
    model = _smoothable(restorer, purification, options)
    report: dict[str, Any] = {
        "settings": asdict(settings)
        | {"noise": settings.noise.facts(), "defense": defense_name(purification), "precision": options.precision},
        "versions": versions(),
        "checkpoints": checkpoint_sums(options.restorer, *([purification.weights] if purification else [])),
        "images": [],
    }
    known = {row["key"]: row for row in _rows(options.out / "report.json")}

    def process(photo: Photo, folder: Path) -> None:
        plain = Settings(panel=options.panel, attack="none", seed=options.seed)
        result = stages.finish(stages.run(Defense(restorer), plain, photo.name, **photo.load()))
        key = _key(report, result)
        row = known.get(key)
        if row is None:
            certificate = _measured(model, result, settings, folder / f".samples-{key[:16]}.u16")
            row = {"key": key, "image": photo.name, "has_truth": result.has_truth} | certificate.report()
            row["width_factors"] = _save_images(certificate, result, folder)
        report["images"].append(row)
        write_json(options.out / REPORT, report)
        write_numbers(options.out, report["images"])
        (folder / f".samples-{key[:16]}.u16").unlink(missing_ok=True)
        _print_row(row, result, settings)

    return each(sources(options), options.out, process)


def _settings(options: argparse.Namespace) -> Certification:
    from udc_defense.certification.certify import Certification
    from udc_defense.certification.noise import Budget, noise_of

    return Certification(
        noise=noise_of(options.noise, options.sigma),
        budgets=tuple(Budget(radius, options.norm) for radius in options.radius or [0.1]),
        confidence=options.confidence,
        samples=options.samples,
        batch=options.batch,
        seed=options.seed,
    )


def _smoothable(restorer: nn.Module, purification: Purification | None, options: argparse.Namespace) -> nn.Module:
    """The restorer, or it behind a denoiser of the noise."""
    from udc_defense.certification.denoised import Denoised
    from udc_defense.checkpoints.load import load_purifier
    from udc_defense.precision import InBfloat16

    model = restorer
    if purification:
        if purification.sampler != DENOISER:
            raise SettingError(f"--defense {options.defense}: the noise of a certificate is taken out by {DENOISER}.")
        purifier = load_purifier(purification.weights).to(device(options.device))
        model = Denoised(restorer, purifier, options.sigma).eval()
    return InBfloat16(model) if options.precision == "bfloat16" else model


def _rows(path: Path) -> list[dict[str, Any]]:
    """Of photos that were finished before."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return [row for row in json.loads(path.read_text(encoding="utf-8"))["images"] if "key" in row]
    return []


def _key(report: dict[str, Any], result: Result) -> str:
    """What a row depends on: settings, versions, weights, capture and reference."""
    head = {name: report[name] for name in ("settings", "versions", "checkpoints")}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for image in (result.images["captured"], result.reference):
        assert image is not None
        digest.update(image.cpu().numpy().tobytes())
    return digest.hexdigest()


def _measured(model: nn.Module, result: Result, settings: Certification, file: Path) -> Certificate:
    from udc_defense.certification.certify import certify

    image, reference, bare = result.images["captured"], result.reference, result.images["restored"]
    assert reference is not None
    return _watch(certify(model, image, reference, settings, bare=bare, file=file), result.name)


def _watch(steps: Iterator[Step], name: str) -> Certificate:
    """Drain the steps under a progress bar."""
    with Meter("sample", words=f"{name}: sampling", leave=False) as meter:
        for state in steps:
            meter.at(state.done, state.total)
    assert state.certificate is not None
    return state.certificate


def _save_images(certificate: Certificate, result: Result, folder: Path) -> list[int]:
    """The images as PNGs; returns the factor that each map of widths was multiplied by, so that it can be seen."""
    from udc_defense.images import write_png

    write_png(result.images["captured"], folder / "captured.png")
    write_png(certificate.median, folder / "smoothed.png")
    factors = []
    for floor, found in zip(certificate.floors, certificate.intervals, strict=True):
        width, name = found.upper - found.lower, f"{floor.budget.norm}-{floor.budget.radius:g}"
        factor = max(1, int(1 / max(float(width.max()), 1 / 255)))
        for kind, image in (("lower", found.lower), ("upper", found.upper), (f"width-x{factor}", factor * width)):
            write_png(image, folder / f"{kind}-{name}.png")
        factors.append(factor)
    return factors


def _print_row(row: dict[str, Any], result: Result, settings: Certification) -> None:
    height, width = result.images["captured"].shape[-2:]
    against = "the ground truth" if row["has_truth"] else "the restorer's own output"
    scores = ", ".join(f"{name} {value:.2f} dB" for name, value in row["psnr"].items() if value is not None)
    noise = f"{settings.noise.family} noise of σ = {settings.noise.sigma:g}"
    seconds = sum(row["seconds"].values())
    say(f"{row['image']}: {scores} (against {against}; {settings.samples} samples of {noise}, {seconds:.1f} s)")
    for budget, floor in zip(settings.budgets, row["floors"], strict=True):
        say(f"  within {_size(budget, 3 * height * width)}:")
        for kind, words in KINDS.items():
            say(f"    {words}: " + (f"at least {floor[kind]:.2f} dB" if floor[kind] is not None else "abstains"))
        if floor["median"] is None:
            needed = floor["samples_needed"]
            say(f"    the median needs {needed} samples" if needed else "    no number of samples is enough here")
    say(
        f"  Each bound holds with probability {settings.confidence:g} over the noise drawn, against any attack within "
        f"its radius. L-infinity {COMPARED}/255 is not certified: at this size that is "
        f"{COMPARED / 255 * (3 * height * width) ** 0.5:.2f} in L2."
    )


def _size(budget: Budget, values: int) -> str:
    """A radius in total, and what it is per value."""
    covered = 255 * budget.linf_covered(values)
    words = f"{NORM_WORDS[budget.norm]} {budget.radius:g} in all"
    if budget.norm == "l2":
        words += f", a root mean square of {covered:.3f}/255"
    return f"{words}, which covers every change of at most {covered:.3g}/255 per value"
