"""`explain --repro`: write the folder in a process of its own, run its script once, and say what came of it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from harness.errors import UsageError
from harness.explain.task import EVIDENCE, REPRO, RUN_FILE, repro_task
from harness.jobs.results import Repro
from harness.names.stages import Hop, runs_file
from harness.processes.scheduler import Watcher, run_tasks
from harness.record.record import Record
from harness.spec.trust import check_trusted, spec_to_run
from harness.store.run_folder import check_new_folder
from harness.system.reading import TEXT, read_json

_SECONDS = 120


def pack(run: Path, record: Record, target: Path, watcher: Watcher, spec: str | None = None) -> str:
    """Write `target` and return what its script prints. Raises UsageError where there is nothing to show.

    spec: the declaration as the user names it; else the run's, if it was run here.
    """
    if record.first_fault is None:
        raise UsageError(f"{run} has no fault at a tap, so there is nothing to reproduce; leave --repro out")
    if not (run / EVIDENCE / "0.npz").is_file():
        raise UsageError(f"{run} holds no evidence of its fault ({'; '.join(record.unexplained) or 'an older run'})")
    check_new_folder(target, "--repro")
    told = _may_run(run / EVIDENCE, spec)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--repro {target} cannot be made ({error.strerror}); give another folder") from None
    with tempfile.TemporaryDirectory() as logs:
        result = run_tasks([repro_task(run, target.resolve(), told)], Path(logs) / "repro.log", watcher)[REPRO]
    made = result.gave(Repro)
    if made is None:
        raise UsageError(f"--repro {target}: the faulty piece cannot be cut out: {result.detail.split(';')[0]}")
    done = subprocess.run([sys.executable, made.script], capture_output=True, text=True, timeout=_SECONDS, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[-1] if lines else f"its script says nothing (exit {done.returncode})"


def _may_run(evidence: Path, named: str | None) -> dict[str, str]:
    """The declaration to run, in place of what the evidence names. Raises UsageError for what may not be run."""
    about = read_json(evidence / RUN_FILE, "run the model again", TEXT)
    fault = read_json(evidence / "0.json", "run the model again")
    try:
        if runs_file(Hop.parse(str(fault["hop"])).candidate):  # built of the flatbuffer alone
            check_trusted(Path(about["flatbuffer"]), "the flatbuffer", "run the model with it first: run --tflite FILE")
            return {}
        ref = spec_to_run(named, about["spec_file"], about["spec_variable"])
    except (KeyError, TypeError, IndexError, ValueError):
        raise UsageError(f"{evidence} holds no evidence that can be read; run the model again") from None
    return {"spec_file": str(ref.file.resolve()), "spec_variable": ref.variable}
