"""The picture of the workbench, taken in a real browser: ``python -m tests.site.workbench``.

By hand, since it takes a browser, and another picture each time.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.developing import developing

PICTURE = Path(__file__).parents[2] / "docs" / "assets" / "workbench.png"


def main() -> None:
    """A worker is killed in the middle of a turn, and the customer has noticed nothing."""
    with (
        tempfile.TemporaryDirectory() as folder,
        developing(Path(folder), "--demo") as served,
        sync_playwright() as playing,
    ):
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playing.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        tab.goto(served.url)
        served.until("worker", state="ready")
        tab.fill("#text", "Hola! What's on the menu?")
        tab.press("#text", "Enter")
        served.settled(2)
        tab.fill("#text", "two pepperoni, please")
        tab.click("#ways button:has-text('Twice')")
        tab.locator(".turn").nth(1).locator(".bar.model.running").wait_for()
        tab.click("#faults button:has-text('Kill')")
        served.settled(4)
        tab.locator(".queue.busy").first.wait_for(state="detached")
        tab.mouse.move(0, 0)
        tab.wait_for_timeout(2000)
        tab.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
