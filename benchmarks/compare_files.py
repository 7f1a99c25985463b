"""What `edge-parity compare` takes on two files: seconds, and the most memory of all its processes together.

python benchmarks/compare_files.py A.tflite B.tflite
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil


def main() -> None:
    command = [sys.executable, "-m", "harness.commands.main", "compare", *sys.argv[1:]]
    began, most = time.perf_counter(), 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        most = max(most, in_all(process.pid))
        time.sleep(0.05)
    print(f"{time.perf_counter() - began:.1f} s, {most / 1e9:.2f} GB at most, exit code {process.returncode}")


def in_all(pid: int) -> int:
    """Bytes that a process and its children hold: what they share is counted once, by its proportional share."""
    held = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            held += process.memory_full_info().pss
        except psutil.Error:
            continue
    return held


if __name__ == "__main__":
    main()
