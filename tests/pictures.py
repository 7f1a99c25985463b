"""The picture of a report in the README, made of a real run: `make pictures`.

Gemma 1 as a miniature: its flatbuffer has a known upstream defect that one runtime shows and the other hides.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from browser import NO_BROWSER, Opened, browser_path, chromium

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "report.png"
SIZE = {"width": 1280, "height": 800}


def main() -> None:
    """Run, open, and keep the first screen."""
    if browser_path() is None:
        sys.exit(NO_BROWSER)
    with tempfile.TemporaryDirectory(prefix="parity-") as out:
        words = [sys.executable, "-m", "harness.cli", "run", "gemma1", "--miniature", "--out", out]
        ended = subprocess.run(words, cwd=ROOT, check=False)
        if ended.returncode != 1:
            sys.exit(f"gemma1 ended with {ended.returncode}, and this picture is of a run that fails")
        (report,) = Path(out).glob("gemma1/*/report.html")
        PICTURE.parent.mkdir(exist_ok=True)
        with chromium() as browser:
            page = Opened(browser.new_page(viewport=SIZE)).open(report)
            page.page.screenshot(path=PICTURE)
    print(PICTURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
