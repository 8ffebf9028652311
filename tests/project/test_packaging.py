"""What packaging promises: pins within ranges, a fast and lazy import, a wheel that holds the weights."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from readme_program import readme_program, write_photo

import udc_defense

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "udc_defense"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def pins() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


@pytest.fixture(scope="module")
def front_matter() -> dict[str, Any]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n"), "README.md starts with the Space's YAML"
    return yaml.safe_load(text.split("---\n", 2)[1])


def ranges(project: dict[str, Any]) -> dict[str, Requirement]:
    """What the demo on a Space needs: the core and the extra `demo`."""
    lines = project["dependencies"] + project["optional-dependencies"]["demo"]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def pinned_version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", f"{pin} is not pinned"
    return specifier.version


def test_space_pins_satisfy_the_ranges(project: dict[str, Any], pins: dict[str, Requirement]) -> None:
    needed = ranges(project)
    assert "gradio" not in pins, "a Space takes gradio from sdk_version"
    assert needed.keys() - pins.keys() == {"gradio"}
    for name, pin in pins.items():
        version = pinned_version(pin)
        if name in needed:
            assert needed[name].specifier.contains(version), f"{pin} is outside {needed[name]}"


def test_readme_front_matter_configures_a_space(
    project: dict[str, Any], pins: dict[str, Requirement], front_matter: dict[str, Any]
) -> None:
    keys = {
        "title",
        "emoji",
        "sdk",
        "sdk_version",
        "python_version",
        "app_file",
        "short_description",
        "license",
        "tags",
    }
    assert keys <= front_matter.keys()
    assert front_matter["sdk"] == "gradio"
    assert ranges(project)["gradio"].specifier.contains(str(front_matter["sdk_version"]))
    assert isinstance(front_matter["python_version"], str), "quoted: YAML reads 3.10 as 3.1"
    python = Requirement(f"python{project['requires-python']}")
    assert python.specifier.contains(front_matter["python_version"])
    assert (ROOT / front_matter["app_file"]).is_file()
    assert front_matter["license"] == project["license"].lower()


def test_version_is_the_same_everywhere(project: dict[str, Any]) -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert udc_defense.__version__ == project["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert f"## [{project['version']}]" in changelog


def test_import_is_lazy() -> None:
    """Which is why it takes no time: benchmarks/start_times.py."""
    code = "import sys; before = set(sys.modules); import udc_defense; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert packages - sys.stdlib_module_names == {"udc_defense"}


def imported_packages(path: Path) -> Iterator[str]:
    """Top-level names a file imports, at module level or not."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("gradio", "demo"), ("spaces", None), ("torchvision", None)],
)
def test_package_is_imported_only_where_allowed(package: str, allowed: str | None) -> None:
    found = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if package in imported_packages(path)]
    assert [path.as_posix() for path in found if path.parts[0] != allowed] == []


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        code = re.findall(r"`{3}.*?`{3}|`[^`]+`", text, re.DOTALL)
        used = {
            word
            for span in code
            for words in re.findall(r"(?:^|`|&& |\$ )make((?: [a-z][a-z-]*)+)", span, re.MULTILINE)
            for word in words.split()
        }
        assert used <= targets, f"{name} names targets that are not in the Makefile"


def test_no_path_of_one_machine_is_tracked() -> None:
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    # Put together here, so that this file does not find itself.
    local = re.compile("|".join(f"(?<![\\w.])/{start}" for start in ("work/", "root/", "tmp/bash_jobs")).encode())
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    found = [path.relative_to(ROOT).as_posix() for path in files if path.is_file() and local.search(path.read_bytes())]
    assert found == []


def left_out() -> list[Path]:
    """Folders of the package that the wheel is built without."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    return [ROOT / path for path in tool["hatch"]["build"]["targets"]["wheel"]["exclude"]]


def test_the_readme_names_what_the_wheel_lacks() -> None:
    *names, last = sorted(folder.name for folder in left_out() if folder.is_dir())
    words = f"without the restorers {', '.join(f'`{name}`' for name in names)} and `{last}`"
    assert words in (ROOT / "README.md").read_text(encoding="utf-8") and len(names) + 1 == len(left_out())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    dist, site, elsewhere = tmp_path / "dist", tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist)]
    subprocess.run(command, cwd=ROOT, check=True)
    (wheel,) = dist.glob("*.whl")
    assert wheel.stat().st_size < 60e6

    weights = [path for path in (PACKAGE / "weights").rglob("*") if path.suffix in (".safetensors", ".json")]
    weights = [path for path in weights if not any(folder in path.parents for folder in left_out())]
    assert any(path.suffix == ".safetensors" for path in weights)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for path in weights:
            packed = archive.read(path.relative_to(ROOT).as_posix())
            assert hashlib.sha256(packed).digest() == hashlib.sha256(path.read_bytes()).digest()
    assert "udc_defense/py.typed" in names
    for folder in ("results", "weights_card"):
        wanted = {f"udc_defense/{folder}/{p.name}" for p in (ROOT / folder).iterdir() if p.suffix in (".json", ".md")}
        assert wanted <= names

    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)

    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
        return subprocess.run(
            [sys.executable, *arguments], cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert str(site) in run("-c", "import udc_defense; print(udc_defense.__file__)")
    assert "run" in run("-m", "udc_defense", "--help")
    write_photo(elsewhere / "photo.png")
    assert run("-c", readme_program()).count(" dB") == 4
