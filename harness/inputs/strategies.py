"""Hypothesis strategies for inputs, for our own property tests and for anyone who tests a model of theirs.

In: a model's vocabulary and cache. Out: token ids, `TokenInput`s and schedules that a device could meet, which
shrink to short sequences of low ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from harness.inputs.tokens import Step, TokenInput, schedule

LONGEST = 64


@dataclass(frozen=True)
class Scheduled:
    """The arguments of `harness.inputs.tokens.schedule`, and what it made of them."""

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
def searched_inputs(draw: st.DrawFn, vocab_size: int, kv_cache_len: int, edges: Sequence[int] = ()) -> TokenInput:
    """An input of any length the cache holds, short or long alike, with any decode tail. Its ids are any, or a few over
    and over, or so many in a row: every id has its own row in the embedding, and a search is to see as many as it can.

    edges: lengths where something begins or ends (a prefill, a sliding window), which are as likely as all others
    together. Shrinks to fewer tokens and lower ids, and to a decode tail of 1, which is what a device does.
    """
    lengths = st.integers(1, kv_cache_len)
    least = draw(lengths | st.sampled_from(_near(edges, kv_cache_len)))
    tail = draw(st.just(1) | st.integers(0, 4) | st.integers(0, kv_cache_len))
    ids = st.integers(0, vocab_size - 1)
    kind = draw(st.sampled_from(("any", "few", "row")))
    if kind == "row":
        last = draw(ids)  # and not the first, so that what fails at one id shrinks to it from both sides
        tokens = tuple((last - back) % vocab_size for back in reversed(range(least)))
    else:
        exactly = draw(st.booleans())
        few = st.lists(ids, min_size=1, max_size=3)
        # Cut and not drawn to length: the shrinker is to leave out any token, wherever it stands.
        each = ids if kind == "any" else st.sampled_from(draw(few))
        drawn = draw(st.lists(each, min_size=least, max_size=kv_cache_len))
        tokens = tuple(drawn[:least] if exactly else drawn)
    return TokenInput("fuzz", tokens, None, min(tail, len(tokens)))


def _near(edges: Sequence[int], limit: int) -> list[int]:
    """The edges, one less and one more, as far as they are lengths."""
    return sorted({length for edge in (*edges, limit) for length in (edge - 1, edge, edge + 1) if 1 <= length <= limit})


@st.composite
def schedules(draw: st.DrawFn, max_kv_cache_len: int = 300) -> Scheduled:
    """A schedule for any cache up to the given length, up to four prefill signatures (some too large for it)."""
    cache = draw(st.integers(1, max_kv_cache_len))
    prefill = tuple(draw(st.lists(st.integers(1, cache + 8), max_size=4, unique=True)))
    length = draw(st.integers(1, cache))
    tail = draw(st.integers(0, length))
    return Scheduled(length, tail, prefill, cache, tuple(schedule(length, tail, prefill, cache)))


# Where tokenizers part: emoji of several code points, marks that combine, scripts that have no spaces or run from the
# right, spaces of other kinds, letters that normal forms turn into others.
_ODD = (
    "\U0001f469\u200d\U0001f680",
    "e\u0301",
    "\u4e2d\u6587",
    "\u0634\u0643\u0631",
    "\u00a0",
    "\u3000",
    "\ufb01",
    "\u0130",
)


def texts(specials: Sequence[str] = ()) -> st.SearchStrategy[str]:
    """Any text without NUL and lone surrogates: words, digits, runs of spaces and lines, odd letters, and what a
    tokenizer has as special. Shrinks to fewer and plainer pieces."""
    letters = st.characters(codec="utf-8", exclude_characters="\0")
    piece = st.one_of(
        st.text("ab z", min_size=1, max_size=4),
        st.text(" \t\n\r", min_size=1, max_size=5),
        st.text("0123456789.,", min_size=1, max_size=5),
        st.sampled_from([*_ODD, *(text for text in specials if text)]),
        st.text(letters, min_size=1, max_size=8),
    )
    return st.lists(piece, max_size=8).map("".join)
