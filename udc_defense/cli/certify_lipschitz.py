"""`udc-defense certify --method lipschitz`: what no attack can do to a restorer of bounded gain."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udc_defense.cli.common import REPORT, each, say, sources, write_json, write_numbers

if TYPE_CHECKING:
    from udc_defense.certification.lipschitz import LipschitzCertificate
    from udc_defense.certification.noise import Budget
    from udc_defense.photo.source import Photo

EPS = (1.0, 2.0, 4.0, 8.0)  # in 1/255


def certify(options: argparse.Namespace) -> int:
    """Photo by photo; report.json is rewritten after each."""
    from udc_defense.certification.lipschitz import certify_lipschitz
    from udc_defense.checkpoints.load import checkpoint_sums, load_restorer
    from udc_defense.defense import Defense
    from udc_defense.images import write_png
    from udc_defense.photo import stages
    from udc_defense.photo.settings import Settings
    from udc_defense.provenance import versions

    restorer, allowed = load_restorer(options.restorer), _budgets(options)
    report: dict[str, Any] = {
        "settings": {"method": options.method, "panel": options.panel, "seed": options.seed},
        "versions": versions(),
        "checkpoints": checkpoint_sums(options.restorer),
        "images": [],
    }

    def process(photo: Photo, folder: Path) -> None:
        plain = Settings(panel=options.panel, attack="none", seed=options.seed)
        result = stages.finish(stages.run(Defense(restorer), plain, photo.name, **photo.load()))
        captured, truth = result.images["captured"], result.reference if result.has_truth else None
        certificate = certify_lipschitz(restorer, captured, truth, allowed)
        write_png(captured, folder / "captured.png")
        write_png(certificate.image.float(), folder / "restored.png")
        report["images"].append({"image": photo.name, "has_truth": result.has_truth} | certificate.report())
        write_json(options.out / REPORT, report)
        write_numbers(options.out, report["images"])
        _print(photo.name, certificate, result.has_truth)

    return each(sources(options), options.out, process)


def _budgets(options: argparse.Namespace) -> list[Budget]:
    from udc_defense.certification.lipschitz import per_value
    from udc_defense.certification.noise import Budget

    whole = [Budget(radius, options.norm) for radius in options.radius or ()]
    return [per_value(eps / 255) for eps in options.eps or ([] if whole else EPS)] + whole


def _print(name: str, certificate: LipschitzCertificate, has_truth: bool) -> None:
    from udc_defense.certification.lipschitz import in_words

    level = f"{certificate.psnr:.2f} dB against the ground truth; " if has_truth else ""
    say(f"{name}: {level}the gain is at most {certificate.lipschitz:.4f}")
    for floor in certificate.floors:
        against = "" if has_truth else " against the restoration of the untouched capture"
        words = in_words(floor, certificate.image[0].numel())
        say(f"  {words} It keeps at least {floor.psnr:.2f} dB{against}.")
    say(
        "  This is proven from the weights, of every attack. It is of the restorer in float64, from which the "
        f"float32 output of this photo differs by {255 * certificate.single:.1g}/255."
    )
