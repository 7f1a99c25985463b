"""Open a TFLite stage: on its tapped copy, or, in a local pass, on the file that is cut through at every tap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.jobs.job import Job
from harness.jobs.session import AS_NAMED, Given, Session
from harness.stages.litert.local import open_local
from harness.stages.litert.stage import TFLite


@contextmanager
def open_session(job: Job, given: Given = AS_NAMED) -> Iterator[Session]:
    """See `harness/jobs/session.py`."""
    if job.reference is None:
        yield TFLite(job)
        return
    with open_local(job) as session:
        yield session
