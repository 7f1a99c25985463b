"""Error statistics of a candidate tensor against a reference: two `[1, time, ...]` arrays in, figures per position out.

Both arrays are read once, from a memory map if they lie in one, and nothing of their size is allocated.
`position_stats` keeps sums per token position, from which any stretch of positions can be summarised;
`summarise` makes the figures of a record row out of them; `logit_stats` adds what only logits have.

NaN and infinity are results, not accidents: they are counted, and they make every figure they touch NaN or
infinite, so that no comparison against a limit can pass by mistake. Write such gates as `not (figure <= limit)`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.compare.value_range import ValueRange

Array = np.ndarray[Any, Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Elements copied at a time where an array has to be copied at all (strided, byte-swapped, other dtypes).
SLAB = 1 << 18
# Below this many elements starting threads costs more than they save.
_THREADS_FROM = 1 << 19


@dataclass(frozen=True)
class PositionStats:
    """Sums over the elements of each position, e = candidate - reference; arrays are `[time]`.

    All are accumulated in float64. A position with NaN or infinity on either side has non-finite `squared_error`,
    `max_abs_err` and `sum_abs_err` there. An element that is NaN on one side and infinite on the other is in both
    counts; two equal infinities are in `inf_count`, and their error is NaN.

    `squared_error` is zero only where the two sides are equal: float64 errors below 1e-162, whose squares
    underflow, are rounded up to the smallest positive number.
    """

    squared_error: Floats  # sum of e^2
    squared_reference: Floats
    squared_candidate: Floats
    dot: Floats  # sum of reference * candidate
    max_abs_err: Floats
    sum_abs_err: Floats
    nan_count: Ints
    inf_count: Ints
    elements_per_position: int


@dataclass(frozen=True)
class TapStats:
    """Figures of one tap, over all its positions.

    | figure | definition | no error at all | reference zero, candidate not |
    |---|---|---|---|
    | rel_l2 | norm(e) / norm(reference) | 0 | inf |
    | cosine | dot / (norm(reference) norm(candidate)), in -1..1 | 1 | 0 |
    | snr_db | 10 log10(norm(reference)^2 / norm(e)^2), dB | inf | -inf |

    With a NaN or infinity on either side these three are NaN, and so they are when a sum of squares overflows
    (float64 values above 1e154); `max_abs_err` and `mean_abs_err` are then NaN or inf, whichever the errors give.
    """

    max_abs_err: float
    mean_abs_err: float
    rel_l2: float
    cosine: float
    snr_db: float
    nan_count: int
    inf_count: int
    elements: int


@dataclass(frozen=True)
class LogitStats:
    """Figures of logits per position; arrays are `[time]`.

    `kl` is KL(softmax(reference) || softmax(candidate)) in nats, accurate relative to its size however small, and
    NaN where either side has a NaN or infinity. `top1_*` is the first index of the largest logit; a side with a NaN
    or infinity has none, and reads -1 (reference) or -2 (candidate), which never agree. `margin_reference` is the
    reference's largest logit less its second largest (0 on a tie, inf in a vocabulary of one), NaN without a top-1.
    """

    kl: Floats
    top1_reference: Ints
    top1_candidate: Ints
    margin_reference: Floats
    max_abs_err: Floats
    squared_error: Floats
    squared_reference: Floats


def position_stats(reference: Array, candidate: Array) -> PositionStats:
    """Statistics of `candidate` against `reference`, both `[1, time, ...]`, per position.

    float32 and float64, mixed as they come, are read in place when C-contiguous; everything else (views with
    strides, other byte orders, float16, integers) passes through a buffer of fixed size.

    Raises ValueError when the shapes differ or are not `[1, time, ...]`, TypeError for dtypes float64 cannot hold.
    """
    return _stats(reference, candidate, None)


def ranged_stats(reference: Array, candidate: Array) -> tuple[PositionStats, ValueRange]:
    """`position_stats`, and the range of the reference's numbers, gathered in the same pass."""
    spans: list[Floats] = []
    stats = _stats(reference, candidate, spans)
    return stats, ValueRange.of(np.concatenate([*spans, np.empty((0, 4))]), reference.size)


def _stats(reference: Array, candidate: Array, spans: list[Floats] | None) -> PositionStats:
    """`position_stats`. With a list in `spans` it takes rows `[n, 4]` of the reference's range, as the kernels do."""
    _check(reference, candidate)
    time = reference.shape[1]
    elements = math.prod(reference.shape[2:])
    if elements and _in_place(reference) and _in_place(candidate):
        sums, counts = _accumulate(_rows(reference, (time, elements)), _rows(candidate, (time, elements)), spans)
    else:
        sums, counts = _in_parts(reference, candidate, spans)
    error, squared_reference, squared_candidate, dot, sum_abs, worst = sums.T
    nans, infs = counts.T
    return PositionStats(error, squared_reference, squared_candidate, dot, worst, sum_abs, nans, infs, elements)


def _in_parts(reference: Array, candidate: Array, spans: list[Floats] | None) -> tuple[Floats, Ints]:
    """Sums `[time, 6]` and counts `[time, 2]` of arrays that are copied piece by piece."""
    time = reference.shape[1]
    sums, counts = np.zeros((time, 6)), np.zeros((time, 2), np.int64)
    for start, r, c in _slabs(reference, candidate):
        part, part_counts = _accumulate(r, c, spans)
        here = slice(start, start + len(part))
        with np.errstate(invalid="ignore", over="ignore"):
            sums[here, :5] += part[:, :5]
        sums[here, 5] = np.maximum(sums[here, 5], part[:, 5])  # keeps NaN
        counts[here] += part_counts
    return sums, counts


def concat(parts: Sequence[PositionStats]) -> PositionStats:
    """The positions of `parts`, one after the other.

    Raises ValueError without parts, or when they differ in `elements_per_position`.
    """
    sizes = {part.elements_per_position for part in parts}
    if len(sizes) != 1:
        raise ValueError(f"cannot join positions of {sorted(sizes) or 'no'} elements")
    names = [field.name for field in fields(PositionStats) if field.name != "elements_per_position"]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return PositionStats(**joined, elements_per_position=sizes.pop())


def summarise(stats: PositionStats) -> TapStats:
    """The figures over all positions of `stats`.

    Raises ValueError when it holds no element: where nothing was compared, nothing agrees.
    """
    elements = stats.squared_error.size * stats.elements_per_position
    if elements == 0:
        raise ValueError("nothing was compared: no positions, or positions without elements")
    with np.errstate(invalid="ignore", over="ignore"):
        error = float(stats.squared_error.sum())
        reference = float(stats.squared_reference.sum())
        candidate = float(stats.squared_candidate.sum())
        dot = float(stats.dot.sum())
        sum_abs = float(stats.sum_abs_err.sum())
    worst = float(stats.max_abs_err.max())
    nans, infs = int(stats.nan_count.sum()), int(stats.inf_count.sum())
    rel_l2, cosine, snr_db = math.nan, math.nan, math.nan
    if nans == 0 and infs == 0:
        rel_l2, cosine, snr_db = _ratios(error, reference, candidate, dot, equal=worst == 0.0)
    return TapStats(worst, sum_abs / elements, rel_l2, cosine, snr_db, nans, infs, elements)


def logit_stats(reference: Array, candidate: Array) -> LogitStats:
    """Statistics of logits `[1, time, vocab]`, per position, one row at a time.

    Raises ValueError when the shapes differ or are not `[1, time, vocab]`, TypeError for dtypes float64 cannot hold.
    """
    _check(reference, candidate)
    if reference.ndim != 3 or reference.shape[2] == 0:
        raise ValueError(f"logits are [1, time, vocab], not {reference.shape}")
    from harness.compare import kernels

    time = reference.shape[1]
    out, tops = np.empty((5, time)), np.empty((2, time), np.int64)
    for start, stop, r, c in _row_slabs(reference, candidate):
        here = slice(start, stop)
        _spread(kernels.compare_logits, (r, c), stop - start, r.size, (out[:, here], tops[:, here]))
    return LogitStats(out[0], tops[0], tops[1], out[1], out[2], out[3], out[4])


def _ratios(error: float, reference: float, candidate: float, dot: float, equal: bool) -> tuple[float, float, float]:
    """rel_l2, cosine and SNR in dB of sums of squares, as the table of `TapStats` defines them."""
    if equal:
        return 0.0, 1.0, math.inf
    if not all(map(math.isfinite, (error, reference, candidate, dot))):
        return math.nan, math.nan, math.nan
    norms = math.sqrt(reference) * math.sqrt(candidate)
    cosine = min(1.0, max(-1.0, dot / norms)) if norms > 0.0 else 0.0
    if reference == 0.0:
        return math.inf, cosine, -math.inf
    return math.sqrt(error) / math.sqrt(reference), cosine, 10.0 * (math.log10(reference) - math.log10(error))


def _check(reference: Array, candidate: Array) -> None:
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes differ: reference {reference.shape}, candidate {candidate.shape}")
    if reference.ndim < 2 or reference.shape[0] != 1:
        raise ValueError(f"expected [1, time, ...], not {reference.shape}")
    for side, array in (("reference", reference), ("candidate", candidate)):
        if array.dtype.char not in "fd" and not np.can_cast(array.dtype, np.float64, "safe"):
            raise TypeError(f"{side} is {array.dtype}, which float64 does not hold")


def _accumulate(reference: Array, candidate: Array, spans: list[Floats] | None) -> tuple[Floats, Ints]:
    """Sums `[rows, 6]` and counts `[rows, 2]` of `[rows, elements]` arrays the kernels read; `spans` as `_stats`."""
    from harness.compare import kernels

    rows, elements = reference.shape
    chunks = -(-elements // kernels.CHUNK)
    kernel = kernels.accumulate_short if elements < kernels.SHORT else kernels.accumulate
    out, counts = np.empty((rows, chunks, 6)), np.empty((rows, chunks, 2), np.int64)
    after: tuple[Any, ...] = (out, counts)
    if spans is not None:
        # A task that is handed to a thread fills the row of its first piece.
        spans.append(np.tile([np.inf, -np.inf, 0.0, 0.0], (rows * chunks, 1)))
        kernel, after = kernels.accumulate_ranged, (out, counts, spans[-1])
    _spread(kernel, (reference, candidate), rows * chunks, reference.size, after)
    if chunks == 1:
        return out[:, 0], counts[:, 0]
    with np.errstate(invalid="ignore", over="ignore"):
        return np.hstack([out[..., :5].sum(axis=1), out[..., 5:].max(axis=1)]), counts.sum(axis=1)


def _spread(
    kernel: Callable[..., None], before: tuple[Any, ...], tasks: int, elements: int, after: tuple[Any, ...]
) -> None:
    """`kernel(*before, first, last, *after)` over all tasks, on as many threads as there are cores to use."""
    threads = min(_cores(), tasks) if elements >= _THREADS_FROM else 1
    if threads == 1:
        kernel(*before, 0, tasks, *after)
        return
    # More pieces than threads: a core that is busy elsewhere then holds up an eighth, not half.
    step = -(-tasks // (4 * threads))
    pieces = range(0, tasks, step)
    list(_pool(threads).map(lambda first: kernel(*before, first, min(tasks, first + step), *after), pieces))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Kept: a comparison asks for it a hundred thousand times, and each start of a thread costs as much as a kernel."""
    return ThreadPoolExecutor(threads, thread_name_prefix="metrics")


def _cores() -> int:
    """Cores this process may run on; a container is often given fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _in_place(array: Array) -> bool:
    dtype, flags = array.dtype, array.flags
    return dtype.char in "fd" and dtype.isnative and flags.c_contiguous and flags.aligned


def _ready(array: Array, shape: tuple[int, int]) -> Array:
    """`array` as a read-only `[rows, elements]` view, or a copy if the kernels cannot read it in place."""
    if not _in_place(array):
        array = np.array(array, dtype=np.float32 if array.dtype == np.float32 else np.float64, order="C")
    return _rows(array, shape)


def _rows(array: Array, shape: tuple[int, int]) -> Array:
    """Read-only, because to numba that is another type than writable, and one type is compiled once."""
    view = np.asarray(array).reshape(shape)
    view.flags.writeable = False
    return view


def _row_slabs(reference: Array, candidate: Array) -> Iterator[tuple[int, int, Array, Array]]:
    """Whole positions `start:stop`, as `[positions, elements]`: all at once in place, else a buffer's worth."""
    time, elements = reference.shape[1], math.prod(reference.shape[2:])
    step = time if _in_place(reference) and _in_place(candidate) else max(1, SLAB // max(1, elements))
    for start in range(0, time, max(1, step)):
        stop = min(time, start + step)
        shape = (stop - start, elements)
        yield start, stop, _ready(reference[0, start:stop], shape), _ready(candidate[0, start:stop], shape)


def _slabs(reference: Array, candidate: Array) -> Iterator[tuple[int, Array, Array]]:
    """As `_row_slabs`, but a position that does not fit the buffer comes in parts, each with the same start."""
    elements = math.prod(reference.shape[2:])
    if elements == 0:
        return
    if elements <= SLAB or (_in_place(reference) and _in_place(candidate)):
        for start, _, r, c in _row_slabs(reference, candidate):
            yield start, r, c
        return
    for position in range(reference.shape[1]):
        pieces = np.nditer(
            [reference[0, position], candidate[0, position]],
            flags=["external_loop", "buffered"],
            op_flags=[["readonly"], ["readonly"]],
            order="C",
            buffersize=SLAB,
        )
        for r, c in pieces:
            yield position, _ready(r, (1, r.size)), _ready(c, (1, c.size))
