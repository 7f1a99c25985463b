"""Guesses at the cause that need the numbers alone: what would have to be done to the reference to give the candidate.

In: an output that differs. Out: words, simplest first, of guesses that explain all of the error. Each is tried,
and none is said that does not. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from harness.explain.fit import best_number
from harness.explain.functions import to_bfloat16, to_float16
from harness.testing.judging import Reach
from harness.testing.outputs import Array

Guess = tuple[str, Callable[[Array], Array]]
Family = Callable[[Reach, Mapping[str, Array]], Iterator[Guess]]
_LARGEST = 1 << 24  # numbers of an output; beyond, the parts of an axis are not sorted
_BLOCKS = 128
_ENOUGH = 512  # numbers by which a part of an axis is known
_SMALL = 2e-3  # offsets that could be taken for an epsilon
_CAPS = (1.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)


def simple_guesses(reach: Reach) -> list[str]:
    """Those with nothing fitted. At most one."""
    return _of_another_shape(reach) or _first(reach, (_simple, _axes, _order), {})


def fitted_guesses(reach: Reach, inputs: Mapping[str, Array]) -> list[str]:
    """Those with numbers that are fitted, and so easier to be right by accident. inputs: float64, by name."""
    return _first(reach, (_precision, _with_inputs, _fitted), inputs)


def _first(reach: Reach, families: Sequence[Family], inputs: Mapping[str, Array]) -> list[str]:
    if reach.before() is None:
        return []
    for family in families:
        for words, change in family(reach, inputs):
            if reach.explains(reach.transformed(change)):
                return [words]
    return []


def _of_another_shape(reach: Reach) -> list[str]:
    """Axes in another order, where that is all: shapes that differ are told before, and this adds why."""
    given, want = reach.candidate.values, reach.exact.values
    if given.shape == want.shape or given.ndim != want.ndim:
        return []
    for one in range(want.ndim):
        for other in range(one + 1, want.ndim):
            turned = want.swapaxes(one, other)
            if turned.shape != given.shape:
                continue
            runs = [run.values.swapaxes(one, other) for run in reach.samples]
            found = reach._measure(given, turned, runs)
            if found is not None and found.passes():
                return [f"axes {one} and {other} are swapped"]
    return []


def _simple(reach: Reach, inputs: Mapping[str, Array]) -> Iterator[Guess]:
    yield "the sign is the other one", lambda x: -x
    if not reach.candidate.values.any():
        yield "the candidate is all zeros", lambda x: 0 * x
    for name, low, high in (("ReLU", 0, math.inf), ("ReLU6", 0, 6), ("clamp to -1 and 1", -1, 1)):
        yield f"the candidate has gone through a {name}", partial(_clipped, low=low, high=high)
    yield "the candidate is squared", np.square
    # Before an epsilon is looked for: a constant that is added at the end is not one.
    offset = float((reach.candidate.values.astype(np.float64) - reach.exact.values).mean())
    if 0 < abs(offset) <= _SMALL:
        yield f"the candidate is larger by {offset:.2g} everywhere", lambda x: x + offset
    yield "the candidate is a softmax more, over the last axis", _softmax
    yield "the candidate is a tanh more", np.tanh
    yield "the candidate is a sigmoid more", lambda x: 1 / (1 + np.exp(-x))


def _clipped(x: Array, low: float, high: float) -> Array:
    return np.clip(x, low, high)


def _plus(x: Array, other: Array) -> Array:
    return np.asarray(x + other)


def _always(x: Array, other: Array) -> Array:
    return other


def _softmax(x: Array) -> Array:
    if not x.ndim:
        return x
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _axes(reach: Reach, inputs: Mapping[str, Array]) -> Iterator[Guess]:
    shape = reach.exact.values.shape
    for one in range(len(shape)):
        for other in range(one + 1, len(shape)):
            if shape[one] == shape[other] > 1:
                yield (
                    f"axes {one} and {other} are swapped",
                    partial(np.swapaxes, axis1=one, axis2=other),
                )
    for axis, extent in enumerate(shape):
        if extent < 2:
            continue
        yield f"axis {axis} runs the other way", partial(np.flip, axis=axis)
        for step, words in ((1, "later"), (-1, "earlier")):
            yield f"everything stands one place {words} along axis {axis}", _shifted(reach, axis, step)


def _shifted(reach: Reach, axis: int, step: int) -> Callable[[Array], Array]:
    """What comes in at the edge is unknown: there the candidate's own numbers are taken."""
    given = reach.candidate.values.astype(np.float64)

    def shifted(x: Array) -> Array:
        moved = np.moveaxis(np.roll(x, step, axis), axis, 0).copy()
        moved[0 if step > 0 else -1] = np.moveaxis(given, axis, 0)[0 if step > 0 else -1]
        return np.moveaxis(moved, 0, axis)

    return shifted


def _order(reach: Reach, inputs: Mapping[str, Array]) -> Iterator[Guess]:
    """Equal parts of an axis in another order: heads, groups, interleaved halves."""
    want = reach.exact.values
    if want.size > _LARGEST:
        return
    for axis in range(want.ndim - 1, -1, -1):
        extent = want.shape[axis]
        for parts in (count for count in range(2, min(extent, _BLOCKS) + 1) if extent % count == 0):
            taken = _sampled(want.size // parts)
            order = _permutation(
                _blocks(reach.candidate.values, axis, parts)[:, taken], _blocks(want, axis, parts)[:, taken]
            )
            if order is None:
                continue
            shown = f"{order[:8]}".rstrip("]") + (", ...]" if len(order) > 8 else "]")
            yield (
                f"{parts} equal parts of axis {axis} (heads?) stand in another order: {shown}",
                partial(_reordered, axis=axis, order=order),
            )


def _sampled(numbers: int) -> slice:
    """Enough of the numbers of a part to know it by; what is found is tried on all. An odd step meets every column."""
    return slice(None, None, 1 if numbers <= _ENOUGH else (numbers // _ENOUGH) | 1)


def _blocks(values: Array, axis: int, parts: int) -> Array:
    """`[parts, numbers]`."""
    first = np.moveaxis(values, axis, 0)
    return first.reshape(parts, -1)


def _permutation(given: Array, want: Array) -> list[int] | None:
    """Which part of `want` each part of `given` is, if that is an order and another one."""
    given, want = given.astype(np.float64), want.astype(np.float64)
    scale = float(np.square(want).sum()) or 1.0
    gaps = np.square(given).sum(1)[:, None] + np.square(want).sum(1) - 2 * given @ want.T
    order = [int(place) for place in gaps.argmin(1)]
    if sorted(order) != list(range(len(order))) or order == sorted(order):
        return None
    left = float(np.square(given - want[order]).sum())
    return order if left < 1e-2 * scale else None


def _reordered(x: Array, axis: int, order: list[int]) -> Array:
    first = np.moveaxis(x, axis, 0)
    parts = first.reshape(len(order), -1, *first.shape[1:])[order]
    return np.moveaxis(parts.reshape(first.shape), 0, axis)


def _fitted(reach: Reach, inputs: Mapping[str, Array]) -> Iterator[Guess]:
    given, want = reach.candidate.values.astype(np.float64), reach.exact.values
    size = float(np.square(want).sum())
    if size:
        factor = _named(float((given * want).sum()) / size, want.shape)
        yield f"the candidate is {factor[1]} times the reference", lambda x: factor[0] * x
    offset = float((given - want).mean())
    yield f"the candidate is larger by {offset:.6g} everywhere", lambda x: x + offset
    if want.ndim > 1 and want.size >= 4 * want.shape[-1]:
        rows = tuple(range(want.ndim - 1))
        vector = (given - want).mean(rows)
        yield "the same vector is added in each row: a bias is missing or one too many", lambda x: x + vector
        sizes = np.square(want).sum(rows)
        factors = np.divide((given * want).sum(rows), sizes, out=np.ones_like(sizes), where=sizes > 0)
        yield "each channel has a factor of its own: a gain is missing or one too many", lambda x: x * factors

    def loss(cap: float) -> float:
        return float(np.square(given - cap * np.tanh(want / cap)).sum())

    if size and float(np.abs(given).max()) < float(np.abs(want).max()):
        cap = best_number(loss, _CAPS, _CAPS)
        yield f"the candidate is softcapped at {cap:g}", lambda x: cap * np.tanh(x / cap)


def _named(factor: float, shape: tuple[int, ...]) -> tuple[float, str]:
    """A factor, or a common one that it is nearly, in words."""
    sizes = {extent for extent in shape if extent > 1}
    common = {f"{k:g}": float(k) for k in (2, 3, 4, 8, 16)}
    common |= {f"sqrt({n})": math.sqrt(n) for n in sizes} | {f"{n}": float(n) for n in sizes}
    for words, value in common.items():
        for sign in (1, -1):
            for named, text in ((value, words), (1 / value, f"1/{words}")):
                if factor and abs(sign * named / factor - 1) < 1e-3:
                    return sign * named, text if sign > 0 else f"-{text}"
    return factor, f"{factor:.6g}"


def _precision(reach: Reach, inputs: Mapping[str, Array]) -> Iterator[Guess]:
    for name, rounded in (("bfloat16", to_bfloat16), ("float16", to_float16)):
        given = reach.candidate.values.astype(np.float64)
        if np.array_equal(rounded(given), given) and not np.array_equal(np.round(given), given):
            nearest = np.abs(rounded(reach.exact.values) - given)
            step = np.abs(reach.exact.values).max(initial=0.0) * 2.0**-7
            if float(nearest.max(initial=0.0)) <= step:
                yield (
                    f"every number of the candidate is one that {name} holds: it is rounded to it",
                    partial(_always, other=given),
                )


def _with_inputs(reach: Reach, inputs: Mapping[str, Array]) -> Iterator[Guess]:
    """An input added, or left out: a residual connection."""
    for name, values in inputs.items():
        if values.shape == reach.exact.values.shape:
            yield f"{name} is not added (a residual connection?)", partial(_plus, other=-values)
            yield f"{name} is added once too often (a residual connection?)", partial(_plus, other=values)
            yield f"the candidate gives {name} back unchanged", partial(_always, other=values)
