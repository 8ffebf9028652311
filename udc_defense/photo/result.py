"""What is known of a photo once it went through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any

from torch import Tensor

from udc_defense.attacks import AttackResult
from udc_defense.detection import difference
from udc_defense.metrics import METRICS, recovered_share
from udc_defense.photo import flags
from udc_defense.threats import Kind

Metric = Callable[[Tensor, Tensor], Tensor]  # (B, 3, H, W) and its reference -> (B,)

KEYS = (
    "captured",
    "restored",
    "attacked_input",
    "attacked_restored",
    "noise_restored",
    "defended_clean",
    "defended_attacked",
)
# What is compared with the restorer's own output where there is no ground truth.
KEYS_WITHOUT_TRUTH = KEYS[3:]
# Every stage in the order of the film strip, in plain words.
STAGES = {
    "clean": "Ground truth",
    "captured": "Capture",
    "restored": "Restored",
    "attacked_input": "Attacked capture",
    "attacked_restored": "Attacked, restored",
    "noise_restored": "Random noise, restored",
    "purified": "Purified",
    "defended_attacked": "Attacked, defended",
    "defended_clean": "Not attacked, defended",
}
HIGHEST_PSNR = 100.0  # stands for equal images in averages


@dataclass
class Result:
    """What is known so far of one photo.

    Attributes:
        images: stage name -> (1, 3, H, W): clean, captured, restored, attacked_input, attacked_restored, noise_input,
            noise_restored, purified, defended_clean, defended_attacked.
        seconds: wall time per stage.
        reference: what damage is measured against.
        search: what the attack found out.
        resubmitted: PSNR of the defended restorer under fresh noise, once per resubmission, by key.
    """

    name: str
    seed: int
    threat: Kind = "oblivious"
    nfe: int = 0
    has_truth: bool = True
    images: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reference: Tensor | None = None
    search: AttackResult | None = None
    resubmitted: dict[str, list[float]] = field(default_factory=dict)

    def scores(self, metric: str) -> dict[str, float | None]:
        """One value per key; null where the stage was not run or has no reference."""
        return self.compared(METRICS[metric], self.reference)

    def compared(self, metric: Metric, reference: Tensor | None) -> dict[str, float | None]:
        """The same against another reference (1, 3, H, W), such as the restorer's own output."""
        keys = KEYS if self.has_truth else KEYS_WITHOUT_TRUTH
        scores: dict[str, float | None] = dict.fromkeys(KEYS)
        for key in keys:
            if key in self.images and reference is not None:
                # As a file would have them: metrics refuse what a network that diverges may give.
                value = float(metric(self.images[key].clamp(0, 1), reference.clamp(0, 1)))
                scores[key] = round(value, 4) if value != float("inf") else None
        return scores

    @property
    def recovered(self) -> float | None:
        """Share of the lost PSNR that the defense gives back; null without ground truth or loss.

        Null too where the attack was made for the defense: what it takes from the bare restorer is not what was lost.
        """
        if self.threat != "oblivious":
            return None
        psnr = self.scores("psnr")
        share = recovered_share(psnr["restored"], psnr["attacked_restored"], psnr["defended_attacked"])
        return None if share is None else round(share, 4)

    def report(self) -> dict[str, Any]:
        """The `images` entry of report.json."""
        row = {
            "image": self.name,
            "seed": self.seed,
            "psnr": self.scores("psnr"),
            "ssim": self.scores("ssim"),
            "recovered": self.recovered,
            "seconds": {stage: round(value, 3) for stage, value in self.seconds.items()},
            "nfe": self.nfe,
            "search": self._search_facts(),
            "resubmission": {key: _spread(values) for key, values in self.resubmitted.items()} or None,
            "detection": self.detection(),
        }
        checks = [flags.zero_gradients([row])] + ([flags.randomised([row])] if row["resubmission"] else [])
        return row | {"flags": [f"{flag.check}: {flag.words}" for flag in checks if flag.raised]}

    def detection(self) -> dict[str, float] | None:
        """The detector's scores of the capture and the attacked capture in dB; higher is more suspicious."""
        compared = {"clean": ("restored", "defended_clean"), "attacked": ("attacked_restored", "defended_attacked")}
        pairs = {key: [self.images.get(stage) for stage in stages] for key, stages in compared.items()}
        scores = {
            k: round(float(difference(a, b)), 2) for k, (a, b) in pairs.items() if a is not None and b is not None
        }
        return scores or None

    def _search_facts(self) -> dict[str, Any] | None:
        """Evaluations of the attacked model, gradients that were zero everywhere, the best loss that the attack saw.

        And the root mean square of its perturbation in 1/255, before that is rounded to the 8-bit grid.
        """
        found = self.search
        if found is None:
            return None
        delta = found.image - self.images["captured"]
        return {
            "forwards": found.forwards if found.queries is None else int(found.queries.max()),
            "backwards": found.backwards,
            "zero_gradients": found.zero_gradients,
            "best_loss": round(float(found.losses.max()), 6),
            "delta_rms": round(255 * float(delta.square().mean().sqrt()), 4),
        }


def _spread(values: list[float]) -> dict[str, float]:
    """Of PSNRs: the attacker who may resubmit takes the worst."""
    found = {"mean": fmean(values), "std": pstdev(values), "worst": min(values)}
    return {key: round(value, 4) for key, value in found.items()} | {"n": len(values)}
