"""The re-authored model and its fake-quantised forms step by step, in the signatures' sizes, on a device's KV cache.

In: an open session of one of these stages. Out: a `Driver`. A call makes a new cache and leaves the one it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from harness.align.layout import canonical_cache
from harness.inputs.tokens import Step
from harness.jobs.driver import Abilities, Array, Cache, Called, SizesOfJob, step_tokens
from harness.jobs.job import Job
from harness.names.taps import LOGITS, block_tap
from harness.stages.litert_torch.fakequant import FakeQuantised
from harness.stages.litert_torch.stage import Reauthored, new_cache
from harness.stages.torch.threads import threads_set


@dataclass(frozen=True)
class ReauthoredDriver(SizesOfJob):
    """A `Driver`."""

    session: Reauthored
    can: ClassVar[Abilities] = Abilities(pads=True, slots=True, signatures=False)

    def named_by(self) -> Job:
        return self.session.job

    def fresh(self) -> Cache:
        return new_cache(self.session.config, self.session.job)

    def call(self, step: Step, tokens: Sequence[int], cache: Cache) -> Called:
        given = torch.tensor([step_tokens(step, tokens, pads=True)], dtype=torch.int)
        positions = torch.arange(step.start, step.start + step.size, dtype=torch.int)
        with torch.no_grad():  # again: whoever opens another stage in this process leaves it
            output = self.session.network(given, positions, cache)
        return Called(output[LOGITS][0, : step.valid].numpy(), output["kv_cache"])

    def slots(self, cache: Cache) -> dict[str, Array]:
        layout = self.session.job.variant.kv_layout
        return {
            block_tap(block, f"cache.{side}"): canonical_cache(values, side, layout).clone().numpy()
            for block, entry in enumerate(cache.caches)
            for side, values in (("k", entry.k_cache), ("v", entry.v_cache))
        }

    @contextmanager
    def with_threads(self, threads: int) -> Iterator[ReauthoredDriver]:
        with threads_set(threads):
            yield self


@contextmanager
def open_driver(session: Reauthored | FakeQuantised) -> Iterator[ReauthoredDriver]:
    """See `harness/jobs/driver.py`."""
    own = session.own if isinstance(session, FakeQuantised) else session
    with own.capture.nobody_listens():
        yield ReauthoredDriver(own)
