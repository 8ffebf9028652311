"""Types reach the user: the lazy names are those that checkers are told, and checkers find what a user gets wrong."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pytest

import udc_defense
from udc_defense import attacks, certification
from udc_defense.attacks import ATTACKS, AttackResult

ROOT = Path(__file__).parents[2]


def told_to_checkers(module: ModuleType) -> set[str]:
    """The names that a module's `if TYPE_CHECKING` imports."""
    tree = ast.parse(inspect.getsource(module))
    blocks = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    imports = [line for block in blocks for line in block.body if isinstance(line, ast.ImportFrom)]
    return {alias.asname or alias.name for line in imports for alias in line.names}


@pytest.mark.parametrize("module", [udc_defense, certification])
def test_lazy_names_are_those_that_checkers_know(module: ModuleType) -> None:
    assert told_to_checkers(module) == set(module.__all__) - {"__version__"}


def test_checkers_know_every_attack() -> None:
    assert told_to_checkers(attacks) == set(ATTACKS.names()), "a new attack has its line in attacks/__init__.py"


@pytest.mark.parametrize("name", ATTACKS.names())
def test_the_signature_says_what_a_call_takes_and_returns(name: str) -> None:
    attack = ATTACKS.get(name)
    signature = inspect.signature(attack)
    assert signature.return_annotation is AttackResult
    assert get_type_hints(attack)["return"] is AttackResult
    assert signature.parameters == inspect.signature(attack.iterate, eval_str=True).parameters


def test_pyright_accepts_right_use_and_refuses_wrong_use() -> None:
    """By `tool.pyright` of pyproject.toml a comment that ignores no error is an error itself."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow  # half a minute where mypy has no cache yet; `make check` does the same
def test_mypy_accepts_right_use_and_refuses_wrong_use(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "tests/project/typed_use.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
