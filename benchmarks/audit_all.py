"""`edge-parity audit --all`: wall and processor seconds, imports of the frameworks included.

    python benchmarks/audit_all.py [--rounds 3]

Promise: at most 20 s of wall time on two cores that have nothing else to do.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

LIMIT = 20.0  # seconds


def audited() -> tuple[float, float]:
    """Wall and processor seconds of one audit of all models. Exits when the command itself fails."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, "-m", "harness.commands.main", "audit", "--all", "--json"], capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode > 1:  # 1 says that a model differs, which is not a matter of speed
        sys.exit(f"edge-parity audit --all ended with {ended.returncode}: {ended.stderr[-2000:]}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, processor


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    walls = []
    for number in range(rounds):
        load = os.getloadavg()[0]
        wall, processor = audited()
        walls.append(wall)
        print(f"round {number + 1}: {wall:.1f} s, processor {processor:.1f} s, load before {load:.1f}", flush=True)
    median = statistics.median(walls)
    print(f"median {median:.1f} s, promised {LIMIT:.0f} s on two idle cores")
    sys.exit(int(median > LIMIT))


if __name__ == "__main__":
    main()
