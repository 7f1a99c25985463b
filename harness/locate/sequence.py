"""Where in the sequence a fault lives: in decode alone, in prefill alone, from some position on.

In: the excess of the faulty tap at each position of all inputs, and how the device ran them. Out: a `Place`. Pure.

A tap that is right at every position that prefill computes, and wrong where decode computes those, is wrong in decode.
One that is right before a position and wrong from there on starts at it. Errors of float32 grow along a sequence, and a
small fault is over its limit here and there: where wrong and right are not far apart, or mixed, nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.names.boundaries import CACHE, CHUNK, DECODE

Array = np.ndarray[Any, Any]
OnlyIn = Literal["", "decode", "prefill"]
_MOST = 2 / 3  # of the positions from the first wrong one on
_APART = 4.0  # times: what is wrong over the worst of what is right


@dataclass(frozen=True)
class Course:
    """What a tap came to along one input.

    excess: of each of `positions`. limit: of a single position. decoded: the first position that decode computed, the
    length where it computed none. chunks: where prefill began another chunk.
    """

    input: str
    positions: Sequence[int]
    excess: Sequence[float]
    limit: float
    decoded: int
    chunks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Place:
    """only_in: the signatures that alone show it. first_step: of decode, counted from 1, on the input that was asked
    for; first_position: where that is. starts_at: the first wrong position of all. boundary: what begins there, a name
    of `harness/names/boundaries.py`.
    """

    only_in: OnlyIn = ""
    first_step: int | None = None
    first_position: int | None = None
    starts_at: int | None = None
    boundary: str = ""


@dataclass(frozen=True)
class _Samples:
    """Every position of every input; arrays of one length."""

    course: Array
    position: Array
    value: Array
    decode: Array
    wrong: Array

    def where(self, mask: Array) -> _Samples:
        return _Samples(*(getattr(self, name)[mask] for name in ("course", "position", "value", "decode", "wrong")))


def place_of(courses: Sequence[Course], shown: str, boundaries: Mapping[str, int]) -> Place:
    """Where in the sequence a tap is wrong. shown: the input on which the first faulty step is counted."""
    samples = _samples(courses)
    if not samples.wrong.any() or samples.wrong.all():
        return Place()
    only_in = _only_in(samples)
    mine = samples.where(samples.decode == (only_in == "decode")) if only_in else samples
    start = _start(mine)
    boundary = "" if start is None else _boundary(start, courses, mine, boundaries, only_in)
    if only_in != "decode":
        return Place(only_in, None, None, start, boundary)
    step, position = _first_step(courses, mine, shown)
    return Place(only_in, step, position, start, boundary)


def _samples(courses: Sequence[Course]) -> _Samples:
    lengths = [len(course.positions) for course in courses]
    value = np.array([value for course in courses for value in course.excess], float)
    value = np.where(np.isnan(value), np.inf, value)
    position = np.array([position for course in courses for position in course.positions], int)
    decoded = np.repeat([course.decoded for course in courses], lengths)
    limit = np.repeat([course.limit for course in courses], lengths)
    return _Samples(np.repeat(np.arange(len(courses)), lengths), position, value, position >= decoded, value > limit)


def _only_in(samples: _Samples) -> OnlyIn:
    """The signatures that alone are wrong; the others have to be right at positions as late as those."""
    later = samples.position >= samples.position[samples.wrong].min()
    kinds: tuple[tuple[OnlyIn, Array], ...] = (("decode", samples.decode), ("prefill", ~samples.decode))
    for name, mine in kinds:
        if (later & ~mine).any() and _mostly_wrong(samples, mine & later) and _apart(samples, ~mine):
            return name
    return ""


def _start(samples: _Samples) -> int | None:
    """The first wrong position, if the one before it was computed and is right, and most from there on are wrong.

    Position 0 sees itself alone, so a fault of attention that begins at 1 is everywhere.
    """
    first = int(samples.position[samples.wrong].min())
    before = samples.position < first
    known = first > 1 and bool((samples.position == first - 1).any())
    return first if known and _mostly_wrong(samples, ~before) and _apart(samples, before) else None


def _mostly_wrong(samples: _Samples, some: Array) -> bool:
    return bool(some.any() and samples.wrong[some].mean() >= _MOST)


def _apart(samples: _Samples, right: Array) -> bool:
    """Whether some samples are right, and what is wrong is far from them."""
    if samples.wrong[right].any():
        return False
    return bool(np.median(samples.value[samples.wrong]) >= _APART * max(1.0, float(samples.value[right].max())))


def _boundary(
    start: int, courses: Sequence[Course], samples: _Samples, boundaries: Mapping[str, int], only_in: OnlyIn
) -> str:
    """What begins at a position: a boundary of the model or of the file; or, in all inputs that are wrong there, a
    chunk, or decode, where prefill computes no position that late and so decode cannot be told from the position."""
    at = {length: name for name, length in boundaries.items() if name != CACHE}
    if CACHE in boundaries:
        at.setdefault(boundaries[CACHE] - 1, CACHE)  # the last position, where none was right before
    if start in at:
        return at[start]
    wrong = [courses[number] for number in set(samples.course[samples.wrong & (samples.position == start)].tolist())]
    if only_in != "decode" and all(start in course.chunks for course in wrong):
        return CHUNK
    return DECODE if not only_in and all(start == course.decoded for course in wrong) else ""


def _first_step(courses: Sequence[Course], samples: _Samples, shown: str) -> tuple[int, int]:
    """(step, position) of the first wrong one on the input that is shown, or on the one that has most of them."""
    counts = {number: int((samples.wrong & (samples.course == number)).sum()) for number in range(len(courses))}
    number = max(counts, key=lambda number: (counts[number] > 0 and courses[number].input == shown, counts[number]))
    position = int(samples.position[samples.wrong & (samples.course == number)].min())
    return position - courses[number].decoded + 1, position
