"""What purifiers cost: time, network evaluations and memory per megapixel, each in a process of its own.

`python -m study.measure.cost SIDE 'JSON of a purification'` measures one and prints it as JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from statistics import median
from typing import Any

import torch

from study.tables import reported
from udc_defense.checkpoints.load import checkpoint_sums, load_purifier
from udc_defense.noise import seeded
from udc_defense.provenance import hardware, versions
from udc_defense.purification import Purification, parse_defense

SIDE = 512
REPEATS, LONG = 3, 10.0  # the median of three runs, or of those that began within so many seconds
MEGAPIXEL = 1_000_000


def measure() -> dict[str, Any]:
    """The chosen purifier of every family, in one run: their ratios are worth more than their times."""
    chosen = {family: parse_defense(name) for family, name in reported().items()}
    idle = _in_a_process(None)["peak_mib"]
    rows = []
    for family, purification in chosen.items():
        found = _in_a_process(purification)
        rows.append(
            {
                "family": family,
                "purifier": purification.facts() if purification else None,
                "evaluations": found["evaluations"],
                "milliseconds_per_megapixel": round(1000 * found["seconds"] * MEGAPIXEL / SIDE**2, 1),
                "peak_mib_over_idle": round(found["peak_mib"] - idle, 1),
            }
        )
    return {
        "command": "python -m study measure cost",
        "side": SIDE,
        "versions": versions(),
        "hardware": f"{hardware(torch.device('cpu'))}, 1 thread",
        "checkpoints": checkpoint_sums("default", *sorted({p.weights for p in chosen.values() if p})),
        "rows": rows,
    }


def _in_a_process(purification: Purification | None) -> dict[str, Any]:
    """Peak memory counts from the start of a process and never falls: each measurement needs a new one."""
    argument = json.dumps(asdict(purification) if purification else None)
    command = [sys.executable, "-m", __name__, str(SIDE), argument]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _measure_here(side: int, purification: Purification | None) -> dict[str, Any]:
    torch.set_num_threads(1)
    image = torch.rand(1, 3, side, side, generator=seeded(0))
    purifier = purification.load() if purification else None
    load_purifier()  # so that transforms, too, start from what a loaded model takes
    seconds: list[float] = []
    with torch.no_grad():
        while purifier and len(seconds) < REPEATS and sum(seconds) < LONG:
            started = time.perf_counter()
            purifier(image, generator=seeded(1))
            seconds.append(time.perf_counter() - started)
    return {
        "evaluations": getattr(purifier, "evaluations", 0),
        "seconds": median(seconds) if seconds else 0.0,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # Linux counts in KiB
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    found = _measure_here(int(sys.argv[1]), Purification.of_facts(given) if given else None)
    sys.stdout.write(json.dumps(found))
