"""The report in real Chromium, with the network cut: the wipe by keyboard, a phone, both colour schemes, paper."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_folder import write_run

pytest.importorskip("jinja2", reason="the extra `report` is not installed")
pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LEGIBLE = 4.5  # contrast of text, WCAG 2.2, 1.4.3

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (chromium, chromium-browser, google-chrome) on the PATH"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    from udc_defense.report import write_report

    folder = tmp_path_factory.mktemp("report")
    folders = [
        write_run(folder / "a-run-with-quite-a-long-name-that-no-line-can-break", examples=("lake", "rocks")),
        write_run(folder / "later", shift=1.0),
    ]
    write_report(folders, folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """The page, open; afterwards: it asked for nothing but itself, and no script failed."""
    asked: list[str] = []
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(offline=True, viewport={"width": 1280, "height": 900}).new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(address)
        yield page
        browser.close()
    assert [url for url in asked if not url.startswith("data:")] == [address]
    assert complaints == []


def test_the_wipe_moves_by_keyboard(page: Any) -> None:
    slider, left = page.get_by_role("slider").first, page.locator(".wipe .left").first
    before = left.evaluate("picture => getComputedStyle(picture).clipPath")
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "60"
    after = left.evaluate("picture => getComputedStyle(picture).clipPath")
    assert before != after
    assert page.locator(".wipe").first.evaluate("wipe => getComputedStyle(wipe).outlineStyle") == "solid"


def test_the_wipe_compares_any_two_stages(page: Any) -> None:
    chosen = page.locator(".wiping select").first
    chosen.select_option(label="Ground truth")
    shown = page.locator(".wipe .left").first.get_attribute("src")
    assert shown == page.get_by_role("img", name="Ground truth").last.get_attribute("src")


@pytest.mark.parametrize("width", [375, 768, 1280])
def test_nothing_overflows_sideways(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 812})
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """width => [...document.querySelectorAll("body *")]
            .filter(element => !element.closest(".scroll > *, nav li, pre > *, svg, .skip"))
            .filter(element => element.getBoundingClientRect().right > width + 1)
            .map(element => element.outerHTML.slice(0, 80))""",
        width,
    )
    assert outside == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_both_schemes(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    for selector in (
        "h1",
        ".lead strong",
        ".caption",
        ".banner",
        "td small",
        "tr.raised td",
        ".downloads a",
        "summary small",
    ):
        colour, paper = page.locator(selector).first.evaluate(
            """element => {
                const colour = getComputedStyle(element).color;
                const clear = "rgba(0, 0, 0, 0)";
                while (getComputedStyle(element).backgroundColor === clear) element = element.parentElement;
                return [colour, getComputedStyle(element).backgroundColor];
            }"""
        )
        assert _contrast(colour, paper) >= LEGIBLE, selector
    ink = page.locator(".plot text").first.evaluate("text => getComputedStyle(text).fill")
    assert ink == page.evaluate("getComputedStyle(document.body).color")


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2, of two CSS colours."""
    darker, lighter = sorted(map(_luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_paper_shows_what_was_folded(page: Any, tmp_path: Path) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = false)")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("nav").is_hidden()
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
