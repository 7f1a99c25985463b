"""Ways to run one conversation through a stage, and whether two of them gave the same bits.

In: a driver and tokens. Out: `Ran`, the logits of every position that gave some, and the KV cache at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from harness.errors import UsageError
from harness.flatbuffer.signatures import DECODE, PREFILL
from harness.inputs.tokens import Step, schedule
from harness.jobs.driver import Array, Cache, Driver
from harness.jobs.job import JobInput
from harness.names.taps import LOGITS

_BITS = {4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class Ran:
    """rows: position -> logits `[vocabulary]`, of the steps that give some. slots: the KV cache at the end, by tap."""

    rows: Mapping[int, Array]
    cache: Cache
    slots: Mapping[str, Array]


class Apart(NamedTuple):
    """The first place where two runs differ. most: how far the numbers there are apart at most. of: the input that was
    run, where it is another than the one that laws are checked on.
    """

    tap: str
    position: int
    most: float
    of: str = ""

    @property
    def words(self) -> str:
        where = "position" if self.tap == LOGITS else "slot"
        of = f" of input {self.of}" if self.of else ""
        return f"{self.tap} differs at {where} {self.position}{of}, by {self.most:.3g} at most"


def run_steps(
    driver: Driver,
    steps: Sequence[Step],
    tokens: Sequence[int],
    cache: Cache | None = None,
    padding: int = 0,
    before: Callable[[], object] = lambda: None,
) -> Ran:
    """tokens: of the whole conversation. padding: the token past a step's valid ones. before: is called before each
    step."""
    rows: dict[int, Array] = {}
    cache = driver.fresh() if cache is None else cache
    for step in steps:
        before()
        own = [*tokens[step.start : step.start + step.valid], *[padding] * (step.size - step.valid)]
        called = driver.call(step, own, cache)
        cache = called.cache
        if called.logits is not None:
            rows |= {step.start + number: row for number, row in enumerate(called.logits)}
    return Ran(rows, cache, driver.slots(cache))


def decodes(start: int, stop: int) -> list[Step]:
    return [Step(DECODE, 1, position, 1) for position in range(start, stop)]


def prefills(driver: Driver, start: int, stop: int) -> list[Step]:
    """Positions start:stop in prefill steps alone, the largest first. Raises UsageError where no signature fits."""
    steps: list[Step] = []
    while start < stop:
        rest = stop - start
        fitting = [size for size in driver.prefill if start + size <= driver.kv_cache_len]
        if not fitting:
            raise UsageError(f"no prefill signature fits at position {start} of a KV cache of {driver.kv_cache_len}")
        size = next((size for size in fitting if size >= rest), fitting[-1])
        steps.append(Step(f"{PREFILL}{size}", size, start, min(size, rest)))
        start += steps[-1].valid
    return steps


@dataclass(frozen=True)
class Conversation:
    """What laws are checked on: a prompt, of which the last `tail` tokens are decoded, and another one beside it.

    vocabulary: how many tokens every version knows. inputs: all that the stage is asked for, each run as one prompt.
    base: what a device does, in a session that is fresh.
    """

    driver: Driver
    tokens: Sequence[int]
    tail: int
    vocabulary: int
    inputs: Sequence[JobInput] = ()

    @cached_property
    def steps(self) -> list[Step]:
        return schedule(len(self.tokens), self.tail, self.driver.prefill, self.driver.kv_cache_len)

    @cached_property
    def base(self) -> Ran:
        return self.again()

    def again(self, **how: Any) -> Ran:
        """how: as `run_steps` takes it."""
        return run_steps(self.driver, self.steps, self.tokens, **how)

    def written(self, item: JobInput) -> Ran:
        """Another input as one prompt, on a fresh cache; of that what it wrote is kept."""
        driver, length = self.driver, len(item.tokens)
        ran = run_steps(driver, schedule(length, item.decode_tail, driver.prefill, driver.kv_cache_len), item.tokens)
        return Ran(ran.rows, None, {tap: values[:, :length].copy() for tap, values in ran.slots.items()})

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def prefilled(self) -> int:
        """How many tokens are not decoded."""
        return sum(step.valid for step in self.steps if step.signature != DECODE)

    @property
    def padding(self) -> int:
        """A token that is not the usual padding, nor one of the last ones."""
        taken = {0, *self.tokens[-2:]}
        return next((token for token in range(self.vocabulary - 1, 0, -1) if token not in taken), 0)

    @property
    def cut(self) -> int:
        """Where what is prefilled is cut in two: chosen by its first token, so that a search of tokens moves it."""
        return 1 + self.tokens[0] % max(1, self.prefilled - 1)

    @cached_property
    def other_steps(self) -> list[Step]:
        """Another conversation, which writes every slot that this one does, and more where there are."""
        reach = max(step.start + step.size for step in self.steps)
        more = min(self.driver.kv_cache_len, reach + (self.driver.prefill[0] if self.driver.prefill else 1))
        return schedule(more, 1, self.driver.prefill, self.driver.kv_cache_len)

    @cached_property
    def other_tokens(self) -> list[int]:
        """Other tokens at every position."""
        length = sum(step.valid for step in self.other_steps)
        own = (*self.tokens, *[0] * length)[:length]
        return [(token + 1 + position % 7) % self.vocabulary for position, token in enumerate(own)]

    @cached_property
    def other(self) -> Ran:
        return run_steps(self.driver, self.other_steps, self.other_tokens)

    @cached_property
    def on_used(self) -> tuple[Ran, Apart | None]:
        """The prompt on the cache that the other conversation left, and the first slot that a step changed outside its
        own."""
        return self.outside_own_slots(self.other.cache)

    def outside_own_slots(self, cache: Cache) -> tuple[Ran, Apart | None]:
        """The prompt on a cache, and the first slot that a step changed outside its own."""
        before: Mapping[str, Array] = self.driver.slots(cache)
        rows: dict[int, Array] = {}
        outside: Apart | None = None
        for step in self.steps:
            ran = run_steps(self.driver, [step], self.tokens, cache)
            for rest in (slice(0, step.start), slice(step.start + step.size, None)):
                outside = outside or slots_apart(before, ran.slots, rest)
            cache, before, rows = ran.cache, ran.slots, {**rows, **ran.rows}
        return Ran(rows, cache, before), outside


def bits_apart(one: Ran, other: Ran, slots: int | None = None) -> Apart | None:
    """Where two runs of the same positions first differ in a bit: in their logits, then in the first `slots` slots of
    their caches, all where none are given. Two NaN are the same."""
    for position in sorted(one.rows.keys() & other.rows.keys()):
        if (apart := _apart(one.rows[position][None], other.rows[position][None])) is not None:
            return Apart(LOGITS, position, apart[1])
    return slots_apart(one.slots, other.slots, slice(0, slots))


def slots_apart(one: Mapping[str, Array], other: Mapping[str, Array], where: slice) -> Apart | None:
    """The first slot in which two caches differ, over all taps."""
    found: list[Apart] = []
    for tap, values in one.items():
        if (apart := _apart(values[0, where], other[tap][0, where])) is not None:
            found.append(Apart(tap, (where.start or 0) + apart[0], apart[1]))
    return min(found, key=lambda apart: apart.position, default=None)


def _apart(one: Array, other: Array) -> tuple[int, float] | None:
    """The first row of `[rows, ...]` that differs in a bit, and the largest difference in it; infinite for NaN."""
    left, right = (values.reshape(len(values), math.prod(values.shape[1:])) for values in (one, other))
    if left.shape != right.shape:
        return 0, float("inf")
    bits = _BITS[left.itemsize]
    differ = np.ascontiguousarray(left).view(bits) != np.ascontiguousarray(right).view(bits)
    differ &= ~(np.isnan(left) & np.isnan(right))
    rows = np.flatnonzero(differ.any(axis=1))
    if not rows.size:
        return None
    row = int(rows[0])
    with np.errstate(invalid="ignore"):
        most = np.abs(left[row].astype(np.float64) - right[row])[differ[row]].max()
    return row, float(most) if np.isfinite(most) else float("inf")
