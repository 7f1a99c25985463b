"""How far a candidate's output is from a reference's, in units of what float32 costs there.

In: one output of the candidate, the reference's in float64 and its samples in float32. Out: a `OutputResult`. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.compare.rows import BITS, LIMIT, POSITION_LIMIT, Measured, measure, rows_of
from harness.testing.outputs import Array, Output

# Of so few numbers in all the noise is a draw of luck: the quantile of F for one alarm in ten thousand.
_LIMIT_OF_FEW = {1: 22.0, 2: 8.0, 3: 5.5}
# What a right guess leaves at most, over all of an output and in its worst row, and which share of the error: of 34
# mistakes at three seeds those that are explained leave 1.7 and 6.6.
_NOISE, _NOISE_OF_ROW, _SHARE = 3.0, 8.0, 0.1


@dataclass(frozen=True)
class OutputResult:
    """What came of one output.

    problem: what forbids a comparison, in words; empty where numbers were compared. empty: both sides are alike, and
    there is no number to compare. excess, worst: of the whole and of the worst row, in units of the noise floor.
    index: of the worst number. values: candidate's and reference's there. floor: relative to the row.
    """

    name: str
    passed: bool
    problem: str = ""
    empty: bool = False
    excess: float = 0.0
    worst: float = 0.0
    limit: float = LIMIT
    index: tuple[int, ...] = ()
    values: tuple[object, object] = (None, None)
    floor: float = 0.0
    relative: float = 0.0


def judged(
    name: str, candidate: Output, exact: Output, samples: Sequence[Output], dtype: str, exact_dtype: bool
) -> OutputResult:
    """dtype: the candidate is meant to be of; its rounding is the least that the floor may be. Empty for float32.

    exact_dtype: whether an output must be of the reference's dtype; else of its kind.
    """
    problem = _problem(candidate, samples[0], dtype, exact_dtype)
    if problem:
        return OutputResult(name, False, problem)
    if exact.values.size == 0:
        return OutputResult(
            name, False, f"there is no number in it, its shape is {list(exact.values.shape)}", empty=True
        )
    if exact.values.dtype.kind in "biu":
        return _exactly(name, candidate.values, samples[0].values)
    given, want, runs = candidate.values, exact.values, [sample.values for sample in samples]
    odd = _not_finite(name, given, want, runs[0])
    if odd is not None:
        return odd
    finite = np.isfinite(want) & np.isfinite(given)
    if not finite.any():
        return OutputResult(name, False, "no number of it is finite on both sides", empty=True)
    # Where float32 alone overflows, the truth still holds; what that costs is not known there.
    runs = [np.where(np.isfinite(run), run, want) for run in runs]
    if not finite.all():  # the same infinity on both sides, as masks have it
        given, want, *runs = (np.where(finite, values, 0) for values in (given, want, *runs))
    return _measured(name, given, want, runs, dtype)


@dataclass(frozen=True)
class Reach:
    """One output that differs, for those who guess why: what would have to be true of it is tried on these."""

    candidate: Output
    exact: Output
    samples: Sequence[Output]
    dtype: str

    def before(self) -> Measured | None:
        """None where the two cannot be measured: shapes that differ, whole and complex numbers, some not finite."""
        return self._before

    @cached_property
    def _before(self) -> Measured | None:
        kinds = {output.values.dtype.kind for output in (self.candidate, self.exact, *self.samples)}
        return self.after(self.exact.values) if kinds == {"f"} else None

    def after(self, expected: Array, candidate: Array | None = None) -> Measured | None:
        """How far the candidate is from what a guess expects of it. candidate: in its place, if it is looked at again.

        The noise stays what it was, relative to the numbers; a guess that moves them moves it along: `samples_as`.
        """
        given = self.candidate.values if candidate is None else candidate
        return self._measure(given, expected, [expected + self.noise(sample) for sample in self.samples])

    def transformed(self, change: Callable[[Array], Array]) -> Measured | None:
        """The same of a change of the reference's numbers, which changes its noise too."""
        runs = [np.asarray(change(sample.values.astype(np.float64))) for sample in self.samples]
        return self._measure(self.candidate.values, np.asarray(change(self.exact.values)), runs)

    def noise(self, sample: Output) -> Array:
        with np.errstate(invalid="ignore"):  # the same infinity on both sides is NaN, and is not measured
            return np.asarray(sample.values.astype(np.float64) - self.exact.values)

    def _measure(self, given: Array, expected: Array, runs: Sequence[Array]) -> Measured | None:
        shapes = {given.shape, expected.shape, *(run.shape for run in runs)}
        if len(shapes) > 1 or not expected.size or {values.dtype.kind for values in (given, expected)} - {"f"}:
            return None
        finite = [bool(np.isfinite(values).all()) for values in (given, expected, *runs)]
        return measure(given, expected, runs, self.dtype) if all(finite) else None

    def explains(self, after: Measured | None) -> bool:
        """Whether all that is left is noise: what a right candidate has, and far less than there was.

        An error near the limit falls below it by little: a guess that moves it, or makes it somewhat less, is wrong.
        """
        before = self.before()
        if after is None or before is None or not (after.whole <= _NOISE and after.worst <= _NOISE_OF_ROW):
            return False
        left = (
            (before.whole, after.whole, LIMIT),
            (before.worst, after.worst, POSITION_LIMIT),
        )
        return not before.passes() and all(now <= _SHARE * then for then, now, limit in left if then > limit)

    def whereabouts(self) -> list[str]:
        """Where the error lies, if it lies in a part of some axis alone: what is left elsewhere is noise."""
        if self.before() is None:
            return []
        given = self.candidate.values.astype(np.float64)
        gap = np.square(given - self.exact.values)
        noise = np.max([np.square(self.noise(sample)) for sample in self.samples], axis=0)
        found = []
        for axis in range(gap.ndim):
            others = tuple(other for other in range(gap.ndim) if other != axis)
            along = gap.sum(others)
            usual = LIMIT**2 * noise.sum(others).max(initial=0.0)
            wrong = np.flatnonzero(along > max(usual, 1e-6 * along.max(initial=0.0)))
            if not 0 < len(wrong) <= len(along) // 2:
                continue
            right = self.exact.values.copy()
            place = (slice(None),) * axis + (wrong,)
            right[place] = given[place]
            if self.explains(self.after(right)):
                shown = ", ".join(map(str, wrong[:4])) + (" ..." if len(wrong) > 4 else "")
                found.append(f"all of the error lies at {shown} of axis {axis} ({len(wrong)} of {len(along)})")
        return found


def _measured(name: str, given: Array, want: Array, runs: list[Array], dtype: str) -> OutputResult:
    at = want.shape
    if want.dtype.kind == "c":
        given, want, *runs = (_real(values) for values in (given, want, *runs))
    found = measure(given, want, runs, dtype)
    limit = _LIMIT_OF_FEW.get(want.size, LIMIT)
    rows = rows_of(want.shape)
    gap = np.abs(given.reshape(rows)[found.row].astype(np.float64) - want.reshape(rows)[found.row])
    index = tuple(int(i) for i in np.unravel_index(found.row * rows[1] + int(gap.argmax()), want.shape))
    values = _values(given, index, at), _values(want, index, at)
    size, error = float(np.linalg.norm(want.reshape(rows)[found.row])), float(np.linalg.norm(gap))
    return OutputResult(
        name,
        found.passes(limit),
        excess=found.whole,
        worst=found.worst,
        limit=limit,
        index=index[: len(at)],
        values=values,
        floor=found.floor,
        relative=error / size if size else math.inf if error else 0.0,
    )


def _problem(candidate: Output, reference: Output, dtype: str, exact_dtype: bool) -> str:
    """reference: as it is run for the noise, in `dtype` where one is given."""
    if candidate.values.shape != reference.values.shape:
        return f"its shape is {list(candidate.values.shape)}, and the reference's is {list(reference.values.shape)}"
    mine, theirs = candidate.dtype, reference.dtype
    wider = bool(dtype) and _kind(mine) == _kind(theirs) == "float"  # a layer may give wider numbers than it works in
    if mine == theirs or wider or (not exact_dtype and _kind(mine) == _kind(theirs) and mine not in BITS):
        return ""
    remedy = f'; where that is meant, give dtype="{mine}"' if mine in BITS else ""
    return f"its dtype is {mine}, and the reference's is {theirs}{remedy}"


def _kind(dtype: str) -> str:
    for kind in ("bool", "complex", "uint", "int"):
        if dtype.startswith(kind):
            return "int" if kind == "uint" else kind
    return "float"


def _exactly(name: str, given: Array, want: Array) -> OutputResult:
    if np.array_equal(given, want):
        return OutputResult(name, True)
    wrong = np.argwhere(np.atleast_1d(given != want))
    index = tuple(int(i) for i in wrong[0])
    values = np.atleast_1d(given)[index].item(), np.atleast_1d(want)[index].item()
    where = "" if want.ndim == 0 else f", first at {_index(index)}"
    return OutputResult(
        name,
        False,
        f"{len(wrong)} of {want.size} whole numbers differ{where}: {values[0]}, and the reference's is {values[1]}",
        index=index,
        values=values,
    )


def _not_finite(name: str, given: Array, want: Array, run: Array) -> OutputResult | None:
    """NaN and infinity that are not on both sides. What only float32 cannot hold may be infinite in the candidate."""
    same = (given == want) | (np.isnan(given) & np.isnan(want)) | (given == run) | (np.isnan(given) & np.isnan(run))
    odd = ~(np.isfinite(given) & np.isfinite(want)) & ~same
    if not odd.any():
        return None
    first = np.argwhere(np.atleast_1d(odd))[0]
    index = tuple(int(i) for i in first)
    mine, theirs = np.atleast_1d(given)[index].item(), np.atleast_1d(want)[index].item()
    return OutputResult(
        name,
        False,
        f"{int(odd.sum())} of {odd.size} numbers are not finite on one side alone, first at {_index(index)}: "
        f"{mine}, and the reference's is {theirs}",
        index=index,
        values=(mine, theirs),
    )


def _index(index: tuple[int, ...]) -> str:
    return str(list(index))


def _real(values: Array) -> Array:
    return np.stack([values.real, values.imag], -1)


def _values(values: Array, index: tuple[int, ...], shape: tuple[int, ...]) -> object:
    """The number at an index; of `_real` parts, both of it. shape: that numbers had before they were parted."""
    number = values[index[: len(shape)]]
    return complex(*number) if len(index) > len(shape) else number.item()
