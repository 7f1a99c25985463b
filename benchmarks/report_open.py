"""How long a report of SmolLM2 with ten inputs takes until it can be used, in headless Chromium.

    python benchmarks/report_open.py [--run RUN] [--rounds 3]

RUN is a run folder; without it `edge-parity run smollm2` makes one of ten inputs. Beside it, what one would do without
a report: the table of taps as pandas writes it (`DataFrame.to_html`), opened in the same browser. From the start of
the page to its last chart, and to the end of loading.

Promise: a second, and a file under 2 MB.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path

from _smollm2 import ROOT, make_run

sys.path.insert(0, str(ROOT / "tests" / "support"))

from browser import NO_BROWSER, Opened, browser_path, chromium

READY = "performance.getEntriesByName('ready')[0].startTime"
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"

_PATIENCE = 300_000  # milliseconds


def a_run(out: Path) -> Path:
    """A new run of SmolLM2 on ten inputs of 8 to 80 tokens. Exits when it does not end with a verdict."""
    draw = random.Random(0)
    lines = [
        json.dumps({"id": f"input-{number}", "tokens": [draw.randrange(3, 49152) for _ in range(8 * number)]})
        for number in range(1, 11)
    ]
    inputs = out / "ten.jsonl"
    inputs.write_text("\n".join(lines) + "\n")
    return make_run(out, "--inputs", str(inputs), ends=(0, 1))


def seconds(browser: object, path: Path, mark: str, scripted: bool) -> float:
    """Seconds from the start of a fresh page to the mark."""
    page = Opened(browser.new_page(viewport={"width": 1280, "height": 800}))  # type: ignore[attr-defined]
    page.page.set_default_timeout(_PATIENCE)
    page.open(path, scripted)
    page.page.wait_for_function(f"{LOADED} > 0")
    taken = float(page.page.evaluate(mark)) / 1e3
    page.page.close()
    return taken


def main() -> None:
    """Measure and print."""
    import pandas as pd

    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if browser_path() is None:
        sys.exit(NO_BROWSER)
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        out = Path(folder)
        run = (options.run or a_run(out)).resolve()
        frame = pd.read_parquet(run / "taps.parquet")
        table = out / "table.html"
        table.write_text(frame.to_html(), encoding="utf-8")
        pages = {"report": (run / "report.html", READY, True), "pandas table": (table, LOADED, False)}
        medians = {}
        with chromium() as browser:
            for name, (path, mark, scripted) in pages.items():
                taken = [seconds(browser, path, mark, scripted) for _ in range(options.rounds)]
                medians[name] = statistics.median(taken)
                rounds = " ".join(f"{one:.2f}" for one in taken)
                print(f"{name}: {medians[name]:.2f} s, {path.stat().st_size / 1e6:.2f} MB ({rounds})", flush=True)
        print(
            f"{len(frame)} rows; the report takes {medians['report'] / medians['pandas table']:.2f} of the table's time"
        )


if __name__ == "__main__":
    main()
