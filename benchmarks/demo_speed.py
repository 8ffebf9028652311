"""Seconds from the start of the demo to its page, and from a click on Run to the first stage and to the end."""

from __future__ import annotations

import sys
import time

from chromium import SECOND, chromium, demo, opened

SAMPLE = "?sample=Night+street&attack=quick&defense=fast"


def main() -> None:
    started = time.monotonic()
    with demo() as url, chromium() as browser:
        page = opened(browser, f"{url}/{SAMPLE}")
        said = [("start to page", time.monotonic() - started)]
        clicked = time.monotonic()
        page.locator("#run:visible").first.click()
        page.locator("#strip .thumbnail-lg").first.wait_for(timeout=60 * SECOND)
        said.append(("click to first stage", time.monotonic() - clicked))
        page.locator('#status [data-state="done"]').wait_for()
        said.append(("click to end", time.monotonic() - clicked))
    sys.stdout.writelines(f"{what}: {seconds:.1f} s\n" for what, seconds in said)


if __name__ == "__main__":
    main()
