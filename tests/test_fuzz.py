"""Every reader meets damaged files, and lets no exception out but our own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest

MANY = 20_000


@pytest.mark.parametrize("name", fuzz.READERS)
def test_damaged_files(name: str) -> None:
    """A few, of which each reader has refused some and read some."""
    if name == "heic":
        pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    assert fuzz.escapes(name, 40, seed=0) == {}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", fuzz.READERS)
def test_many_damaged_files(name: str, tmp_path: Path) -> None:
    """In a process of bounded memory, which neither crashes nor hangs."""
    command = [sys.executable, fuzz.__file__, name, str(MANY), "1", str(tmp_path / "at")]
    environment = os.environ | {"PYTHONPATH": str(Path(fuzz.__file__).parent), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    place = (tmp_path / "at").read_text()
    assert run.returncode == 0, f"at file {place} of {name}: {run.stdout[-3000:]} {run.stderr[-2000:]}"
