"""A real headless Chromium that opens a page from the disk and reports everything it says and asks for."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SCREENSHOTS = ROOT / "build" / "screenshots"
NO_BROWSER = (
    "NOT TESTED: no Chromium here; install one (on Debian 'apt-get install chromium') to test pages in a browser"
)
_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


def browser_path() -> str | None:
    """EDGE_PARITY_CHROMIUM, else the first Chromium in the path."""
    return os.environ.get("EDGE_PARITY_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


in_a_browser = pytest.mark.skipif(browser_path() is None, reason=NO_BROWSER)


class Opened:
    """A page in a browser. said: messages of the console and errors. asked: every address but the page's own."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path: Path, scripted: bool = True) -> Opened:
        """scripted: whether the page has a script that says when all is drawn."""
        self.page.goto(path.as_uri())
        if scripted:
            self.page.wait_for_selector("html[data-ready=yes]", timeout=30_000)
        return self

    @property
    def outside(self) -> list[str]:
        """Requests for anything but the file itself."""
        own = self.page.url.split("#")[0]
        return [url for url in self.asked if url.split("#")[0] != own and not url.startswith("data:")]

    def first_screen(self) -> str:
        """The text that can be read without scrolling."""
        return str(
            self.page.evaluate(
                """() => {
                    const seen = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
                    while (walker.nextNode()) {
                        const range = document.createRange();
                        range.selectNodeContents(walker.currentNode);
                        const box = range.getBoundingClientRect();
                        const inside = box.bottom <= innerHeight && box.right > 0;
                        if (box.height && box.width && inside) seen.push(walker.currentNode.data);
                    }
                    return seen.join(" ").replace(/\\s+/g, " ");
                }"""
            )
        )

    def charts(self) -> dict[str, int]:
        """Points drawn per hop."""
        found = self.page.query_selector_all(".plot[data-hop]")
        return {box.get_attribute("data-hop"): int(box.get_attribute("data-points")) for box in found}

    def keep(self, name: str, **options: Any) -> None:
        """A screenshot as a file, for people to look at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{re.sub(r'[^a-z0-9-]+', '-', name)}.png", **options)


@contextmanager
def chromium() -> Iterator[Any]:
    """The system's browser, driven by Playwright, which brings none of its own here."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=list(_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()
