"""How long Model Explorer takes to draw a run of thirty blocks: from asking for the page to both panes with overlays.

    python benchmarks/explore_draw.py [--run RUN] [--rounds 3]

RUN is a run folder, `latest` or `MODEL@latest`; without it `edge-parity run smollm2` makes one. Prints seconds per
level as medians, with nodes per pane. In headless Chromium, which draws by software.

Promise: under 5 s at tap level.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import NO_BROWSER, browser_path, chromium  # noqa: E402
from panes import Panes, exploring  # noqa: E402

SIZE = {"width": 1440, "height": 900}


def a_run(out: Path) -> Path:
    """A new run of SmolLM2. Exits when it does not pass."""
    words = [sys.executable, "-m", "harness.cli", "run", "smollm2", "--stages", "reauthored,tflite-xnnpack", "--out"]
    ended = subprocess.run([*words, str(out)], cwd=ROOT, check=False, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"smollm2 ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return next(out.glob("smollm2/*/parity.json")).parent


def seconds_to_draw(browser: object, url: str) -> tuple[float, int]:
    """Seconds until all is drawn, in a fresh page, and the nodes of the right pane."""
    page = browser.new_page(viewport=SIZE)  # type: ignore[attr-defined]
    panes = Panes(page)
    began = time.monotonic()
    panes.open_at(url)
    seconds = time.monotonic() - began
    nodes = len(panes.pane(1)["nodes"])
    page.close()
    return seconds, nodes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=str)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if browser_path() is None:
        sys.exit(NO_BROWSER)
    with tempfile.TemporaryDirectory(prefix="parity-") as out:
        run = options.run or str(a_run(Path(out)))
        for level in ("tap", "op"):
            with chromium() as browser, exploring(run, "--hop", "reauthored->tflite-xnnpack", "--level", level) as url:
                found = [seconds_to_draw(browser, url) for _ in range(options.rounds)]
            median = statistics.median(seconds for seconds, _ in found)
            rounds = " ".join(f"{seconds:.2f}" for seconds, _ in found)
            print(f"level {level}: {median:.2f} s, {found[0][1]} nodes per pane ({rounds})", flush=True)


if __name__ == "__main__":
    main()
