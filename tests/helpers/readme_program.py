"""The program of the README, and a photo for it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]


def readme_program() -> str:
    _of_the_demo, program = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    return program


def write_photo(path: Path) -> None:
    y, x = np.mgrid[0:300, 0:280]
    photo = np.stack([x * 0.7, y * 0.6, 120 + 60 * np.sin(x / 9)], axis=-1).astype(np.uint8)
    Image.fromarray(photo).save(path)
