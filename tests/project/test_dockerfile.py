"""The Dockerfile without Docker: its commands run as a script against stubs, and what it copies starts, cut off."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement

pytest.importorskip("gradio", reason="the extra `demo` is not installed")

from demo_server import ROOT, Server, Visitor, served
from PIL import Image

CPU, CUDA = "https://download.pytorch.org/whl/cpu", "https://download.pytorch.org/whl/cu130"
# What a build would change on this machine only writes down how it was called, and a list of requirements.
STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
for argument; do case "$argument" in *requirements.txt) cp "$argument" "$CALLS.requirements";; esac; done
"""
# A module that Python imports at its start: whoever looks for another machine is written down, and finds none.
CUT = """
import sys

def hook(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in ("127.0.0.1", "localhost", "::1", "0.0.0.0", None):
        with open(LOG, "a") as log:
            print(event, arguments[1:], host, file=log)
        raise OSError("the network is cut")

sys.addaudithook(hook)
"""


def instructions() -> list[tuple[str, str]]:
    """Name and rest of every instruction, continued lines joined."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", "")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def found(name: str) -> list[str]:
    return [rest for given, rest in instructions() if given == name]


def environment() -> dict[str, str]:
    """What ENV sets."""
    return dict(part.split("=", 1) for rest in found("ENV") for part in shlex.split(rest))


def arguments() -> dict[str, str]:
    """What ARG offers, and its defaults."""
    return dict(rest.split("=", 1) for rest in found("ARG"))


# --- The build --------------------------------------------------------------------------------------------------------


def build(folder: Path, **chosen: str) -> tuple[list[list[str]], list[str]]:
    """Run every RUN in a shell; how the stubs were called, and the requirements that pip was given."""
    stubs, calls, root_tmp = folder / "stubs", folder / "calls", folder / "tmp"
    stubs.mkdir()
    root_tmp.mkdir()
    for name in ("pip", "useradd", "install"):
        (stubs / name).write_text(STUB)
        (stubs / name).chmod(0o755)
    (stubs / "python").symlink_to(sys.executable)
    shutil.copy(ROOT / "pyproject.toml", root_tmp)
    variables = os.environ | arguments() | chosen | {"PATH": f"{stubs}:{os.environ['PATH']}", "CALLS": str(calls)}
    for command in found("RUN"):
        subprocess.run(["sh", "-e", "-c", command.replace("/tmp/", f"{root_tmp}/")], env=variables, check=True)
    assert list(root_tmp.iterdir()) == [], "left behind in a layer"
    requirements = Path(f"{calls}.requirements").read_text().splitlines()
    return [shlex.split(line) for line in calls.read_text().splitlines()], requirements


@pytest.mark.parametrize("index", [CPU, CUDA])
def test_the_build_installs_what_the_demo_needs(index: str, tmp_path: Path) -> None:
    calls, requirements = build(tmp_path, **({} if index == CPU else {"TORCH_INDEX": index}))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert requirements == project["dependencies"] + project["optional-dependencies"]["demo"]

    torch = f"torch=={arguments()['TORCH_VERSION']}"
    assert calls[0] == ["pip", "install", "--no-cache-dir", "--index-url", index, torch]
    ranges = {requirement.name: requirement.specifier for requirement in map(Requirement, requirements)}
    assert ranges["torch"].contains(arguments()["TORCH_VERSION"])
    assert [name for name, wanted in ranges.items() if not wanted.contains(version(name))] == [], "untested versions"
    assert all("--no-cache-dir" in call for call in calls if call[0] == "pip")


def test_the_image_is_slim_and_its_user_nobody_special(tmp_path: Path) -> None:
    calls, _ = build(tmp_path)
    (base,) = found("FROM")
    assert re.fullmatch(r"python:3\.\d+-slim", base)
    (user,) = found("USER")
    (created,) = (call for call in calls if call[0] == "useradd")
    assert created[-1] == user != "root"
    uid = created[created.index("--uid") + 1]
    assert int(uid) > 0 and all(f"--chown={uid}:{uid}" in rest for rest in found("COPY")[1:])
    order = [name for name, _ in instructions()]
    assert order.index("USER") < order.index("WORKDIR") < order.index("HEALTHCHECK") < order.index("CMD")
    home = environment()["HOME"]
    assert home == f"/home/{user}"
    assert all(environment().get("HF_HOME", "").startswith(home) and rest.startswith(home) for rest in found("WORKDIR"))


# --- The container ----------------------------------------------------------------------------------------------------


def copied(target: Path) -> None:
    """`COPY . .`: what .dockerignore leaves."""
    first, *lines = (
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    )
    assert first == "*"
    ignored = shutil.ignore_patterns(*(line.removeprefix("**/") for line in lines if line.startswith("**/")))
    for name in (line.removeprefix("!") for line in lines if line.startswith("!")):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, target)


def other_user() -> int | None:
    """The image's, where this user may act as him and he may use this Python."""
    if os.getuid() != 0:
        return None
    try:
        return 1000 if subprocess.run([sys.executable, "-c", "import torch"], user=1000).returncode == 0 else None
    except PermissionError:
        return None


@pytest.fixture(scope="module")
def container() -> Iterator[tuple[Server, Path]]:
    """The demo from the copied files alone, in the image's environment, cut off; and where cuts were noted."""
    user = other_user()
    with tempfile.TemporaryDirectory(prefix="udc-image-") as name:
        home = Path(name)
        for folder in ("app", "cut", "data"):
            (home / folder).mkdir()
        copied(home / "app")
        (home / "cut" / "sitecustomize.py").write_text(f"LOG = {str(home / 'data' / 'cuts')!r}\n{CUT}")
        if user is not None:
            for path in (home, *home.rglob("*")):
                os.chown(path, user, user)
        assert found("CMD") == ['["python", "app.py"]'], "what `served` starts"
        inside = {key: value.replace(environment()["HOME"], str(home)) for key, value in environment().items()}
        with served(home / "data", app=home / "app", user=user, path=(home / "cut",), **inside) as server:
            yield server, home / "data" / "cuts"


def test_the_container_is_healthy(container: tuple[Server, Path]) -> None:
    (check,) = found("HEALTHCHECK")
    command = json.loads(check.partition("CMD")[2])
    assert command[0] == "python"
    port = environment()["GRADIO_SERVER_PORT"]
    assert found("EXPOSE") == [port] and environment()["GRADIO_SERVER_NAME"] == "0.0.0.0"
    assert f"http://127.0.0.1:{port}/" in command[-1]

    def status(to: str) -> int:
        code = command[-1].replace(f"http://127.0.0.1:{port}", to)
        return subprocess.run([sys.executable, *command[1:-1], code], stderr=subprocess.DEVNULL).returncode

    assert status(container[0].url) == 0
    assert status("http://127.0.0.1:9") != 0, "the port where nobody answers"


def test_the_container_runs_a_photo_and_nothing_leaves_it(container: tuple[Server, Path], tmp_path: Path) -> None:
    server, cuts = container
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)).save(tmp_path / "photo.png")
    visitor = Visitor(server.url)
    answer: Any = visitor.run(visitor.upload((tmp_path / "photo.png").read_bytes()), steps=1, defense="best")
    assert answer.status == 200 and 'data-state="done"' in answer.data[0], answer.text
    assert not cuts.exists(), cuts.read_text()


def test_the_cut_is_noticed(tmp_path: Path) -> None:
    """The test above could not fail if it were not."""
    (tmp_path / "sitecustomize.py").write_text(f"LOG = {str(tmp_path / 'cuts')!r}\n{CUT}")
    code = "import urllib.request; urllib.request.urlopen('http://example.com')"
    variables = os.environ | {"PYTHONPATH": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=variables, stderr=subprocess.DEVNULL).returncode != 0
    assert "example.com" in (tmp_path / "cuts").read_text()
