"""What a stage that can be run step by step is to the engine: for tokens that are chosen as one goes.

In: a stage's open session. Out: the contract (`Driver`), and `driving`, which opens a stage's session and its driver. A
stage's line in `harness/names/stages.py` names the function that makes a driver of a session: so whoever traces a stage
can drive it as well, and the model is loaded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from harness.errors import UsageError
from harness.inputs.tokens import Step
from harness.jobs.job import Job
from harness.jobs.session import AS_NAMED, Given, Session, opener
from harness.names.stages import REAUTHORED, on_route, stage_named
from harness.system.named_function import named_function

Array = np.ndarray[Any, Any]
Cache = Any  # a KV cache as the stage has it: only that stage's driver looks into it


@dataclass(frozen=True)
class Called:
    """What a call gives. logits: `[valid, vocabulary]`, float32 (the oracle's float64); None where the signature gives
    none. cache: the KV cache with the step's positions in it.
    """

    logits: Array | None
    cache: Cache


@dataclass(frozen=True)
class Abilities:
    """What a stage can do beside being called.

    pads: a step has the size of its signature, and the tokens past its valid ones are computed as well. A stage that
        does not pad runs the valid tokens alone, in a step of any size.
    slots: its KV cache has a fixed number of slots, of which those past the written ones can be looked at.
    signatures: a step is a call of a program of its own, which may keep something of the last call.
    """

    pads: bool
    slots: bool
    signatures: bool


class Driver(Protocol):
    """A model that is loaded, and a KV cache that goes from call to call in the hands of the caller."""

    @property
    def can(self) -> Abilities: ...

    @property
    def prefill(self) -> tuple[int, ...]:
        """The sizes of the prefill signatures, ascending. Where a stage does not pad, those of the others."""

    @property
    def kv_cache_len(self) -> int: ...

    def fresh(self) -> Cache:
        """An empty KV cache: zeros where it has slots."""

    def call(self, step: Step, tokens: Sequence[int], cache: Cache) -> Called:
        """Run a step. tokens: those of the step, `valid` of them, or `size` where the padding is to be other than 0.

        The cache that is handed in stays as it was: no stage of the registry writes into it. Raises RuntimeError where
        the runtime refuses the step, ValueError for tokens that are not the step's.
        """

    def slots(self, cache: Cache) -> dict[str, Array]:
        """By tap (`block.0.cache.k`) `[1, slots, kv_heads, head_dim]`, a copy. A cache that grows: what it holds."""

    def with_threads(self, threads: int) -> AbstractContextManager[Driver]:
        """The same model computed by so many threads; its KV caches are not this one's. Until it is left, this one is
        not called."""


class SizesOfJob:
    """Of a `Driver`: the sizes that its stage's job names."""

    def named_by(self) -> Job:
        raise NotImplementedError

    @property
    def prefill(self) -> tuple[int, ...]:
        return tuple(sorted(self.named_by().prefill))

    @property
    def kv_cache_len(self) -> int:
        return self.named_by().kv_cache_len


Opener = Callable[[Any], AbstractContextManager[Driver]]


def driver_of(stage: str, session: Session, own: str = REAUTHORED) -> AbstractContextManager[Driver]:
    """The driver of a session that is open. own: the stage that runs the version of the model's route.

    Raises UsageError for a stage that cannot be driven.
    """
    drives = on_route(stage_named(stage), own).drives
    if not drives:
        raise UsageError(f"{stage} cannot be run step by step; leave it out of --stages")
    open_driver: Opener = named_function(drives)
    return open_driver(session)


@contextmanager
def driving(job: Job, given: Given = AS_NAMED) -> Iterator[Driver]:
    """Open a stage and drive it. Its inputs and traces are not used."""
    with opener(job)(job, given) as session, driver_of(job.stage, session, job.own_stage) as it:
        yield it


def step_tokens(step: Step, tokens: Sequence[int], pads: bool) -> list[int]:
    """What a step is called with: its valid tokens, and where a stage pads, the padding after them.

    Raises ValueError for another number of tokens than the step's.
    """
    if len(tokens) not in (step.valid, step.size):
        raise ValueError(f"{len(tokens)} tokens for {step.signature}, {step.valid} of {step.size} valid")
    if not pads:
        return list(tokens[: step.valid])
    return [*tokens, *[0] * (step.size - len(tokens))]
