"""Visitors in real Chromium: choose, run, compare, stop, come back; on a phone, in the dark, with the keyboard.

Nothing leaves the machine.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from udc_defense.images import write_png

pytest.importorskip("gradio", reason="the extra `demo` is not installed")

from demo_server import served

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).parents[2]
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
    """Of a demo in a process of its own."""
    with served(tmp_path_factory.mktemp("demo")) as server:
        yield server.url


@pytest.fixture
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Any, address: str, query: str = "", width: int = 1280) -> Iterator[Any]:
    """The demo, open; afterwards: no request went elsewhere, no script failed."""
    foreign: list[str] = []
    complaints: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(60 * SECOND)
    page.on("request", lambda request: foreign.append(request.url) if _leaves(request.url) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(f"{address}/{query}")
    page.locator("#run").wait_for()
    page.wait_for_load_state("networkidle")  # the choices of a link arrive after the page, and replace what is there
    yield page
    page.close()
    assert foreign == []
    assert complaints == []


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    with visit(browser, address) as page:
        yield page


def _leaves(url: str) -> bool:
    return not re.match(r"(http|ws)://127\.0\.0\.1:|data:|blob:", url)


def _state(page: Any, state: str, seconds: float = 60, line: str = "status") -> str:
    found = page.locator(f'#{line} [data-state="{state}"]')
    found.wait_for(timeout=seconds * SECOND)
    return found.inner_text()


def _unfold(page: Any, *accordions: str) -> None:
    for accordion in accordions:
        page.locator(f"#{accordion} button").first.click()


def _field(page: Any, field: str) -> Any:
    return page.locator(f"#{field} input, #{field} textarea").first


def _set(page: Any, field: str, value: object) -> None:
    _field(page, field).fill(str(value))
    _field(page, field).press("Tab")


def _preset(page: Any, row: str, title: str) -> None:
    page.locator(f"#{row}").get_by_label(title, exact=True).check()


def _choose(page: Any, field: str, option: str) -> None:
    page.locator(f"#{field} input").click()
    page.get_by_role("option", name=option, exact=True).click()
    page.get_by_role("listbox").wait_for(state="detached")  # it fades out


def _tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def _run_quickly(page: Any) -> None:
    if not page.locator("#steps").is_visible():
        _unfold(page, "attack-details")
    _set(page, "steps", 2)
    page.locator("#plan", has_text="override: steps").wait_for()
    page.locator("#run").click()
    assert "Done in" in _state(page, "done", 120)


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
    _move_the_wipe_by_keys(page)
    _switch_stages(page)
    _move_the_lens(page)
    _download(page)
    assert "sample=Night+street&steps=2" in page.url


def _handle(page: Any) -> tuple[Any, float]:
    handle = page.locator('#wipe [data-testid="slider"]')
    return handle, handle.bounding_box()["x"]


def _drag_the_wipe(page: Any) -> None:
    handle, start = _handle(page)
    clipped = page.locator("#wipe img").nth(1)
    handle.scroll_into_view_if_needed()
    before, box = clipped.get_attribute("style"), handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 120, y, steps=5)
    page.mouse.up()
    assert clipped.get_attribute("style") != before
    assert _handle(page)[1] < start - 60


def _move_the_wipe_by_keys(page: Any) -> None:
    handle, start = _handle(page)
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert _handle(page)[1] == pytest.approx(start + 40, abs=4)
    assert [image.get_attribute("alt") for image in page.locator("#wipe img").all()] == [
        "Attacked, restored",
        "Attacked, defended",
    ]


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


def _move_the_lens(page: Any) -> None:
    """By a click into the perturbation, then by a key."""
    crops = page.locator("#crops img")
    assert crops.count() == 9
    before = crops.first.get_attribute("src")
    picture = page.locator("#delta img")
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.8)
    page.wait_for_function("+document.querySelector('#down input[type=number]').value > 60")
    page.wait_for_function("old => document.querySelector('#crops img').src !== old", arg=before)
    before = crops.first.get_attribute("src")
    page.locator("#across input[type=range]").press("Home")
    page.wait_for_function("old => document.querySelector('#crops img').src !== old", arg=before)


def _download(page: Any) -> None:
    _unfold(page, "downloads")
    with page.expect_download() as download:
        page.locator("#files a").first.click()
    with zipfile.ZipFile(download.value.path()) as archive:
        names = set(archive.namelist())
        recipe = json.loads(archive.read("recipe.json"))
    assert {"photo.png", "report.json", "restored.png", "16-bit/restored.png"} <= names
    assert recipe["settings"]["steps"] == 2 and set(recipe["networks"]) == {"restorer", "purifier"}
    assert _field(page, "link").input_value() == page.url


def test_presets_and_details(page: Any) -> None:
    _preset(page, "attack", "Strong")
    page.locator("#plan").get_by_text("Auto-PGD, 50 steps").wait_for()
    _preset(page, "defense", "Paper's")
    page.locator("#plan").get_by_text("50 steps of DDPM").wait_for()
    _unfold(page, "attack-details", "defense-details")
    assert _field(page, "noise_level").get_attribute("placeholder") == "50"
    _preset(page, "defense", "Off")
    page.locator("#noise_level").wait_for(state="hidden")

    _choose(page, "method", "Carlini–Wagner · sees gradients")
    page.locator("#eps").wait_for(state="hidden")
    _choose(page, "method", "Square · sees outputs only")
    page.locator("#eps").wait_for()
    page.wait_for_function("document.querySelector('#steps').querySelector('input, textarea').placeholder === '200'")
    assert "random squares" in page.locator("#method").inner_text()
    page.locator("#options").get_by_text("p_init=0.8").wait_for()
    assert not page.locator("#norm").is_visible()

    _set(page, "options", "p_init=0")
    _set(page, "steps", 20)
    page.locator("#run").click()
    assert _state(page, "failed").startswith("P_init 0 is not in 0…1")
    _set(page, "options", "p_init=0.5")
    page.locator("#run").click()
    assert "Done in" in _state(page, "done", 120)
    assert "20 queries" in page.locator("#verdict").inner_text()


def test_stop_and_run_again(page: Any) -> None:
    _preset(page, "attack", "Strong")
    _preset(page, "defense", "Paper's")
    page.locator("#run").click()
    page.locator("#strip .thumbnail-lg").nth(2).wait_for()
    page.locator("#stop").click()
    assert "Stopped" in _state(page, "stopped", seconds=30)
    page.wait_for_timeout(2 * SECOND)
    assert "Stopped" in _state(page, "stopped", seconds=1), "an update came after the stop"
    assert page.locator("#strip .thumbnail-lg").count() >= 3

    _preset(page, "attack", "Quick")
    _preset(page, "defense", "Fast")
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


def test_networks_are_named_or_refused(page: Any) -> None:
    _unfold(page, "networks")
    _set(page, "restorer", "udc_defense")
    page.locator("#model").get_by_text("is neither an embedded restorer").wait_for()
    page.locator("#run").click()
    assert "'udc_defense' is neither an embedded restorer" in _state(page, "failed")
    _set(page, "restorer", "default")
    page.locator("#model").get_by_text("trained on").first.wait_for()


def test_a_link_brings_choices_back(browser: Any, address: str) -> None:
    query = "?sample=Coffee&attack=adaptive&defense=best&eps=2&captured=1&restorer=default&seed=5"
    with visit(browser, address, query) as page:
        page.wait_for_function("document.querySelector('#photo img')?.src.includes('coffee')")
        for again in range(2):
            page.locator("#attack").get_by_label("Adaptive").wait_for()
            page.wait_for_function("document.querySelector('#attack input:checked').value === 'adaptive'")
            assert page.locator("#defense input:checked").input_value() == "best"
            assert page.locator("#captured input").is_checked()
            if not again:
                page.wait_for_timeout(3 * SECOND)  # a reload amid answers is an error to the browser
                page.reload()
                page.locator("#run").wait_for()
        _unfold(page, "attack-details")
        assert _field(page, "eps").input_value() == "2"
    with visit(browser, address, "?attack=magic") as page:
        assert "This link cannot be followed" in _state(page, "failed")
        assert page.locator("#attack input:checked").input_value() == "quick"


PHONE = 375
TABS = ("Robustness", "Batch", "Certify", "About", "Try it")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_has_no_sideways_scroll(browser: Any, address: str, theme: str) -> None:
    with visit(browser, address, f"?__theme={theme}", width=PHONE) as page:
        _unfold(page, "attack-details", "defense-details", "networks", "downloads")
        for tab in TABS:
            _tab(page, tab)
            page.wait_for_timeout(SECOND / 2)
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE, tab
            assert page.evaluate(FAINT) == [], f"{tab}, {theme}"
            assert page.evaluate(NAMELESS) == [], tab


# Words with less contrast than WCAG 2.2 AA asks for (1.4.3): 4.5, of large ones 3.
FAINT = """() => {
    const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
    const colour = text => { const v = text.match(/[\\d.]+/g).map(Number); return v.length > 3 ? v : [...v, 1]; };
    const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
    const ground = element => {
        const behind = [];
        for (let e = element; e; e = e.parentElement) behind.unshift(colour(getComputedStyle(e).backgroundColor));
        return behind.reduce((below, top) => over(top, below), [255, 255, 255]);
    };
    const faint = [];
    for (const element of document.querySelectorAll('body *')) {
        const words = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent.trim()).join('');
        const style = getComputedStyle(element);
        if (!words || !element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
        if (element.closest('svg, [disabled]') || !style.color.startsWith('rgb')) continue;
        const back = ground(element), [a, b] = [light(over(colour(style.color), back)), light(back)];
        const large = parseFloat(style.fontSize) >= 24;
        if ((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < (large ? 3 : 4.5)) faint.push(words.slice(0, 40));
    }
    return faint;
}"""
# Pictures without words, and fields and buttons without a name.
NAMELESS = """() => {
    const shown = [...document.querySelectorAll('img, input, textarea, button')].filter(e => e.checkVisibility());
    const labels = e => [...(e.labels ?? [])].map(l => l.innerText).join('');
    const name = e => e.alt || e.ariaLabel || e.title || e.innerText || labels(e)
        || e.closest('fieldset, .block')?.innerText || e.querySelector('img')?.alt;
    return shown.filter(e => !name(e)?.trim()).map(e => e.outerHTML.slice(0, 120));
}"""


def test_the_published_results_are_on_their_tab(page: Any) -> None:
    _tab(page, "Robustness")
    assert "The attacker who knows the defense is the one who counts" in page.locator("#honest").inner_text()
    page.locator("#plot svg, #plot canvas").first.wait_for()
    first = page.locator("#numbers td").nth(1).inner_text()
    page.locator("#metric").get_by_label("SSIM").check()
    page.wait_for_function("old => document.querySelectorAll('#numbers td')[1].innerText !== old", arg=first)
    assert float(page.locator("#numbers td").nth(1).inner_text()) < 1
    tables = {"Every attack": "APGD", "Every purifier": "trained one step", "Architectures": "NAFNet"}
    tables |= {"Fine-tuning": "adversarially fine-tuned through the purifier", "Every restorer": "axon20"}
    tables |= {"Captures unlike those of training": "lobes turned by 90°", "Guarantees": "surrogate + purifier"}
    for title, told in (tables | {"Detecting an attack": "evades"}).items():
        page.get_by_role("button", name=title).click()
        page.locator(".udc-wide td", has_text=told).first.wait_for()


def _sixteen_bit(path: Path) -> None:
    write_png(torch.linspace(0.2, 0.7, 64 * 48).reshape(1, 1, 48, 64).expand(1, 3, 48, 64), path, bits=16)


def _turned(path: Path) -> None:
    """64 wide and 48 high as it lies in the file; whoever looks at it sees it turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(path, exif=exif)


def _transparent(path: Path) -> None:
    Image.new("RGBA", (64, 48), (200, 30, 90, 128)).save(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "name", "size"),
    [(_sixteen_bit, "16.png", [64, 48]), (_turned, "turned.jpg", [48, 64]), (_transparent, "clear.png", [64, 48])],
)
def test_photos_of_ones_own(
    write: Callable[[Path], None], name: str, size: list[int], page: Any, tmp_path: Path
) -> None:
    write(tmp_path / name)
    page.locator('#photo [aria-label="Remove Image"]').click()
    page.locator("#photo input[type=file]").set_input_files(tmp_path / name)
    page.locator("#photo img").wait_for()
    _run_quickly(page)
    shape = "image => [image.naturalWidth, image.naturalHeight]"
    assert page.locator("#wipe img").first.evaluate(shape) == size
    assert "sample=" not in page.url


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["Attacking", "Purifying the untouched capture", "Purifying the attacked capture"])
def test_stop_in_the_middle_of_a_stage(stage: str, page: Any) -> None:
    _preset(page, "attack", "Strong" if stage == "Attacking" else "Quick")
    _preset(page, "defense", "Paper's")
    page.locator("#run").click()
    page.locator("#status", has_text=stage).wait_for()
    page.locator("#stop").click()
    assert "Stopped" in _state(page, "stopped", seconds=30)
    page.wait_for_timeout(2 * SECOND)
    assert "Stopped" in _state(page, "stopped", seconds=1), "an update came after the stop"
    _preset(page, "attack", "Off")
    _preset(page, "defense", "Fast")
    page.locator("#run").click()
    assert "Done in" in _state(page, "done", 120)


@pytest.mark.slow
def test_two_visitors_at_once(browser: Any, address: str) -> None:
    """The second one is told to wait, may give up, and has his own results."""
    with visit(browser, address, "?sample=Cat&attack=strong") as first, visit(browser, address, "?steps=1") as second:
        first.locator("#run").click()
        first.locator("#strip .thumbnail-lg").nth(1).wait_for()
        second.locator("#run").click()
        assert "Waiting for your turn" in _state(second, "running")
        second.locator("#stop").click()
        assert "Stopped" in _state(second, "stopped", seconds=30)
        second.locator("#run").click()
        first.locator("#stop").click()
        assert "Done in" in _state(second, "done", 120)
        assert "Stopped" in _state(first, "stopped")
        assert "steps=1" in second.url and "attack=strong" in first.url


@pytest.mark.slow
def test_a_batch_and_a_certificate(page: Any, tmp_path: Path) -> None:
    write_png(torch.rand(1, 3, 48, 48), tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"nothing of the kind")
    _unfold(page, "attack-details")
    _set(page, "steps", 1)
    _tab(page, "Batch")
    page.locator("#photos input[type=file]").set_input_files([tmp_path / "good.png", tmp_path / "bad.png"])
    page.locator("#photos").get_by_text("bad").first.wait_for()
    page.locator("#run-batch").click()
    assert "1 of 2 photos" in _state(page, "done", 120, "batch-status")
    assert "not an image" in page.locator("#batch-table").inner_text()
    assert page.locator("#batch-files a").count() >= 2

    _tab(page, "Certify")
    page.locator("#samples-of-noise").get_by_label("100").check()
    page.locator("#run-certify").click()
    _state(page, "running", line="certify-status")
    page.locator("#stop-certify").click()
    assert "Stopped" in _state(page, "stopped", 30, "certify-status")
    page.locator("#run-certify").click()
    assert "Done in" in _state(page, "done", 200, "certify-status")
    assert "Not certified" in page.locator("#certified").inner_text()
    assert page.locator("#certificates tbody tr").count() == 4
