"""Which positions of a long input are kept of every tap.

In: an input and the sizes of the converted model. Out: the positions, the same for every stage of a run. Pure.

Attention's probabilities grow with the square of an input: of 4,096 positions SmolLM2 has 18 GB of them in each stage,
and of all other taps 6 GB. Up to `WHOLE_UP_TO` positions a trace holds everything. Past that it holds what later
positions are computed from at every position (`KEPT_WHOLE` in `harness/names/sample.py`), and the rest at the positions
chosen here: both ends, the edges of chunks and of the sliding window, powers of two, steps of decode, and others in
between.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from harness.inputs.tokens import Scheduled, Sizes, Step, schedule_of
from harness.names.sample import Sample

_ENDS = 4  # positions at each end
_BORDERS = 32  # borders of chunks, with the position on either side
_STEPS = 64  # steps of decode
_BETWEEN = 96  # others: of 4,096 positions no 70 in a row lie between two of them
_GOLDEN = (math.sqrt(5) - 1) / 2


class Sampled(Sizes, Protocol):
    """Of the model, and how long an input may be to be kept whole: a `Job`, or what a run has prepared."""

    @property
    def dimensions(self) -> Any: ...
    @property
    def whole_up_to(self) -> int: ...


def sample_of(item: Scheduled, sizes: Sampled, *, local: bool = False) -> Sample | None:
    """The positions that a trace of an input keeps of every tap; None where it keeps them all.

    local: of a local pass, which holds no tap at another position: what goes into it is known at these alone.
    """
    length = len(item.tokens)
    if length <= sizes.whole_up_to:
        return None
    return Sample(sampled_positions(length, schedule_of(item, sizes), sizes.dimensions.window), every=local)


def sampled_positions(length: int, steps: Sequence[Step], window: int | None) -> tuple[int, ...]:
    """In order, each once. window: the sliding window in tokens, if there is one."""
    chunks = [step.start for step in steps if step.size > 1 and step.start]
    decoded = [step.start for step in steps if step.size == 1]
    found = {*range(_ENDS), *range(length - _ENDS, length), *_between(length)}
    found |= {position for start in _spread(chunks, _BORDERS) for position in (start - 1, start)}
    found |= set(_spread(decoded, _STEPS))
    edges = [1 << power for power in range(10, length.bit_length())]  # where tables and scaled rotations end
    found |= {position for edge in (*edges, window or 0) for position in (edge - 1, edge, edge + 1)}
    return tuple(sorted(position for position in found if 0 <= position < length))


def _between(length: int) -> Iterable[int]:
    """One position in each of equal stretches, never at the same place of two: chunks are equal stretches as well."""
    stretch = length / _BETWEEN
    return (int((number + number * _GOLDEN % 1) * stretch) for number in range(_BETWEEN))


def _spread(values: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[number * (len(values) - 1) // (most - 1)] for number in range(most)]
