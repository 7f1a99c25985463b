"""Record what the Keras model computes on the way, operator by operator.

In: a job with one input. Out: the input's trace, and for each step of its schedule every tensor that TensorFlow's
operators give, with the variables they are made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from harness.jobs.job import Job
from harness.jobs.session import Given
from harness.stages.keras.declaration import KerasModel
from harness.stages.keras.network import variables_of
from harness.stages.keras.stage import KerasSession, open_session
from harness.store.trace import Trace

Array = np.ndarray[Any, Any]
_LARGEST = 1 << 26  # bytes


def record(job: Job, model: KerasModel) -> dict[int, list[tuple[str, Array]]]:
    """Trace the job's one input. Returns position of the step's start -> named tensors, in order of computation."""
    (item,) = job.inputs
    steps: dict[int, list[tuple[str, Array]]] = {}
    with open_session(job, Given(model=model)) as session:
        held = list(variables_of(session.network).items())
        with _overhearing(session, steps, job.record_at, held):
            session.trace(item)
    assert Trace.open(job.traces / item.id)
    return steps


@contextmanager
def _overhearing(
    session: KerasSession, steps: dict[int, list[tuple[str, Array]]], only_at: int | None, held: list[tuple[str, Array]]
) -> Iterator[None]:
    from tensorflow.python.framework import op_callbacks  # what TensorFlow's own debugger is made with

    def heard(kind: bytes, inputs: Any, attributes: Any, outputs: Any, op_name: Any = None, graph: Any = None) -> None:
        at = session.capture.start
        if graph is not None or only_at not in (None, at):
            return
        kept = steps.setdefault(at, list(held))
        for value in outputs:
            if value.dtype.is_floating and value.dtype.size * int(np.prod(value.shape)) <= _LARGEST:
                name = kind.decode() if isinstance(kind, bytes) else str(kind)
                kept.append((f"{name} {len(kept)}", np.array(value)))

    op_callbacks.add_op_callback(heard)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(heard)
