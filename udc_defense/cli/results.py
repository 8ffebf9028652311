"""`udc-defense results`, `noise-level`, `denoising`, `generalisation`, `panels` and `cost`: what `results/` holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from udc_defense.cli.common import drain, say, write_json
from udc_defense.cli.flags import add_crop_list, command

PROTOCOLS = ("spine", "attacks", "detection", "purifiers", "per_photo", "architectures", "finetuning")


def add(commands: Any) -> None:
    """Add the commands."""
    results = command(commands, "results", _results, "measure the embedded networks on a crop list: results/*.json")
    add_crop_list(results)
    results.add_argument("--split", choices=("val", "heldout"), help="one split only")
    results.add_argument("--protocol", action="append", choices=PROTOCOLS, help="one only; repeat for more")
    results.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    for name, function, words in (
        ("noise-level", _noise_level, "select a noise level as UAD-RS does: results/noise_level.json"),
        ("denoising", _denoising, "measure the embedded purifier as a denoiser: results/denoising.json"),
    ):
        add_crop_list(command(commands, name, function, words))
    unseen = command(
        commands, "generalisation", _generalisation, "measure restorers on captures unlike those of their training"
    )
    add_crop_list(unseen)
    unseen.add_argument(
        "--restorer", action="append", metavar="NAME", help="repeat for more (default: every embedded one)"
    )
    panels = command(commands, "panels", _panels, "one restorer for all panels, or one for each: results/panels.json")
    add_crop_list(panels)
    panels.add_argument(
        "--runs", type=Path, required=True, metavar="DIR", help="holds run folders: blind, axon20, toled, poled"
    )
    cost = command(commands, "cost", _cost, "measure time and memory of the chosen purifiers: results/cost.json")
    cost.add_argument("--out", type=Path, default=Path("results"), metavar="DIR")


def _results(options: argparse.Namespace) -> int:
    """The protocols of results/*.json; interrupted runs go on where they stopped, and no row is measured twice."""
    import torch
    from tqdm import tqdm

    from udc_defense.evaluation import (
        architecture_suite,
        attack_suite,
        detection_suite,
        finetuning_suite,
        per_photo_suite,
        purifier_suite,
        spine,
    )
    from udc_defense.evaluation.rows import key_of, read_parts
    from udc_defense.evaluation.runner import Results, checkpoints_of, run_jobs, write_results
    from udc_defense.provenance import hardware, versions

    suites = (
        spine,
        attack_suite,
        detection_suite,
        purifier_suite,
        per_photo_suite,
        architecture_suite,
        finetuning_suite,
    )
    protocols = dict(zip(PROTOCOLS, suites, strict=True))
    processes = "1 process" if options.workers == 1 else f"{options.workers} processes"
    for name in options.protocol or PROTOCOLS:
        given = options.scenes, options.crops
        jobs = list(protocols[name].jobs(*given, options.split, options.seed))
        every = set().union(*(job.keys() for job in protocols[name].jobs(*given, None, options.seed)))
        sums = checkpoints_of(jobs)
        # Rows of other weights must never be mixed in: the partial file carries the weights in its name.
        partial = options.out / f"{name}-{'-'.join(value[:8] for value in sums.values())}.partial.jsonl"
        target = options.out / f"{name}.json"
        known = _known_rows(target, sums, options.seed)
        with tqdm(total=len(jobs), unit="job", desc=name, disable=None) as bar:
            for done, _ in run_jobs(jobs, partial, options.workers, known):
                bar.update(done - bar.n)
        rows = {key_of(row): row for row in (*known, *read_parts(partial))}
        results = Results(
            command="make results SCENES=DIR CROPS=DIR/crops.csv",
            seed=options.seed,
            protocol=protocols[name].describe(),
            versions=versions(),
            hardware=f"{hardware(torch.device('cpu'))}, {processes} of 1 thread",
            checkpoints=sums,
            rows=[row for key, row in rows.items() if key in every],
        )
        write_results(target, results)
        partial.unlink(missing_ok=True)
        say(str(target))
    return 0


def _known_rows(path: Path, sums: dict[str, str], seed: int) -> list[dict[str, Any]]:
    """Rows of a results file that these weights, or some of them, and the same seed have made."""
    from udc_defense.evaluation.runner import read_results

    if not path.is_file():
        return []
    found = read_results(path)
    return found.rows if found.checkpoints.items() <= sums.items() and found.seed == seed else []


def _denoising(options: argparse.Namespace) -> int:
    """PSNR per σ of the embedded purifier beside non-local means."""
    from udc_defense.evaluation.denoising import measure

    table = measure(options.scenes, options.crops, options.seed)
    write_json(options.out / "denoising.json", table)
    return 0


def _noise_level(options: argparse.Namespace) -> int:
    """The level that the published selection takes."""
    from udc_defense.evaluation.published_level import measure

    write_json(options.out / "noise_level.json", measure(options.scenes, options.crops, options.seed))
    return 0


def _cost(options: argparse.Namespace) -> int:
    """Time, evaluations and memory of the chosen purifiers."""
    from udc_defense.evaluation.cost import measure

    write_json(options.out / "cost.json", measure())
    return 0


def _generalisation(options: argparse.Namespace) -> int:
    """What restorers make of other optics, less light and other exposures."""
    from udc_defense.checkpoints.files import embedded_names
    from udc_defense.evaluation.generalisation import Generalisation

    names = options.restorer or embedded_names("restorer")
    measured = Generalisation(options.scenes, options.crops, {name: name for name in names}, options.seed)
    drain(measured.run(), len(measured.crops), "crop")
    write_json(options.out / "generalisation.json", measured.results())
    return 0


def _panels(options: argparse.Namespace) -> int:
    """What restorers of one panel gain over one of all."""
    from udc_defense.evaluation.panels import Panels

    measured = Panels(options.scenes, options.crops, options.runs, options.seed)
    drain(measured.run(), len(measured.crops), "crop")
    write_json(options.out / "panels.json", measured.results())
    return 0
