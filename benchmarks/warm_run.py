"""A warm `edge-parity run smollm2` against a bare script that runs the same forwards and compares nothing.

    python benchmarks/warm_run.py [--rounds 3] [--decode N]

Prints, per round and as medians: wall seconds of both and their ratio; and the peak memory of all processes together
(sum of proportional set sizes, sampled five times a second) of two runs of their own: looking at the pages of several
gigabytes slows whoever uses them. The conversion is cached by the first run, which is not counted.

With --decode both decode N more tokens, which the reference has drawn in the first run; the peak is to be the same for
any N.

Promise: ratio at most 1.5, with --decode 32 at most 2.0; peak of a warm run at most 4 GB, of a cold one at most 4.7 GB.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

FOLDER = Path(__file__).parent


def measured(command: list[str], memory: bool = False, ends: tuple[int, ...] = (0,)) -> tuple[float, float]:
    """Wall seconds of a command, and if asked for peak memory in GB of all it starts.

    ends: exit codes that will do; with another one this process exits too.
    """
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, proportional_set_size(process.pid)) if memory else 0.0
        time.sleep(0.2)
    seconds = time.monotonic() - began
    assert process.stderr is not None
    if process.returncode not in ends:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}: {process.stderr.read()[-2000:]}")
    return seconds, peak / 1e9


def proportional_set_size(pid: int) -> float:
    """Bytes of a process and its descendants; pages that several share count once, divided among them."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for member in family:
        try:
            for line in Path(f"/proc/{member.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return float(total)


def bare_job(out: Path, target: Path) -> None:
    """The inputs of the newest run under `out`, and the files that it used, for the bare script."""
    from harness.jobs.reporter import Silent
    from harness.pipeline.prepare import prepare
    from harness.store.cache import Cache

    cache = Cache.standard()
    models = Path(__file__).parent.parent / "models"
    request = {"spec_file": str(models / "smollm2.py"), "spec_variable": "SMOLLM2", "cache_root": str(cache.root)}
    prepared = prepare(request, Silent())
    flatbuffer = cache.root / "conversions" / prepared["conversion_key"] / "model.tflite"
    keys = ("checkpoint", "prefill", "kv_cache_len")
    job = {key: prepared[key] for key in keys} | {"flatbuffer": str(flatbuffer)}
    newest = json.loads(max(out.glob("*/*/parity.json")).read_text())
    job["inputs"] = [{"tokens": one["token_ids"], "decode_tail": one["decoded"]} for one in newest["inputs"]]
    target.write_text(json.dumps(job))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decode", type=int, default=0)
    given = parser.parse_args()
    rounds, promised = given.rounds, 2.0 if given.decode else 1.5
    with tempfile.TemporaryDirectory() as temporary:
        out, job = Path(temporary) / "reports", Path(temporary) / "job.json"
        run = [sys.executable, "-m", "harness.commands.main", "run", "smollm2", "--out", str(out)]
        run += ["--decode", str(given.decode)]
        for which in ("first run (converts if the cache is empty)", "warm run"):
            seconds, peak = measured(run, memory=True)
            print(f"{which}: peak {peak:.2f} GB, in {seconds:.1f} s with the looking", flush=True)
        bare_job(out, job)
        ratios, walls = [], []
        for number in range(rounds):
            bare, _ = measured([sys.executable, str(FOLDER / "_bare.py"), str(job)])
            ours, _ = measured(run)
            ratios.append(ours / bare)
            walls.append(ours)
            print(f"round {number + 1}: bare {bare:6.1f} s  run {ours:6.1f} s  ratio {ours / bare:.2f}", flush=True)
        ratio = statistics.median(ratios)
        print(f"median: run {statistics.median(walls):.1f} s, ratio {ratio:.2f} (promised: {promised})")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
