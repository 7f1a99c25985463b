"""How near a quantised weight is to the numbers that it stands for, beside the nearest that its grid allows.

In: what a file holds of a weight, and the weight. Out: a `GridFit`. Pure.

The nearest on the same grid is each number rounded to the nearest step: no recipe that rounds can do better, and one
that shifts numbers on purpose (GPTQ) says so. The best with other scales is a bound for the recipe, not for the file;
it is told by some of the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.flatbuffer.quantised import Held

Floats = npt.NDArray[np.float64]
# Shares of the scale that spans a channel, tried as scales of their own: clipping a few numbers may cost less.
_SPANS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
_ROWS = 4096  # at a time
# Steps. Quantisers divide in float32: next to a tie they are up to 3e-6 steps further away than the nearest.
# Times the error of the nearest numbers. Were every number of a row moved by a whole step, it would be 3.5 times; what
# GPTQ does to some of them stays below 2.
_FAR = 3.0
# Squared steps of each number, a quarter of what rounding costs on average: numbers of a block that lie on its grid by
# chance, or are zeros, have no error of their own to be measured against.
_LEAST = 1 / 48
_TIE = 1e-3
# Shares of a scale. Those of blocks are kept with 8 bits; others are float32.
_KEPT, _KEPT_OF_BLOCKS = 1e-3, 5e-3
_SAMPLE = 512  # rows by which the best is told


@dataclass(frozen=True)
class FarBlock:
    """A block that is further from the nearest numbers than any method moves them. Row and block count from 0.

    error, nearest: as of `GridFit`, as a share of the norm of the block. times: the one over the other.
    """

    row: int
    block: int
    error: float
    nearest: float
    times: float


@dataclass(frozen=True)
class GridFit:
    """Errors are norms over the whole weight, as a share of its norm.

    error: of what the file holds. nearest: of the nearest numbers on the same grid. best: with the best scales.
    beyond: how many numbers are not the nearest on their grid, ties aside; not told of floats.
    spans_off: how many scales are not the least with which no number of their channel or block is cut off, by more
        than rounding: which is how a recipe chooses them that looks at nothing but the range.
    cosine: of what the file holds and the weight. saturated: share of the whole numbers that are at an end of their
    type. off_zero: whether a zero point is not 0. scales_wrong: how many scales are zero, negative or not finite.
    far_rows: how many rows are so far from the nearest numbers that no method moves them there on purpose, or have
        such a block: one bad block hides in the error of a long row. far_blocks: how many blocks.
    farthest: the worst of these; None where there is none.
    wide: how many channels or blocks use less than half of their steps. channels: of how many.
    """

    error: float
    nearest: float
    best: float
    cosine: float
    beyond: int = 0
    far_rows: int = 0
    far_blocks: int = 0
    farthest: FarBlock | None = None
    spans_off: int = 0
    saturated: float = 0.0
    off_zero: bool = False
    scales_wrong: int = 0
    wide: int = 0
    channels: int = 0

    @property
    def is_nearest(self) -> bool:
        """Whether all numbers are as near as the grid allows, up to ties."""
        return not self.beyond and self.error <= self.nearest * 1.02 + 1e-7


def fit(held: Held, weight: npt.NDArray[Any]) -> GridFit:
    """weight: what the constant should stand for, of its shape."""
    sums, far_blocks, worst = np.zeros(7), 0, []
    for start in range(0, weight.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        more, blocks = _sums(held, weight, rows)
        sums += more
        if blocks is not None and blocks.far.any():
            far_blocks += int(blocks.far.sum())
            worst.append(blocks.worst(start))
    error, nearest, norm, own, product, beyond, far = (float(part) for part in sums)
    size = max(norm, float(np.finfo(np.float64).tiny))
    cosine = product / math.sqrt(size * own) if own else 0.0
    share = math.sqrt(nearest / size)
    found = GridFit(math.sqrt(error / size), share, share, cosine, beyond=int(beyond), far_rows=int(far))
    if worst:
        found = replace(found, far_blocks=far_blocks, farthest=max(worst, key=lambda one: one.times))
    return found if not held.grid.granularity else _with_scales(found, held, weight)


@dataclass(frozen=True)
class _Blocks:
    """Of some rows, all `[rows, blocks]`. own, best, norm: squares of the file's error, the nearest, the weight."""

    own: Floats
    best: Floats
    norm: Floats
    least: Floats
    far: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, part: Held, values: Floats, near: Floats, wanted: Floats, jumps: npt.NDArray[np.bool_]) -> _Blocks:
        own, best, norm = (
            np.square(part.grouped(each)[0]).sum(axis=-1) for each in (values - wanted, near - wanted, wanted)
        )
        least = np.maximum(best, _LEAST * part.grid.block * np.square(part.scale))
        return cls(own, best, norm, least, (own > _FAR**2 * least) | part.grouped(jumps)[0].any(axis=-1))

    def worst(self, start: int) -> FarBlock:
        """start: the number of the first row."""
        times = np.where(self.far, np.sqrt(self.own / np.maximum(self.least, np.finfo(np.float64).tiny)), -1.0)
        row, block = (int(each) for each in np.unravel_index(np.argmax(times), times.shape))
        size = max(float(self.norm[row, block]), float(np.finfo(np.float64).tiny))
        error, nearest = (math.sqrt(float(each[row, block]) / size) for each in (self.own, self.best))
        return FarBlock(start + row, block, error, nearest, float(times[row, block]))


def _sums(held: Held, weight: npt.NDArray[Any], rows: slice) -> tuple[Floats, _Blocks | None]:
    """Squared errors (file, nearest), squared norms (weight, file), their product, `beyond` and `far_rows`; and the
    blocks of a blockwise weight, where any number is not the nearest.
    """
    part = held.rows(rows)
    wanted, values = weight[rows].astype(np.float64), part.values
    error = _squares(values - wanted)
    nearest, beyond, far, blocks = error, 0, 0, None
    if held.grid.granularity:
        near = part.nearest(wanted)
        nearest = _squares(near - wanted)
        further = np.abs(values - wanted) - np.abs(near - wanted)
        beyond = int((further > _TIE * part.spread_scale).sum())
        own, best = (np.square(numbers - wanted).sum(axis=-1) for numbers in (values, near))
        jumps = np.abs(values - near) > _jump(held) * part.spread_scale * 1.01
        far_rows = (own > _FAR**2 * best) | jumps.any(axis=-1)
        if beyond and held.grid.block:
            blocks = _Blocks.of(part, values, near, wanted, jumps)
            far_rows |= blocks.far.any(axis=-1)
        far = int(far_rows.sum()) if beyond else 0
    elif held.grid.dtype == "FLOAT16":
        with np.errstate(over="ignore"):
            nearest = _squares(weight[rows].astype(np.float16).astype(np.float64) - wanted)
    norms = (_squares(wanted), _squares(values), float(np.vdot(values, wanted)))
    return np.array([error, nearest, *norms, beyond, far]), blocks


def _jump(held: Held) -> int:
    """How many steps from the nearest one no method moves a number: a 32nd of the type's, 4 at least."""
    low, high = held.ends
    return max(4, (high - low + 1) // 32)


def _gain(held: Held, weight: npt.NDArray[Any]) -> float:
    """How much less the error would be with the best scales, as a share of that of the nearest numbers."""
    rows = slice(0, None, max(1, weight.shape[0] // _SAMPLE))
    part, wanted = held.rows(rows), weight[rows].astype(np.float64)
    nearest = _squares(part.nearest(wanted) - wanted)
    return math.sqrt(min(1.0, _best(part, wanted) / nearest)) if nearest else 1.0


def _best(part: Held, wanted: Floats) -> float:
    """The least squared error with one scale for each channel or block, of the scales that are tried."""
    grouped, axes = part.grouped(wanted)
    low, high = part.ends
    span = np.abs(grouped).max(axis=axes, keepdims=True) / high
    found = []
    for share in _SPANS:
        scale = np.where(span > 0, span * share, 1.0)
        near = np.clip(np.rint(grouped / scale), low, high) * scale
        found.append(((near - grouped) ** 2).sum(axis=axes))
    return float(np.min(found, axis=0).sum())


def _with_scales(found: GridFit, held: Held, weight: npt.NDArray[Any]) -> GridFit:
    low, high = held.ends
    scale = held.scale
    wrong = int((~np.isfinite(scale) | (scale <= 0)).sum())
    grouped, axes = held.grouped(held.whole)
    reach = np.abs(grouped.astype(np.int16)).max(axis=axes)
    ends = float(((held.whole <= low) | (held.whole >= high)).mean())
    used = reach > 0  # a channel of zeros uses no step, and needs none
    return replace(
        found,
        best=found.nearest * _gain(held, weight),
        spans_off=_spans_off(held, weight),
        saturated=ends,
        off_zero=bool((held.zero != 0).any()),
        scales_wrong=wrong,
        wide=int((used & (reach < high // 2)).sum()),
        channels=int(reach.size),
    )


def _spans_off(held: Held, weight: npt.NDArray[Any]) -> int:
    """weight: the whole of it. Channels of zeros have no range, and grids that are not around 0 another scale."""
    grouped, axes = held.grouped(weight)
    reach = np.abs(grouped).max(axis=axes).astype(np.float64).reshape(-1)
    scale, zero = held.scale.reshape(-1), held.zero.reshape(-1)
    kept = _KEPT_OF_BLOCKS if held.grid.block else _KEPT
    told = (reach > 0) & (zero == 0) & np.isfinite(scale)
    return int((np.abs(scale * held.ends[1] - reach) > kept * reach)[told].sum())


def _squares(values: Floats) -> float:
    return float(np.vdot(values, values))
