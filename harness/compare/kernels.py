"""Compiled inner loops of `harness.compare.metrics`: C-contiguous `[rows, elements]` arrays in, sums out.

Kept apart so that importing `harness.compare.metrics` does not import numba. Two decisions carry the speed:

- Everything is accumulated in float64 from the first product on. Squares of float32 errors of 1e-22 would
  vanish in float32 and those of 1e25 would overflow; in float64 neither can happen. The loops are still
  bound by memory, not by arithmetic.
- The largest error is found by comparing bit patterns as integers. For non-negative IEEE 754 numbers both
  orders agree, LLVM vectorises an integer maximum without being told that there are no NaNs, and NaN sorts
  above infinity above everything else, so that a non-finite element cannot be overlooked and the finite
  case pays nothing for the check.

All of them stand in one file, long as it is: numba keeps machine code by the date of the file that a function stands
in, so what it calls of another file would be run as it was before its last change.

The loops release the GIL, and `harness.compare.metrics` spreads them over plain threads: numba's own threading layers
are either not safe to enter from two threads (workqueue) or not safe to fork after (OpenMP).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types

from harness.compare.compiling import compiled
from harness.compare.value_range import FLOAT16_LARGEST

# `nnan` and `ninf` are left out on purpose: NaN and infinity are results here.
_FASTMATH = {"reassoc", "contract", "nsz"}
_BLOCK = 256  # elements between two rounds of prefetching
_LINE = 64  # bytes of a cache line
SHORT = 2 * _BLOCK  # elements below which a row is not worth prefetching
CHUNK = 1 << 16  # elements of a task: longer rows are cut, so that every core has work at time 1
_INF_BITS = np.int64(0x7FF0000000000000)
_TINIEST = 5e-324  # the smallest positive float64
_MAGNITUDE = np.int64(0x7FFFFFFFFFFFFFFF)  # all bits but the sign

# The smallest number of float16 that is not subnormal.
FLOAT16_NORMAL = 2.0**-14

# Where exp(u) - 1 - u is taken from its series; beyond, the plain difference loses less than two digits.
_SERIES_BELOW = 0.25
# Its coefficients over u^2, highest power first: 1/12!, 1/11!, ... 1/2!. The next would add less than 1e-16.
_SERIES = tuple(1.0 / math.factorial(power) for power in range(12, 1, -1))
# 1/14!, ... 1/0!: to the last digit where |x| <= log(2) / 2.
_EXP_SERIES = tuple(1.0 / math.factorial(power) for power in range(14, -1, -1))
# Past this exponent sums of exp() are taken relative to their largest term.
_EXP_SAFE = 300.0

NO_TOP1_REFERENCE = -1
NO_TOP1_CANDIDATE = -2  # another number, so that two rows without an answer do not agree


def _compile(function: Callable[..., Any], fastmath: set[str] | bool = False, forceinline: bool = False) -> Any:
    """`function` compiled at its first call."""
    return compiled(fastmath=fastmath, forceinline=forceinline, error_model="numpy")(function)


def _prefetch(typing: Any, array: Any, first: Any) -> Any:
    """`prefetch(array, first)` asks for the cache lines of the `_BLOCK` elements from `first` on.

    Past the end of the array it does no harm: a prefetch reads nothing and cannot fault.
    """
    del typing

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature
        number, name = ir.IntType(32), "llvm.prefetch.p0"
        data = context.make_array(array)(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        read, into_l2, data_cache = number(0), number(2), number(1)
        for offset in range(0, _BLOCK * array.dtype.bitwidth // 8, _LINE):
            builder.call(function, [builder.gep(place, [number(offset)]), read, into_l2, data_cache])
        return context.get_dummy_value()

    return types.void(array, first), generate


prefetch = extending.intrinsic(_prefetch)


def _sums(reference: Any, candidate: Any) -> Any:
    """Of two `[elements]` arrays: sums of e^2, r^2, c^2, r*c and |e|, and the bits of the largest |e|, e = c - r."""
    squared_error = squared_reference = squared_candidate = dot = sum_abs = 0.0
    worst = np.int64(0)
    for i in range(reference.size):
        r = np.float64(reference[i])
        c = np.float64(candidate[i])
        e = abs(c - r)
        squared_error += e * e
        squared_reference += r * r
        squared_candidate += c * c
        dot += r * c
        sum_abs += e
        worst = max(worst, np.float64(e).view(np.int64))
    return squared_error, squared_reference, squared_candidate, dot, sum_abs, worst


sums = _compile(_sums, _FASTMATH, forceinline=True)  # for rows of a few elements a call would cost as much again


def _streamed_sums(reference: Any, candidate: Any) -> Any:
    """`sums` of longer arrays, at the speed of memory.

    The arithmetic fills the core's window of instructions in flight, which then reaches too few loads ahead to keep
    memory busy. Asking for the block after the next does: measured 1.3 times as fast on one core.
    """
    squared_error = squared_reference = squared_candidate = dot = sum_abs = 0.0
    worst = np.int64(0)
    for start in range(0, reference.size, _BLOCK):
        stop = min(start + _BLOCK, reference.size)
        prefetch(reference, start + 2 * _BLOCK)  # type: ignore[call-arg]
        prefetch(candidate, start + 2 * _BLOCK)
        block = sums(reference[start:stop], candidate[start:stop])
        squared_error += block[0]
        squared_reference += block[1]
        squared_candidate += block[2]
        dot += block[3]
        sum_abs += block[4]
        worst = max(worst, block[5])
    return squared_error, squared_reference, squared_candidate, dot, sum_abs, worst


streamed_sums = _compile(_streamed_sums)


def _visible(squared_error: Any, worst: Any) -> Any:
    """`squared_error`, but not zero where there is an error whose square float64 cannot write."""
    return _TINIEST if squared_error == 0.0 and worst > 0 else squared_error


visible = _compile(_visible, forceinline=True)


def _store(r: Any, c: Any, result: Any, out: Any, counts: Any) -> None:
    """`result` of the sums of `r` and `c` `[elements]` into `out` `[6]` and `counts` `[2]`."""
    squared_error, squared_reference, squared_candidate, dot, sum_abs, worst = result
    out[0] = visible(squared_error, worst)
    out[1] = squared_reference
    out[2] = squared_candidate
    out[3] = dot
    out[4] = sum_abs
    out[5] = np.int64(worst).view(np.float64)
    nans = infs = 0
    if worst >= _INF_BITS:  # c - r is finite unless r or c is not (or it overflows, which counts as neither)
        for i in range(r.size):
            nans += math.isnan(r[i]) or math.isnan(c[i])
            infs += math.isinf(r[i]) or math.isinf(c[i])
    counts[0] = nans
    counts[1] = infs


store = _compile(_store, forceinline=True)


def _accumulate(reference: Any, candidate: Any, first: int, last: int, out: Any, counts: Any) -> None:
    """Chunks `first:last` of `[rows, elements]`; a row has `out.shape[1]` of them, of `CHUNK` elements each.

    `out` `[rows, chunks, 6]` takes the sums in the order of `sums`, then the largest |e|; `counts`
    `[rows, chunks, 2]` elements with a NaN, and with an infinity, on either side.
    """
    elements, chunks = reference.shape[1], out.shape[1]
    for index in range(first, last):
        row, column = index // chunks, index % chunks
        start = column * CHUNK
        stop = min(elements, start + CHUNK)
        r, c = reference[row, start:stop], candidate[row, start:stop]
        store(r, c, streamed_sums(r, c), out[row, column], counts[row, column])


accumulate = _compile(_accumulate)


def _accumulate_short(reference: Any, candidate: Any, first: int, last: int, out: Any, counts: Any) -> None:
    """`accumulate` for rows of one chunk, below `SHORT` elements: there a call more per row is felt."""
    for row in range(first, last):
        r, c = reference[row], candidate[row]
        store(r, c, sums(r, c), out[row, 0], counts[row, 0])


accumulate_short = _compile(_accumulate_short)


def _leaves(values: Any, span: Any) -> Any:
    """Whether any of `[elements]` would change `span`, as `widen` has it; now and then true of none.

    It asks if a magnitude lies outside of an interval, all of which the span holds with either sign. In integers, as
    `sums` does it: then the loop takes five plain instructions for several elements at once, and NaN and infinity lie
    outside by themselves.
    """
    low = np.float64(FLOAT16_NORMAL).view(np.int64)
    high = np.float64(max(0.0, min(-span[0], span[1], FLOAT16_LARGEST))).view(np.int64)
    outside = np.int64(0)
    for i in range(values.size):
        magnitude = np.float64(values[i]).view(np.int64) & _MAGNITUDE
        outside |= (magnitude - low) | (high - magnitude)  # the sign's bit is set where either is negative
    return outside < 0


leaves = _compile(_leaves, forceinline=True)


def _widen(values: Any, span: Any) -> None:
    """Takes `[elements]` into `span` `[4]`: smallest, largest, how many beyond float16, how many subnormal there.

    NaN is passed over; infinity is beyond.
    """
    nans = beyond = subnormal = np.int64(0)
    least, most = np.int64(2**63 - 1), np.int64(-(2**63) + 1)
    for i in range(values.size):
        value = np.float64(values[i])
        size = abs(value)
        nans += value != value
        beyond += size > FLOAT16_LARGEST
        subnormal += (size < FLOAT16_NORMAL) & (size > 0.0)
        bits = value.view(np.int64)
        ordered = bits ^ ((bits >> 63) & _MAGNITUDE)  # integers in the order of the floats
        least, most = min(least, ordered), max(most, ordered)
    span[2] += beyond
    span[3] += subnormal
    if nans == 0:
        span[0] = min(span[0], np.int64(least ^ ((least >> 63) & _MAGNITUDE)).view(np.float64))
        span[1] = max(span[1], np.int64(most ^ ((most >> 63) & _MAGNITUDE)).view(np.float64))
        return
    for i in range(values.size):
        value = np.float64(values[i])
        if not math.isnan(value):
            span[0], span[1] = min(span[0], value), max(span[1], value)


widen = _compile(_widen)


def _accumulate_ranged(
    reference: Any, candidate: Any, first: int, last: int, out: Any, counts: Any, spans: Any
) -> None:
    """`accumulate` which takes the range of `reference` into `spans[first]` as well, in the order of `widen`.

    It is taken of each block while the core's cache still holds it.
    """
    span = spans[first]
    elements, chunks = reference.shape[1], out.shape[1]
    for index in range(first, last):
        row, column = index // chunks, index % chunks
        end = min(elements, (column + 1) * CHUNK)
        squared_error = squared_reference = squared_candidate = dot = sum_abs = 0.0
        worst = np.int64(0)
        for start in range(column * CHUNK, end, _BLOCK):
            r, c = reference[row, start : min(start + _BLOCK, end)], candidate[row, start : min(start + _BLOCK, end)]
            if end - start > 2 * _BLOCK:
                prefetch(reference[row], start + 2 * _BLOCK)  # type: ignore[call-arg]
                prefetch(candidate[row], start + 2 * _BLOCK)
            block = sums(r, c)
            squared_error += block[0]
            squared_reference += block[1]
            squared_candidate += block[2]
            dot += block[3]
            sum_abs += block[4]
            worst = max(worst, block[5])
            if leaves(r, span):
                widen(r, span)
        result = squared_error, squared_reference, squared_candidate, dot, sum_abs, worst
        here = slice(column * CHUNK, end)
        store(reference[row, here], candidate[row, here], result, out[row, column], counts[row, column])


accumulate_ranged = _compile(_accumulate_ranged)


def _extremes(logits: Any) -> Any:
    """(largest value, largest magnitude) of `[elements]`, both exact; NaN or infinity shows in the magnitude."""
    largest = np.int64(-(2**63) + 1)
    magnitude = np.int64(0)
    for i in range(logits.size):
        bits = np.float64(logits[i]).view(np.int64)
        magnitude = max(magnitude, bits & _MAGNITUDE)
        largest = max(largest, bits ^ ((bits >> 63) & _MAGNITUDE))  # integers in the order of the floats
    largest = largest ^ ((largest >> 63) & _MAGNITUDE)
    return np.int64(largest).view(np.float64), np.int64(magnitude).view(np.float64)


extremes = _compile(_extremes)


def _top(logits: Any) -> Any:
    """Index of the largest of `[vocab]` (the first of equals) and its lead; (-1, nan) with a NaN or infinity."""
    index = -1
    best = second = -np.inf
    for start in range(0, logits.size, _BLOCK):
        stop = min(start + _BLOCK, logits.size)
        largest, magnitude = extremes(logits[start:stop])
        if not math.isfinite(magnitude):
            return -1, np.nan
        if largest <= second:
            continue
        for i in range(start, stop):
            value = np.float64(logits[i])
            if value > best:
                second = best
                best = value
                index = i
            elif value > second:
                second = value
    return index, best - second


top = _compile(_top)


def _exp(x: Any) -> Any:
    """e^x for x <= `_EXP_SAFE`, to the last digit or two; 0 below e^-708. Unlike the C library's it vectorises."""
    x = max(x, -745.0)
    turns = np.floor(x * 1.4426950408889634 + 0.5)
    rest = x - turns * 6.93147180369123816490e-01 - turns * 1.90821492927058770002e-10  # log(2) in two parts
    value = 0.0
    for coefficient in _EXP_SERIES:
        value = value * rest + coefficient
    exponent = np.int64(max(turns, -1023.0)) + 1023
    return value * np.int64(exponent << 52).view(np.float64)


def _expm1_less_u(u: Any) -> Any:
    """e^u - 1 - u for |u| < `_SERIES_BELOW`."""
    value = 0.0
    for coefficient in _SERIES:
        value = value * u + coefficient
    return value * u * u


def _deviation(reference: Any, candidate: Any, shift: Any, mean: Any) -> Any:
    """candidate - reference - shift - mean, in this order: the first difference is exact or nearly so."""
    return candidate - reference - shift - mean


# Compiled without `reassoc`, which they keep when they are inlined where it holds: their order is their accuracy.
exp = _compile(_exp, {"contract"}, forceinline=True)
expm1_less_u = _compile(_expm1_less_u, {"contract"}, forceinline=True)
deviation = _compile(_deviation, forceinline=True)


def _weigh(reference: Any, candidate: Any, largest: Any, shift: Any, weights: Any) -> Any:
    """Fills `weights` with e^(r - largest); returns their total and the weighted mean of c - r - shift."""
    total = mean = 0.0
    for i in range(reference.size):
        r = np.float64(reference[i])
        weight = exp(r - largest)
        weights[i] = weight
        total += weight
        mean += weight * deviation(r, np.float64(candidate[i]), shift, 0.0)
    return total, mean / total


weigh = _compile(_weigh, _FASTMATH)


def _excess(reference: Any, candidate: Any, largest: Any, shift: Any, mean: Any, weights: Any) -> Any:
    """The sum of weight * (e^u - 1 - u), and the largest positive log(weight * e^u), both as `_kl` names them."""
    excess = 0.0
    steepest = np.int64(0)
    for i in range(reference.size):
        r = np.float64(reference[i])
        u = deviation(r, np.float64(candidate[i]), shift, mean)
        power = r - largest + u  # the weight may underflow where weight * e^u does not
        steepest = max(steepest, np.float64(max(power, 0.0)).view(np.int64))
        far = exp(min(power, _EXP_SAFE)) - weights[i] * (1.0 + u)
        near = weights[i] * expm1_less_u(u)
        excess += near if abs(u) < _SERIES_BELOW else far
    return excess, np.int64(steepest).view(np.float64)


excess_over = _compile(_excess, _FASTMATH)


def _kl(reference: Any, candidate: Any, best: int, weights: Any) -> Any:
    """KL(softmax(reference) || softmax(candidate)) of finite `[vocab]` logits, in nats.

    `best` is where the reference is largest; `weights` `[vocab]` is scratch space.
    With p = softmax(reference), d = candidate - reference, m = E_p[d] and u = d - m,

        KL = log E_p[e^d] - E_p[d] = log E_p[e^u] = log1p(E_p[e^u - 1 - u])

    since E_p[u] = 0. Every term e^u - 1 - u is >= 0, so nothing cancels in the sum, the result cannot be negative,
    and it keeps its relative accuracy however small it is. A rounding error in m enters squared only.
    """
    largest = np.float64(reference[best])
    shift = np.float64(candidate[best]) - largest  # taken out first: a constant added to all logits is not a divergence
    total, mean = weigh(reference, candidate, largest, shift, weights)
    excess, steepest = excess_over(reference, candidate, largest, shift, mean, weights)
    if steepest < _EXP_SAFE:
        return math.log1p(max(excess, 0.0) / total)
    scaled = 0.0
    for i in range(reference.size):
        r = np.float64(reference[i])
        scaled += math.exp(r - largest + deviation(r, np.float64(candidate[i]), shift, mean) - steepest)
    return steepest + math.log(scaled) - math.log(total)


kl = _compile(_kl)


def _negative_log_likelihood(logits: Any, tokens: Any, out: Any) -> None:
    """-ln softmax(row)[token] of each row of `[rows, vocab]` into `out` `[rows]`; NaN with a NaN or infinity."""
    for row in range(tokens.size):
        values = logits[row]
        largest, magnitude = extremes(values)
        if not math.isfinite(magnitude):
            out[row] = np.nan
            continue
        total = total_weight(values, largest)
        out[row] = math.log(total) + largest - values[tokens[row]]


def _total_weight(values: Any, largest: Any) -> Any:
    total = 0.0
    for i in range(values.size):
        total += exp(np.float64(values[i]) - largest)
    return total


total_weight = _compile(_total_weight, _FASTMATH)
negative_log_likelihood = _compile(_negative_log_likelihood)


def _compare_logits(reference: Any, candidate: Any, first: int, last: int, out: Any, tops: Any) -> None:
    """Rows `first:last` of `[rows, vocab]`.

    `out` `[5, rows]` takes the KL divergence, the reference's lead, the largest |e|, and the sums of e^2 and r^2;
    `tops` `[2, rows]` the top-1 of the reference and of the candidate.
    """
    weights = np.empty(reference.shape[1], dtype=np.float64)
    for row in range(first, last):
        r, c = reference[row], candidate[row]
        squared_error, squared_reference, _, _, _, worst = streamed_sums(r, c)
        top_reference, margin = top(r)
        top_candidate, _ = top(c)
        tops[0, row] = top_reference if top_reference >= 0 else NO_TOP1_REFERENCE
        tops[1, row] = top_candidate if top_candidate >= 0 else NO_TOP1_CANDIDATE
        out[0, row] = kl(r, c, top_reference, weights) if worst < _INF_BITS else np.nan
        out[1, row] = margin
        out[2, row] = np.int64(worst).view(np.float64)
        out[3, row] = visible(squared_error, worst)
        out[4, row] = squared_reference


compare_logits = _compile(_compare_logits)
