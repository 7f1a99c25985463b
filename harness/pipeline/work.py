"""A run under way: where it works and what it has found so far, and how its processes are run.

In: what the command line asked for. Out: `Work`, which every step of a run is handed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.jobs.prepared import Prepared
from harness.pipeline.options import Options
from harness.pipeline.tasks import RunPaths, conversion_mb
from harness.processes import server
from harness.processes.packing import packed
from harness.processes.scheduler import Task, TaskResult, Watcher, run_tasks
from harness.spec.model import SpecRef
from harness.spec.rests import Rests
from harness.store.cache import Cache
from harness.store.run_folder import LOG_FILE
from harness.system.memory import memory

_OVERLAP_MB = 3800  # stages of a small model overlap up to this, though its conversion takes less


@dataclass
class Work:
    """A run under way: where it works, and what it has found so far."""

    options: Options
    ref: SpecRef
    folder: Path
    cache: Cache
    watcher: Watcher
    run_id: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    rests: list[Rests | None] = field(default_factory=list)  # what was found now rests on, for `remember`

    @property
    def log(self) -> Path:
        return self.folder / LOG_FILE

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.timings[name] = round(time.monotonic() - began, 3)


def place_of(state: Work) -> RunPaths:
    tflite = state.options.tflite
    return RunPaths(
        spec_file=str(state.ref.file.resolve()),
        spec_variable=state.ref.variable,
        cache_root=str(state.cache.root),
        traces=state.folder / "traces",
        tflite=tflite.resolve() if tflite else None,
        timeout=state.options.timeout,
    )


def processes(
    state: Work, prepared: Prepared, tasks: list[Task], watcher: Watcher | None = None, after: Sequence[Task] = ()
) -> dict[str, TaskResult]:
    """after: see `packed`."""
    # Whoever could convert the model has this much; stages that overlap take no more.
    budget = min(0.8 * memory().free / 1e6, max(_OVERLAP_MB, conversion_mb(prepared)))
    cores = os.cpu_count() or 1
    beside_server = budget - server.MEMORY_MB
    return run_tasks(
        packed(tasks, cores, beside_server, after), state.log, watcher or state.watcher, cores=cores, memory_mb=budget
    )
