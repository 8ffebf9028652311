"""The protocol behind `results/certification.json`: certified PSNR over the radius, and which noise gives most of it.

On the 128² centres of the crops marked adaptive. On `val` every noise for every system, with as many samples as tell
them apart: for each budget the noise of the highest floor is chosen, at a limited clean cost. On `heldout` the chosen
ones, and one fixed for all, with more samples. Systems are the target, a surrogate (a student distilled from it) where
one is given, and each behind a denoiser. Samples of a surrogate are no queries of the target.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from udc_defense.certification.certify import Certificate, Certification, bare_output, certify
from udc_defense.certification.denoised import Denoised
from udc_defense.certification.noise import FAMILIES, Budget, Gaussian, Noise, noise_of
from udc_defense.certification.selection import Candidate, best
from udc_defense.checkpoints.load import checkpoint_sums, load_purifier, load_restorer
from udc_defense.evaluation.jobs import CENTRE
from udc_defense.evaluation.rows import append, read_parts
from udc_defense.evaluation.workers import computed
from udc_defense.photo.settings import Settings
from udc_defense.photo.stages import row_seed, simulate
from udc_defense.precision import InBfloat16
from udc_defense.provenance import versions
from udc_defense.scenes import CROP_SIZE, Crop, clean_image, read_crops

SIGMAS = (0.02, 0.05, 0.1, 0.2)
GRID: tuple[Noise, ...] = tuple(noise_of(family, sigma) for family in FAMILIES for sigma in SIGMAS)
FIXED: Noise = Gaussian(0.1)
BUDGETS = tuple(Budget(radius, norm) for norm in ("l2", "l1") for radius in (0.02, 0.05, 0.1, 0.2))
CONFIDENCE = 0.999
SAMPLES = {"val": 200, "heldout": 500}
MOST_COST = 3.0  # dB that smoothing may take from clean captures


@dataclass(frozen=True)
class System:
    """What is smoothed: a restorer, perhaps behind the denoiser."""

    title: str
    restorer: str
    denoised: bool

    def load(self, noise: Noise) -> tuple[nn.Module, nn.Module]:
        """The restorer, and what the noise goes through."""
        restorer = load_restorer(self.restorer)
        model = Denoised(restorer, load_purifier(), noise.sigma).eval() if self.denoised else restorer
        return restorer, InBfloat16(model)


def systems(target: str, surrogate: str | None) -> list[System]:
    """Those that the table compares."""
    named = {"target": target} | ({"surrogate": surrogate} if surrogate else {})
    return [
        System(title + words, restorer, denoised)
        for title, restorer in named.items()
        for words, denoised in (("", False), (" + purifier", True))
    ]


@dataclass(frozen=True)
class Job:
    """One certificate."""

    crop: Crop
    system: System
    noise: Noise

    def identity(self) -> dict[str, Any]:
        """What makes its row one of a kind."""
        return {
            "split": self.crop.split,
            "image": self.crop.name,
            "system": self.system.title,
            "noise": self.noise.facts(),
        }

    def row(self, scenes: Path, seed: int) -> dict[str, Any]:
        """Measure it."""
        certificate = self._certificate(scenes, seed)
        samples = SAMPLES[self.crop.split]
        cost = {"samples": samples, "queries_of_target": 0 if self.system.title.startswith("surrogate") else samples}
        return self.identity() | cost | certificate.report()

    def _certificate(self, scenes: Path, seed: int) -> Certificate:
        margin = (CROP_SIZE - CENTRE) // 2
        scene = self.crop.scene(scenes)[..., margin:-margin, margin:-margin]
        captured = simulate(scene, Settings(seed=seed), self.crop.name)
        restorer, model = self.system.load(self.noise)
        certification = Certification(
            self.noise,
            BUDGETS,
            CONFIDENCE,
            SAMPLES[self.crop.split],
            seed=row_seed(seed, self.crop.name, self.noise.family, self.noise.sigma, self.system.title, 0),
        )
        bare = bare_output(restorer, captured)
        *_, last = certify(model, captured, clean_image(scene), certification, bare=bare)
        assert last.certificate is not None
        return last.certificate


class Suite:
    """The measurement; rows are kept in a partial file, and a killed run goes on.

    Args:
        scenes: what the crop list's paths start from.
        crops: the crop list.
        target: restorer that is smoothed.
        surrogate: its student, if any.
        seed: of captures and noise.
        out: folder of the partial file.
        workers: processes of one thread each; 0 computes in this one.
    """

    def __init__(
        self, scenes: Path, crops: Path, target: str, surrogate: str | None, seed: int, out: Path, workers: int = 0
    ) -> None:
        self.scenes, self.seed, self.workers = scenes, seed, workers
        self.systems = systems(target, surrogate)
        self.crops = {split: [c for c in read_crops(crops, split) if c.adaptive] for split in SAMPLES}
        sums = checkpoint_sums(target, "diffusion") | (checkpoint_sums(surrogate) if surrogate else {})
        self.head = {
            "command": "python -m study measure certification --scenes DIR --crops DIR/crops.csv",
            "seed": seed,
            "protocol": describe(),
            "versions": versions(),
            "checkpoints": sums,
        }
        # Rows of other weights or settings must never be mixed in.
        key = hashlib.sha256(json.dumps(self.head, sort_keys=True).encode()).hexdigest()[:16]
        self.partial = out / f"certification-{key}.partial.jsonl"

    def run(self) -> Iterator[tuple[int, int]]:
        """Measure what is missing; yields (certificates done, certificates of the split)."""
        yield from self._measure([Job(c, s, noise) for noise in GRID for s in self.systems for c in self.crops["val"]])
        chosen = {system.title: self.chosen(system) for system in self.systems}
        yield from self._measure(
            [
                Job(crop, system, noise)
                for system in self.systems
                for noise in dict.fromkeys((*filter(None, chosen[system.title].values()), FIXED))
                for crop in self.crops["heldout"]
            ]
        )

    def _measure(self, jobs: list[Job]) -> Iterator[tuple[int, int]]:
        known = {_key(row) for row in read_parts(self.partial)}
        missing = [job for job in jobs if _key(job.identity()) not in known]
        done = len(jobs) - len(missing)
        yield done, len(jobs)
        for row in computed(partial(Job.row, scenes=self.scenes, seed=self.seed), missing, self.workers):
            append(self.partial, [row])
            done += 1
            yield done, len(jobs)

    def chosen(self, system: System) -> dict[Budget, Noise | None]:
        """The noise for each budget, by the rows of `val`; None where every noise abstains or costs too much."""
        rows = [row for row in read_parts(self.partial) if (row["split"], row["system"]) == ("val", system.title)]
        return {budget: _chosen(rows, index) for index, budget in enumerate(BUDGETS)}

    def results(self) -> dict[str, Any]:
        """What the results file holds."""
        chosen = {
            system.title: [
                {"norm": b.norm, "radius": b.radius, "noise": n.facts() if n else None}
                for b, n in self.chosen(system).items()
            ]
            for system in self.systems
        }
        return self.head | {"chosen": chosen, "rows": sorted(read_parts(self.partial), key=_key)}


def _chosen(rows: list[dict[str, Any]], index: int) -> Noise | None:
    candidates = []
    for noise in GRID:
        found = [row for row in rows if row["noise"] == noise.facts()]
        floors = [row["floors"][index]["median"] for row in found]
        if found and None not in floors:
            candidates.append(Candidate(noise, _mean(floors), _mean([_cost(row) for row in found])))
    winner = best(candidates, MOST_COST)
    return winner.noise if winner else None


def _cost(row: dict[str, Any]) -> float:
    """PSNR in dB that smoothing takes from a clean capture; negative where it gives."""
    return row["psnr"]["bare"] - row["psnr"]["smoothed"]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _key(row: dict[str, Any]) -> str:
    return json.dumps([row[name] for name in ("split", "image", "system", "noise")], sort_keys=True)


def describe() -> dict[str, Any]:
    """The protocol in words and numbers, for the results file."""
    return {
        "images": f"{CENTRE}² centres of the adaptive crops, panel {Settings().panel}",
        "certificate": "lower bound of PSNR against the ground truth, each with the confidence",
        "confidence": CONFIDENCE,
        "samples": SAMPLES,
        "precision": "networks in bfloat16: the certificate is of the restorer so computed",
        "grid": [noise.facts() for noise in GRID],
        "fixed": FIXED.facts(),
        "most_clean_cost_db": MOST_COST,
    }
