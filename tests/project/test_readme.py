"""What the README promises: its program runs. Its numbers are held by tests/study/test_results.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from readme_program import readme_program, write_photo


def test_the_program_runs_in_another_folder(tmp_path: Path) -> None:
    write_photo(tmp_path / "photo.png")
    command = [sys.executable, "-c", readme_program()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    clean, attacked = (re.findall(r"[\d.]+(?= dB)", line) for line in done.stdout.splitlines())
    assert float(attacked[0]) < float(clean[0]) - 0.1, "the attack does damage"
