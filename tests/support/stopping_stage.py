"""A stage of the registry that stops in the middle of a trace, for somebody outside to end it there.

In: a job of the stage, whose `opens` is `stopping_stage:open_session`. Out: `reached`, once it has stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.jobs.job import Job
from harness.jobs.session import Given, Session
from harness.names.stages import stage_named
from harness.store.trace import TraceWriter

_TAPS = 5  # written before it stops
_put = TraceWriter.put


def reached(job: Job) -> Path:
    """The file that says it has stopped; it holds the process's id."""
    return job.traces.parent / "stopped"


@contextmanager
def open_session(job: Job, given: Given) -> Iterator[Session]:
    """The stage's own session; within the trace of the last input it goes no further."""
    written = 0

    def put(self: TraceWriter, *values: Any, **more: Any) -> None:
        nonlocal written
        _put(self, *values, **more)
        written += self.folder.name == job.inputs[-1].id
        if written == _TAPS:
            note = reached(job).with_suffix(".part")
            note.write_text(str(os.getpid()))
            note.replace(reached(job))
            time.sleep(1e6)

    module, _, function = stage_named(job.stage).opens.partition(":")
    opener = getattr(__import__(module, fromlist=[function]), function)
    with opener(job, given) as session:
        TraceWriter.put = put  # type: ignore[method-assign]  # in a process of its own, which ends here
        yield session
