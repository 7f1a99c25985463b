"""Hypothesis strategies for inputs, for our own property tests and for anyone who tests a model of theirs.

In: a model's vocabulary and cache. Out: token ids, `TokenInput`s and schedules that a device could meet, which
shrink to short sequences of low ids.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from harness.inputs import Step, TokenInput, schedule

LONGEST = 64


@dataclass(frozen=True)
class Scheduled:
    """The arguments of `harness.inputs.schedule`, and what it made of them."""

    length: int
    decode_tail: int
    prefill: tuple[int, ...]
    kv_cache_len: int
    steps: tuple[Step, ...]


def token_ids(vocab_size: int, min_length: int = 1, max_length: int = LONGEST) -> st.SearchStrategy[tuple[int, ...]]:
    """Token ids in [0, vocab_size): any mixture, or one id over and over, which makes attention rows equal."""
    ids = st.integers(0, vocab_size - 1)
    mixed = st.lists(ids, min_size=min_length, max_size=max_length).map(tuple)
    repeated = st.tuples(ids, st.integers(min_length, max_length)).map(lambda pair: (pair[0],) * pair[1])
    return mixed | repeated


@st.composite
def token_inputs(draw: st.DrawFn, vocab_size: int, kv_cache_len: int) -> TokenInput:
    """An input that fits the cache, with any decode tail."""
    tokens = draw(token_ids(vocab_size, max_length=min(kv_cache_len, LONGEST)))
    return TokenInput("generated", tokens, None, draw(st.integers(0, len(tokens))))


@st.composite
def schedules(draw: st.DrawFn, max_kv_cache_len: int = 300) -> Scheduled:
    """A schedule for any cache up to the given length, up to four prefill signatures (some too large for it)."""
    cache = draw(st.integers(1, max_kv_cache_len))
    prefill = tuple(draw(st.lists(st.integers(1, cache + 8), max_size=4, unique=True)))
    length = draw(st.integers(1, cache))
    tail = draw(st.integers(0, length))
    return Scheduled(length, tail, prefill, cache, tuple(schedule(length, tail, prefill, cache)))
