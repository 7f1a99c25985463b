"""A stage in NumPy that is driven step by step, one layer of attention over a KV cache, and mistakes that break laws.

It computes row by row, so that a prefill gives the bits of as many decodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness.flatbuffer.signatures import DECODE
from harness.inputs.tokens import Step
from harness.jobs.driver import Abilities, Array, Cache, Called, step_tokens

VOCABULARY, WIDTH, SLOTS = 11, 4, 24
LATE = 14  # KV caches after which "late state" shows
KEYS, VALUES = "block.0.cache.k", "block.0.cache.v"


def _table(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


@dataclass
class ToyDriver:
    """A `Driver`. fault: one of `FAULTS`; empty for none."""

    fault: str = ""
    dtype: Any = np.float32
    can: Abilities = Abilities(pads=True, slots=True, signatures=True)  # noqa: RUF009
    prefill: tuple[int, ...] = (4, 8)
    kv_cache_len: int = SLOTS
    threads: int = 1
    state: list[float] = field(default_factory=lambda: [0.0])
    last: list[str] = field(default_factory=lambda: [""])
    sessions: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        self.embedding, self.head = (_table(n, VOCABULARY, WIDTH).astype(self.dtype) for n in (0, 1))
        self.places = _table(2, SLOTS + 1, WIDTH).astype(self.dtype)

    def fresh(self) -> Cache:
        self.sessions[0] += 1
        return {tap: np.zeros((SLOTS, WIDTH), self.dtype) for tap in (KEYS, VALUES)}

    def slots(self, cache: Cache) -> dict[str, Array]:
        return {tap: values[None, :, None].copy() for tap, values in cache.items()}

    def call(self, step: Step, tokens: Sequence[int], cache: Cache) -> Called:
        own = {tap: values.copy() for tap, values in cache.items()}
        if self.fault == "clears":
            own[KEYS][step.start + step.size + 1 :] = 0
        rows = [
            self._write(step, step.start + i, token, own) for i, token in enumerate(step_tokens(step, tokens, True))
        ]
        logits = np.stack([self._row(step, step.start + i, row, own) for i, row in enumerate(rows[: step.valid])])
        self.state[0], self.last[0] = float(rows[-1].sum()), step.signature
        return Called(logits, own)

    def _write(self, step: Step, position: int, token: int, cache: Cache) -> Array:
        place = position + (self.fault == "decode position" and step.signature == DECODE)
        x = self.embedding[token] + self.places[place]
        slot = position + (self.fault == "slot" and step.signature == DECODE)
        if slot < SLOTS:
            cache[KEYS][slot], cache[VALUES][slot] = np.sin(x), x
        return x

    def _row(self, step: Step, position: int, x: Array, cache: Cache) -> Array:
        seen = position + 1
        if self.fault == "padding":
            seen = max(seen, step.start + step.size)
        if self.fault == "mask of the last slot":
            seen = min(position + 2, SLOTS)
        powers = np.exp(cache[KEYS][:seen] @ x)
        context = (powers[:, None] * cache[VALUES][:seen]).sum(0) / powers.sum()
        if self.fault == "state" and self.last[0]:
            context = context + self.dtype(1e-3 * self.state[0])
        if self.fault == "order" and self.last[0] == DECODE and step.signature == "prefill_8":
            context = context * self.dtype(1.001)
        if self.fault == "late state" and self.sessions[0] > LATE:
            context = context * self.dtype(1.001)
        if self.fault == "random":
            context = context * self.dtype(1 + 1e-3 * np.random.default_rng().random())
        if self.threads > 1 and self.fault.startswith("threads"):
            context = context * self.dtype(1.1 if self.fault == "threads" else 1 + 2e-7)
        made: Array = self.head @ (x + context)
        return made

    @contextmanager
    def with_threads(self, threads: int) -> Iterator[ToyDriver]:
        yield replace(self, threads=threads, sessions=[0])
