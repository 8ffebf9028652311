"""The README's pictures of the demo, as visitors see it: docs/*.png. `make screenshots` runs this."""

from __future__ import annotations

import io
from pathlib import Path

from chromium import ROOT, SECOND, chromium, demo, opened, run
from PIL import Image
from playwright.sync_api import Page

FOLDER = ROOT / "docs"
DESKTOP, PHONE = (1280, 1100), (375, 812)
# What a visitor meets who only presses Run; the seed makes the numbers the same each time.
RUN = "?attack=quick&defense=fast&seed=1&__theme="
COLOURS = 128  # of a palette; the pictures are shown small


def write(page: Page, path: Path) -> None:
    """What the window shows, as a PNG of few colours."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(SECOND)  # what fades in
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    page.close()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with demo() as url, chromium() as browser:
        page = opened(browser, f"{url}/{RUN}light", DESKTOP)
        run(page)
        page.evaluate("scrollTo(0, 0)")
        write(page, FOLDER / "demo.png")

        page = opened(browser, f"{url}/{RUN}dark", PHONE, scale=1.5)
        run(page)
        page.locator("#verdict").scroll_into_view_if_needed()
        write(page, FOLDER / "phone.png")

        page = opened(browser, f"{url}/?__theme=light", DESKTOP)
        page.get_by_role("tab", name="Robustness", exact=True).click()
        page.locator("#plot svg, #plot canvas").first.wait_for()
        write(page, FOLDER / "robustness.png")


if __name__ == "__main__":
    main()
