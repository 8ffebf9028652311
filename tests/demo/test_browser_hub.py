"""Pushed to the Hub, and the whole demo from there: nothing else has the weights."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loopback_hub
import pytest
import test_browser
from demo_server import wait_for
from loopback_hub import WEIGHTS, Hub
from test_browser import _run_quickly

from udc_defense.checkpoints.files import embedded_names
from udc_defense.checkpoints.models import KINDS

ROOT = Path(__file__).parents[2]
CHECKPOINTS = [f"{kind}/{name}" for kind in KINDS for name in embedded_names(kind)]
NEEDED = ("restorer/default", "purifier/direct")  # by the default defense

pytestmark = test_browser.pytestmark
page, browser = test_browser.page, test_browser.browser

PUSH = """
import sys
from udc_defense.cli import main
for name in sys.argv[1:]:
    assert main(["models", "push", name, "--repo", f"us/udc-defense-{name.replace('/', '-')}"]) == 0
"""
DEMO = "import runpy; runpy.run_path('app.py', run_name='__main__')"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Empty at first."""
    with loopback_hub.serve({}, tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def installation(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package that has pushed its checkpoints, and then lost the weights."""
    folder = tmp_path_factory.mktemp("installation")
    for name in ("udc_defense", "weights_card"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "app.py", folder)
    process = loopback_hub.start(
        PUSH, folder / "nothing", hub.address, *CHECKPOINTS, before=lambda: os.chdir(folder), HF_TOKEN="good"
    ).process
    _, log = process.communicate(timeout=100)
    assert process.returncode == 0, log
    for weights in folder.rglob(WEIGHTS):
        weights.unlink()
    return folder


@pytest.fixture(scope="module")
def address(hub: Hub, installation: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo, with an empty cache."""
    folder = tmp_path_factory.mktemp("demo")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def inside() -> None:
        os.chdir(installation)
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(log, stream)

    settings = {"PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_TEMP_DIR": str(folder / "files")}
    settings |= {"GRADIO_ANALYTICS_ENABLED": "False", "UDC_DEFENSE_REPO": "us"}
    process = loopback_hub.start(DEMO, folder / "cache", hub.address, before=inside, **settings).process
    try:
        wait_for(f"http://127.0.0.1:{port}", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_the_demo_runs_from_what_was_pushed(hub: Hub, installation: Path, page: Any) -> None:
    for checkpoint in CHECKPOINTS:
        name = checkpoint.replace("/", "-")
        commit, there = hub.find(f"us/udc-defense-{name}", "main")
        record = json.loads((installation / "udc_defense" / "weights" / checkpoint / "hub.json").read_text())
        assert record["source"] == f"us/udc-defense-{name}@{commit}"
        assert (there / "README.md").read_bytes() == (ROOT / "weights_card" / f"{name}.md").read_bytes()
        if checkpoint in NEEDED:
            assert f"{checkpoint.replace('/', ' ')} ({record['source']})" in page.locator("#model").inner_text()
            assert hub.count("GET", f"us/udc-defense-{name}/resolve/{commit}/") > 0

    _run_quickly(page)
    assert "The attack" in page.locator("#verdict").inner_text()
    served = [request.path.split("/")[2] for request in hub.asked if request[0] == "GET" and WEIGHTS in request.path]
    assert sorted(served) == ["udc-defense-purifier-direct", "udc-defense-restorer-default"]
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "names of commits are long"
