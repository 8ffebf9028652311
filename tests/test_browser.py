"""A visitor in real Chromium: choose a sample, run, compare stages, stop, run again; nothing leaves the machine."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the extra `demo` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
SECOND = 1000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (chromium, chromium-browser, google-chrome) on the PATH"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`python app.py` as its own process on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("demo")
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder / "cache")}
    where = {"PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "PYTHONPATH": str(ROOT)}
    with open(folder / "log", "w") as log:
        command = [sys.executable, "app.py"]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | quiet | where, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process, folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no answer from {url}: {log.read_text()}")


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """The demo, open; afterwards: no request went elsewhere, no script failed."""
    foreign: list[str] = []
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60 * SECOND)
        page.on("request", lambda request: foreign.append(request.url) if _leaves(request.url) else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(address)
        page.locator("#run").wait_for()
        yield page
        browser.close()
    assert foreign == []
    assert complaints == []


def _leaves(url: str) -> bool:
    return not re.match(r"(http|ws)://127\.0\.0\.1:|data:|blob:", url)


def _state(page: Any, state: str, seconds: float = 60) -> str:
    line = page.locator(f'#status [data-state="{state}"]')
    line.wait_for(timeout=seconds * SECOND)
    return line.inner_text()


def _set(page: Any, field: str, value: int) -> None:
    number = page.locator(f'#{field} input[type="number"]')
    number.fill(str(value))
    number.press("Tab")


def _choose(page: Any, side: str, stage: str) -> None:
    page.locator(f"#{side} input").click()
    page.get_by_role("option", name=stage, exact=True).click()
    page.get_by_role("listbox").wait_for(state="detached")  # it fades out


def _run_quickly(page: Any) -> None:
    _set(page, "steps", 2)
    _set(page, "draws", 1)
    page.locator("#run").click()
    _state(page, "running")
    assert "Done in" in _state(page, "done")


def _wiped(page: Any) -> list[str]:
    """The addresses of the two pictures under the wipe."""
    pictures = page.locator("#wipe img")
    return [pictures.nth(side).get_attribute("src") for side in range(2)]


def test_a_visit(page: Any) -> None:
    page.locator("#samples .thumbnail-lg").nth(1).click()
    page.wait_for_function("document.querySelector('#photo img').src.includes('night')")
    _run_quickly(page)

    assert page.locator("#strip .thumbnail-lg").count() == 9
    assert page.locator("#table tbody tr").count() == 7
    assert re.fullmatch(r"\d+\.\d\d", page.locator("#table tbody tr").first.locator("td").nth(1).inner_text())
    assert "The attack" in page.locator("#verdict").inner_text()
    assert "Perturbation ×" in page.locator("#delta").inner_text()

    _drag_the_wipe(page)
    _switch_stages(page)


def _drag_the_wipe(page: Any) -> None:
    handle = page.locator('#wipe [data-testid="slider"]')
    clipped = page.locator("#wipe img").nth(1)
    handle.scroll_into_view_if_needed()
    before, box = clipped.get_attribute("style"), handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 120, y, steps=5)
    page.mouse.up()
    assert clipped.get_attribute("style") != before
    assert handle.bounding_box()["x"] < box["x"] - 60


def _switch_stages(page: Any) -> None:
    before = _wiped(page)
    _choose(page, "left", "Ground truth")
    _choose(page, "right", "Purified")
    page.wait_for_function(
        "document.querySelector('#wipe [data-testid=block-label]').innerText.match(/Ground truth.*Purified/)"
    )
    after = _wiped(page)
    assert not set(before) & set(after)
    assert all(source.endswith(".png") for source in after)


def _attack(page: Any, label: str) -> None:
    """Choose an attack; its controls come from the server."""
    page.locator("#attack input").click()
    page.get_by_role("option", name=label, exact=True).click()
    page.get_by_role("listbox").wait_for(state="detached")


def test_another_attack_has_other_controls(page: Any) -> None:
    _attack(page, "Carlini–Wagner · sees gradients")
    page.locator("#eps").wait_for(state="hidden")
    _attack(page, "Square · sees outputs only")
    page.locator("#eps").wait_for()
    page.wait_for_function("document.querySelector('#steps input[type=number]').value === '200'")
    assert "random squares" in page.locator("#attack").inner_text()
    page.locator("#details button").first.click()
    page.locator("#options").get_by_text("p_init=0.8").wait_for()
    assert not page.locator("#norm").is_visible()

    page.locator("#options textarea, #options input").fill("p_init=0")
    _set(page, "steps", 60)
    _set(page, "draws", 1)
    page.locator("#run").click()
    assert _state(page, "failed").startswith("P_init 0 is not in 0…1")
    page.locator("#options textarea, #options input").fill("p_init=0.5")
    page.locator("#run").click()
    _state(page, "running")
    assert "Done in" in _state(page, "done")
    assert "60 queries" in page.locator("#verdict").inner_text()


def test_stop_and_run_again(page: Any) -> None:
    _choose(page, "defence", "DDPM, every step")
    _set(page, "level", 100)
    _set(page, "steps", 50)
    page.locator("#run").click()
    page.locator("#strip .thumbnail-lg").nth(2).wait_for()
    page.locator("#stop").click()
    assert "Stopped" in _state(page, "stopped", seconds=10)
    page.wait_for_timeout(2 * SECOND)
    assert "Stopped" in _state(page, "stopped", seconds=1), "an update came after the stop"
    assert page.locator("#strip .thumbnail-lg").count() >= 3

    _choose(page, "defence", "One step")
    _run_quickly(page)


def test_a_file_that_is_no_image(page: Any, tmp_path: Path) -> None:
    (tmp_path / "holiday.png").write_bytes(b"nothing of the kind")
    page.locator("#samples .thumbnail-lg").nth(2).click()
    page.wait_for_function("document.querySelector('#photo img').src.includes('coffee')")
    page.locator('#photo [aria-label="Remove Image"]').click()
    page.locator("#photo input[type=file]").set_input_files(tmp_path / "holiday.png")
    page.locator("#photo img").wait_for()
    page.locator("#run").click()
    assert _state(page, "failed").startswith("The photo: not an image")


def test_a_phone_has_no_sideways_scroll(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(SECOND)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
