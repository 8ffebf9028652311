"""A new method is one file with one decorator."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from udc_defense.attacks import ATTACKS
from udc_defense.errors import SettingError
from udc_defense.purifiers import SAMPLERS
from udc_defense.registry import Registry
from udc_defense.restorers import RESTORERS
from udc_defense.transforms import TRANSFORMS

METHOD = """
from {package} import REGISTRY

@REGISTRY.register("{name}")
def {name}():
    return "{name}"
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    package = tmp_path / "toys"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from udc_defense.registry import Registry\nREGISTRY = Registry('toys', 'toy', helpers=('base',))\n"
    )
    (package / "base.py").write_text("")
    (package / "spoiler.py").write_text("raise RuntimeError('imported before it was asked for')")
    (package / "toy.py").write_text(METHOD.format(package="toys", name="toy"))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("toys").REGISTRY
    for name in [name for name in sys.modules if name.split(".")[0] == "toys"]:
        del sys.modules[name]


def test_files_are_names_and_are_imported_on_use(registry: Registry) -> None:
    assert registry.names() == ["spoiler", "toy"]
    assert "toys.toy" not in sys.modules
    assert registry.get("toy")() == "toy"


def test_a_file_dropped_in_is_a_method(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "toys" / "late.py").write_text(METHOD.format(package="toys", name="late"))
    importlib.invalidate_caches()
    assert "late" in registry.names() and registry.get("late")() == "late"


@pytest.mark.parametrize("name", ["nothing", "base", "", "os"])
def test_unknown_names_and_helpers_are_refused(registry: Registry, name: str) -> None:
    with pytest.raises(SettingError, match=r"is not one of spoiler, toy\.$"):
        registry.get(name)


@pytest.mark.parametrize("real", [ATTACKS, SAMPLERS, RESTORERS, TRANSFORMS])
def test_every_file_registers_its_own_name(real: Registry) -> None:
    assert real.names()
    for name in real.names():
        assert real.get(name) is not None
