"""The Keras model and its fake-quantised forms step by step, in the signatures' sizes, on a device's KV cache.

In: an open session of the stage. Out: a `Driver`. A call makes a new cache and leaves the one it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.inputs.tokens import Step
from harness.jobs.driver import Abilities, Array, Cache, Called, step_tokens
from harness.names.taps import LOGITS, block_tap
from harness.stages.keras.fakequant import FakeQuantised
from harness.stages.keras.network import CACHE
from harness.stages.keras.stage import KerasSession


@dataclass(frozen=True)
class KerasDriver:
    """A `Driver`."""

    session: KerasSession
    can: ClassVar[Abilities] = Abilities(pads=True, slots=True, signatures=False)

    @property
    def prefill(self) -> tuple[int, ...]:
        return tuple(sorted(self.session.job.prefill))

    @property
    def kv_cache_len(self) -> int:
        return self.session.job.kv_cache_len

    def fresh(self) -> Cache:
        return self.session.empty()

    def call(self, step: Step, tokens: Sequence[int], cache: Cache) -> Called:
        output = self.session.call(step, step_tokens(step, tokens, pads=True), cache)
        return Called(output[LOGITS][0, : step.valid], {name: output[name] for name in cache})

    def slots(self, cache: Cache) -> dict[str, Array]:
        made: dict[str, Array] = {}
        for name, values in cache.items():
            side, _, block = name.removeprefix(CACHE).partition("_")
            made[block_tap(int(block), f"cache.{side}")] = np.array(values)
        return made

    @contextmanager
    def with_threads(self, threads: int) -> Iterator[KerasDriver]:
        """TensorFlow takes its threads before its first operator alone: the law is checked on those that it has."""
        yield self


@contextmanager
def open_driver(session: KerasSession | FakeQuantised) -> Iterator[KerasDriver]:
    """See `harness/jobs/driver.py`."""
    own = session.own if isinstance(session, FakeQuantised) else session
    with own.capture.nobody_listens():
        yield KerasDriver(own)
