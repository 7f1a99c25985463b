"""How long Model Explorer takes to draw a run of thirty blocks: from asking for the page to the last that it draws.

    python benchmarks/explore_draw.py [--run RUN] [--rounds 3]

RUN is a run folder, `latest` or `MODEL@latest`; without it `edge-parity run` makes two of SmolLM2: one that passes, and
one that fails in its middle, so that the fault is selected and its block open. Prints seconds as medians, with nodes
per pane. In headless Chromium, which draws by software; both panes have their overlays, and nothing moves any more.

Promise: under 5 s at tap level.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from _smollm2 import BROKEN, ROOT, make_run

sys.path.insert(0, str(ROOT / "tests" / "support"))

from browser import NO_BROWSER, browser_path, chromium
from panes import Panes, exploring

SIZE = {"width": 1440, "height": 900}
LEVELS = ("tap", "op")


def seconds_to_draw(browser: object, url: str) -> tuple[float, int]:
    """Seconds until the last drawing, in a fresh page, and the nodes of the right pane."""
    page = browser.new_page(viewport=SIZE)  # type: ignore[attr-defined]
    panes = Panes(page).open_at(url)
    seconds = panes.settle()
    nodes = len(panes.pane(1)["nodes"])
    page.close()
    return seconds, nodes


def cases(given: str | None, out: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """What is measured: its name, its run, and what `edge-parity explore` is told."""
    if given:
        yield from ((f"level {level}", given, ("--level", level)) for level in LEVELS)
        return
    passing = str(make_run(out / "pass", "--stages", "reauthored,tflite-xnnpack"))
    for level in LEVELS:
        yield f"passes, level {level}", passing, ("--hop", "reauthored->tflite-xnnpack", "--level", level)
    yield "fails, level tap", str(make_run(out / "fail", "--stages", "reauthored", model=BROKEN, ends=(1,))), ()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=str)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if browser_path() is None:
        sys.exit(NO_BROWSER)
    with tempfile.TemporaryDirectory(prefix="parity-") as out:
        for name, run, words in cases(options.run, Path(out)):
            with chromium() as browser, exploring(run, *words) as url:
                found = [seconds_to_draw(browser, url) for _ in range(options.rounds)]
            median = statistics.median(seconds for seconds, _ in found)
            rounds = " ".join(f"{seconds:.2f}" for seconds, _ in found)
            print(f"{name}: {median:.2f} s, {found[0][1]} nodes per pane ({rounds})", flush=True)


if __name__ == "__main__":
    main()
