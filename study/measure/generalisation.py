"""The protocol behind `results/generalisation.json`: captures of optics, light and exposures that training never drew.

Training turns lobes by at most 15°, stretches them by 5 % and changes their energy by 20 % (`optics.random_psf`), and
shows scenes within one stop of the median. Everything here lies outside, but for the first line and the other panels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from udc_defense.checkpoints.load import checkpoint_sums, load_restorer
from udc_defense.images import quantize
from udc_defense.imaging import MAX_RADIANCE, capture
from udc_defense.metrics import psnr
from udc_defense.noise import seeded
from udc_defense.optics import vary_psf
from udc_defense.panel_file import get_panel, panel_psf
from udc_defense.photo.stages import row_seed
from udc_defense.provenance import versions
from udc_defense.scenes import Crop, clean_image, read_crops


@dataclass(frozen=True)
class Condition:
    """What differs from a capture through `axon20` as it is.

    Attributes:
        words: for the table.
        panel: another display.
        rotation: of the lobes, degrees.
        scale: of their radii.
        strength: of their energy.
        light: times the electrons; a quarter doubles the shot noise.
        stops: of exposure.
    """

    words: str
    panel: str = "axon20"
    rotation: float = 0.0
    scale: float = 1.0
    strength: float = 1.0
    light: float = 1.0
    stops: float = 0.0

    def pair(self, scene: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Capture, on the 8-bit grid, and clean image of a scene (1, 3, H, W)."""
        scene = (scene * 2**self.stops).clamp_max(MAX_RADIANCE)
        panel = get_panel(self.panel)
        psf = vary_psf(panel_psf(self.panel), rotation=self.rotation, scale=self.scale, strength=self.strength)
        dimmed = replace(panel, light=panel.light * self.light)
        return quantize(capture(scene, dimmed, psf=psf, generator=generator)), clean_image(scene)


CONDITIONS = (
    Condition("axon20, as it is"),
    Condition("lobes turned by 30°", rotation=30),
    Condition("lobes turned by 90°", rotation=90),
    Condition("lobes stretched by 20 %", scale=1.2),
    Condition("lobes shrunk by 20 %", scale=0.8),
    Condition("lobes half as strong", strength=0.5),
    Condition("lobes twice as strong", strength=2.0),
    Condition("a quarter of the light: twice the shot noise", light=0.25),
    Condition("two stops darker", stops=-2),
    Condition("two stops brighter", stops=2),
    Condition("toled", panel="toled"),
    Condition("poled", panel="poled"),
)


# The panels as they are.
PLAIN = tuple(condition for condition in CONDITIONS if condition == Condition(condition.words, panel=condition.panel))


class Generalisation:
    """The measurement.

    Args:
        scenes: what the crop list's paths start from.
        crops: the crop list.
        restorers: name in the table -> embedded name, folder or Hub id.
        seed: of captures.
        split: of the crops, None for both.
        conditions: that each crop is captured under.
        name: of the results file.
    """

    def __init__(
        self,
        scenes: Path,
        crops: Path,
        restorers: Mapping[str, str],
        seed: int,
        split: str | None = None,
        conditions: Sequence[Condition] = CONDITIONS,
        name: str = "generalisation",
    ) -> None:
        self.scenes, self.crops, self.seed, self.conditions = scenes, read_crops(crops, split), seed, conditions
        self.restorers, self.name = restorers, name
        self.networks = {name: load_restorer(source) for name, source in restorers.items()}
        self.rows: list[dict[str, Any]] = []

    def run(self) -> Iterator[int]:
        """Measure crop by crop; yields how many are done."""
        for number, crop in enumerate(self.crops, start=1):
            scene = crop.scene(self.scenes)
            self.rows += [self._row(crop, scene, condition) for condition in self.conditions]
            yield number

    @torch.no_grad()
    def _row(self, crop: Crop, scene: Tensor, condition: Condition) -> dict[str, Any]:
        generator = seeded(row_seed(self.seed, crop.name, "generalisation", 0, condition.words, 0))
        captured, clean = condition.pair(scene, generator)
        restored = {name: _score(network(captured), clean) for name, network in self.networks.items()}
        identity = {"split": crop.split, "image": crop.name, "condition": condition.words}
        return identity | {"captured": _score(captured, clean), "restored": restored}

    def results(self) -> dict[str, Any]:
        """What the results file holds."""
        sources = self.restorers.values()
        return {
            "command": f"python -m study measure {self.name} --scenes DIR --crops DIR/crops.csv",
            "seed": self.seed,
            "versions": versions(),
            "checkpoints": {key: value for name in sources for key, value in checkpoint_sums(name).items()},
            "rows": self.rows,
        }


def _score(image: Tensor, clean: Tensor) -> float:
    return round(float(psnr(image, clean)), 4)
