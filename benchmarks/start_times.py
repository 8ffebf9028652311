"""Processor time to import the package, to print the command line's help and to build the demo, as multiples.

The unit is what `import torch, diffusers, gradio` takes on the same machine: a busy one does not stretch that time.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNIT = "import torch, diffusers, gradio"
STARTS = {
    "import udc_defense": "import udc_defense",
    "udc-defense --help": "from contextlib import suppress\nfrom udc_defense import cli\n"
    "with suppress(SystemExit): cli.main(['--help'])",
    "the demo, built": "import app",
}
RUNS = 3


def cpu_seconds(code: str) -> float:
    """Seconds of a process that runs the code, the least of several."""
    found = []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def main() -> None:
    nothing = cpu_seconds("")
    unit = cpu_seconds(UNIT) - nothing
    print(f"{UNIT}: {unit:.2f} s")
    for what, code in STARTS.items():
        print(f"{what}: {(cpu_seconds(code) - nothing) / unit:.3f} of that")


if __name__ == "__main__":
    main()
