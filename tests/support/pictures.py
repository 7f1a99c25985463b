"""The pictures of a report and of its graphs in the README, made of a real run: `make pictures`.

Gemma 1 as a miniature: its flatbuffer has a known upstream defect that one runtime shows and the other hides.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from browser import NO_BROWSER, Opened, browser_path, chromium
from panes import Panes, exploring
from paths import ROOT

IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 1280, "height": 800}
WIDE = {"width": 1680, "height": 900}


def main() -> None:
    """Run, open report and graphs, and keep what is seen first."""
    if browser_path() is None:
        sys.exit(NO_BROWSER)
    with tempfile.TemporaryDirectory(prefix="parity-") as out:
        words = [sys.executable, "-m", "harness.commands.main", "run", "gemma1", "--miniature", "--out", out]
        ended = subprocess.run(words, cwd=ROOT, check=False)
        if ended.returncode != 1:
            sys.exit(f"gemma1 ended with {ended.returncode}, and this picture is of a run that fails")
        (report,) = Path(out).glob("gemma1/*/report.html")
        IMAGES.mkdir(exist_ok=True)
        with chromium() as browser, exploring(report.parent) as url:
            Opened(browser.new_page(viewport=SIZE)).open(report).page.screenshot(path=IMAGES / "report.png")
            panes = Panes(browser.new_page(viewport=WIDE)).open_at(url)
            panes.settle()
            panes.page.screenshot(path=IMAGES / "explorer.png")
    print(*(path.relative_to(ROOT) for path in (IMAGES / "report.png", IMAGES / "explorer.png")))


if __name__ == "__main__":
    main()
