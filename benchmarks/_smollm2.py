"""Runs of SmolLM2 that benchmarks look at. In: where they go, and options of `edge-parity run`. Out: a run folder."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAITHFUL, BROKEN = "smollm2", "benchmarks/_broken_smollm2.py"


def make_run(out: Path, *options: str, model: str = FAITHFUL, ends: tuple[int, ...] = (0,)) -> Path:
    """A new run of FAITHFUL or BROKEN. ends: exit codes that will do; with another one this process exits too."""
    words = [sys.executable, "-m", "harness.commands.main", "run", model, *options, "--out", str(out)]
    ended = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    if ended.returncode not in ends:
        sys.exit(f"{model} ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return next(out.glob("*/*/parity.json")).parent
