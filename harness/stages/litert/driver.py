"""A flatbuffer step by step: the file itself, not its tapped copy, as the runtime runs it.

In: an open session of a TFLite stage. Out: a `Driver`. A call copies the KV cache in and out: none is written into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.align.layout import canonical_cache
from harness.flatbuffer.signatures import DECODE
from harness.inputs.tokens import Step
from harness.jobs.driver import Abilities, Array, Cache, Called, SizesOfJob, step_tokens
from harness.jobs.job import Job
from harness.names.taps import LOGITS, block_tap
from harness.stages.litert.stage import CACHE, Runner, TFLite


@dataclass
class TFLiteDriver(SizesOfJob):
    """A `Driver`. opened: the untouched file, opened when it is first asked for. closes: lets go of it."""

    job: Job
    opened: Callable[[], Runner]
    closes: Callable[[], None]
    can: ClassVar[Abilities] = Abilities(pads=True, slots=True, signatures=True)

    def named_by(self) -> Job:
        return self.job

    def fresh(self) -> Cache:
        return self.runner.empty_cache(DECODE)

    def call(self, step: Step, tokens: Sequence[int], cache: Cache) -> Called:
        arguments = self.runner.arguments(step, [0] * (step.start + step.valid))
        arguments["tokens"][0] = step_tokens(step, tokens, pads=True)
        outputs = self.runner.signature(step.signature)(**arguments, **cache)
        logits = outputs[LOGITS][0, : step.valid] if LOGITS in outputs else None
        return Called(logits, {name: outputs[name] for name in cache})

    def slots(self, cache: Cache) -> dict[str, Array]:
        made: dict[str, Array] = {}
        for name, values in cache.items():
            side, _, block = name.removeprefix(CACHE).partition("_")
            own = canonical_cache(values, side, self.job.variant.kv_layout)
            made[block_tap(int(block), f"cache.{side}")] = np.array(own)
        return made

    @contextmanager
    def with_threads(self, threads: int) -> Iterator[TFLiteDriver]:
        """The file is opened again, and never twice at once."""
        self.closes()
        assert self.job.flatbuffer
        other = Runner(self.job.model_copy(update={"threads": threads}), self.job.flatbuffer, preserve=False)
        yield TFLiteDriver(self.job, lambda: other, lambda: None)

    @property
    def runner(self) -> Runner:
        return self.opened()


@contextmanager
def open_driver(session: TFLite) -> Iterator[TFLiteDriver]:
    """See `harness/jobs/driver.py`."""
    yield TFLiteDriver(session.job, lambda: session.untouched, session.let_untouched_go)
