"""A stage in NumPy: what `hf` traced, with one tap a little off.

It shows what a stage has to bring: this file, and the line in the registry that tests/stages/test_toy_stage.py adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Reporter
from harness.jobs.session import Facts, Given, Session
from harness.names.memory import Memory
from harness.names.stages import HF, Stage
from harness.store.trace import Trace, TraceWriter

FAULTY_TAP = "block.1.mlp.act"


def toy(name: str, opener: str) -> Stage:
    return Stage(name, "a toy in NumPy", f"toy_stage:{opener}", name, Memory(0, 100), reference=HF, needs=(HF,))


class Toy:
    def __init__(self, job: Job, factor: float) -> None:
        self.job, self.factor = job, np.float32(factor)

    def check(self, inputs: Sequence[JobInput], report: Reporter) -> int:
        return 0

    def trace(self, item: JobInput, reference: Trace | None = None) -> None:
        source = Trace.open(self.job.traces.parent / HF / item.id)
        with TraceWriter(self.job.traces / item.id, len(item.tokens)) as trace:
            for tap in source.taps:
                trace.put(tap, source.load(tap) * (self.factor if tap == FAULTY_TAP else np.float32(1)))

    def facts(self) -> Facts:
        return Facts(runtime=f"numpy {np.__version__}")


@contextmanager
def faithful(job: Job, given: Given) -> Iterator[Session]:
    yield Toy(job, 1.0)


@contextmanager
def faulty(job: Job, given: Given) -> Iterator[Session]:
    yield Toy(job, 1.01)


@contextmanager
def crashing(job: Job, given: Given) -> Iterator[Session]:
    raise RuntimeError("the toy broke")
    yield
