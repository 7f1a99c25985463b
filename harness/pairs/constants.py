"""A constant of one file against that of the other: the same numbers on the same grid, another grid, or a difference.

In: a tensor of each file. Out: `Held`, which says what differs. Numbers of one type on one kind of grid have no price
between them: they must be equal, but for what float32 rounds of a scale, or of a float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.flatbuffer.constants import NARROW, whole_numbers
from harness.flatbuffer.quantised import grid_of, held
from harness.flatbuffer.reader import FlatbufferModel, Subgraph, Tensor

Array = np.ndarray[Any, Any]
_ROUNDING = 16 * 2.0**-24  # as what a tensor may be off by whose float64 value is not known
_PIECE = 1 << 22  # numbers that are looked at together


@dataclass(frozen=True)
class Place:
    """A tensor of a file."""

    model: FlatbufferModel
    graph: Subgraph
    index: int

    @property
    def tensor(self) -> Tensor:
        return self.graph.tensors[self.index]

    def quantization(self) -> Any:
        return self.model.quantization(self.graph.index, self.index)

    def scales(self) -> tuple[Array, Array]:
        """Scales and zero points that the tensor has itself; empty where it has none."""
        found = self.quantization()
        scale = None if found is None else found.scale
        zero = None if found is None else found.zeroPoint
        one, other = (np.zeros(0) if each is None else np.asarray(each, np.float64) for each in (scale, zero))
        return one, other

    @property
    def is_scaled(self) -> bool:
        found = self.quantization()
        return found is not None and (found.details is not None or len(self.scales()[0]) > 0)


@dataclass(frozen=True)
class Gap:
    """words: what differs, empty where nothing does. alike: of one type, with scales of one kind. rounded: whether the
    two are the same but for roundings: of each number without words, of the largest with words."""

    words: str = ""
    alike: bool = True
    rounded: bool = False


UNLIKE = Gap(alike=False)


def grid_words(place: Place) -> str:
    """The type of a tensor and how many scales it has, in words that are equal where the two are."""
    dtype, scales = place.tensor.dtype, place.scales()[0]
    if dtype in NARROW and place.is_scaled:
        return str(grid_of(place.model, place.graph, place.index))
    axis = getattr(place.quantization(), "quantizedDimension", 0) if len(scales) > 1 else ""
    return f"{dtype} {min(len(scales), 2)} {axis}"


def scale_gap(a: Place, b: Place) -> Gap:
    """Of two tensors that are computed: their types and scales."""
    try:
        if grid_words(a) != grid_words(b):
            return UNLIKE
    except ValueError as error:
        return Gap(f"it cannot be compared ({error})")
    return _scales(a.scales(), b.scales(), "channel")


def constant_gap(a: Place, b: Place, same_bytes: bool) -> Gap:
    """Of two constants of one shape. same_bytes: whether the files hold the same bytes for them."""
    try:
        if grid_words(a) != grid_words(b):
            return UNLIKE
        if b.tensor.dtype in NARROW and b.is_scaled:
            one, other = (held(each.model, each.graph, each.index) for each in (a, b))
            what = "block" if one.grid.block else "channel"
            scales = _scales((one.scale, one.zero), (other.scale, other.zero), what)
            numbers = Gap() if same_bytes else _numbers(one.whole, other.whole)
        else:
            scales = _scales(a.scales(), b.scales(), "channel")
            numbers = Gap() if same_bytes else _numbers(*(_values(each) for each in (a, b)))
    except ValueError as error:
        return Gap() if same_bytes else Gap(f"differs in its bytes, which cannot be read as numbers ({error})")
    words = " and ".join(each.words for each in (numbers, scales) if each.words)
    far = any(each.words and not each.rounded for each in (numbers, scales))
    return Gap(words, rounded=not far and (numbers.rounded or scales.rounded))


def _values(place: Place) -> Array:
    found = whole_numbers(place.model, place.graph, place.index)
    if found is None:
        raise ValueError("one is computed")
    return found


def _scales(a: tuple[Array, Array], b: tuple[Array, Array], what: str) -> Gap:
    """Scales and zero points. what: `channel` or `block`, which each is of."""
    rounded = False
    for name, one, other, roundings in (("scale", a[0], b[0], 4.0), ("zero point", a[1], b[1], 0.0)):
        if one.shape != other.shape:
            return Gap(f"has {one.size} {name}s in A and {other.size} in B")
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        near = same | (np.abs(one - other) <= roundings * 2.0**-24 * np.abs(one))
        rounded = rounded or not same.all()
        if not near.all():
            wrong = np.argwhere(~near)
            where = [int(i) for i in wrong[0]]
            number = where if what == "block" else max(where)
            place = f" of {what} {number}" if one.size > 1 else ""
            values = f"{one[tuple(where)]:.6g} in A and {other[tuple(where)]:.6g} in B"
            more = f", and {len(wrong) - 1} more of {one.size} differ" if len(wrong) > 1 else ""
            return Gap(f"has another {name}{place}: {values}{more}")
    return Gap(rounded=rounded)


def _numbers(a: Array, b: Array) -> Gap:
    """Floats of 32 bits may be off by roundings of their own; all others are equal or not."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return Gap(f"is {a.dtype} {list(a.shape)} in A and {b.dtype} {list(b.shape)} in B")
    one, other = a.reshape(-1), b.reshape(-1)
    wrong, largest, size, at, far = 0, 0.0, 0.0, -1, False
    for start in range(0, one.size, _PIECE):
        x, y = one[start : start + _PIECE], other[start : start + _PIECE]
        with np.errstate(invalid="ignore", over="ignore"):
            odd = np.flatnonzero(~((x == y) | ((x != x) & (y != y))))
            gaps = np.abs(x[odd].astype(np.float64) - y[odd].astype(np.float64))
            far = far or not (gaps <= _ROUNDING * np.abs(x[odd].astype(np.float64))).all()
        finite = np.abs(x[np.isfinite(x)]) if x.dtype.kind == "f" else np.zeros(0)
        size = max(size, float(finite.max())) if finite.size else size
        gaps = np.where(np.isfinite(gaps), gaps, np.inf)
        wrong += len(odd)
        if len(odd) and (at < 0 or gaps.max() > largest):
            largest, at = float(gaps.max()), start + int(odd[int(gaps.argmax())])
    if not wrong:
        return Gap()
    rounded = a.dtype == np.float32 and largest <= _ROUNDING * size
    if rounded and not far:
        return Gap(rounded=True)
    gap = f", by up to {largest:.3g}" if np.isfinite(largest) else ""
    place = f"at {[int(i) for i in np.unravel_index(at, a.shape)]} " if a.size > 1 else ""
    most = f"; {place}it is {_said(one[at])} in A and {_said(other[at])} in B"
    return Gap(f"differs in {wrong} of {one.size} numbers{gap}{most}", rounded=rounded)


def _said(value: Any) -> str:
    number = float(value)
    return "NaN" if number != number else f"{number:.6g}"


def same_bytes(a: Place, b: Place) -> bool:
    """Whether two constants are held as the same bytes."""
    one, other = (np.asarray(each.model.buffer(each.tensor.buffer)) for each in (a, b))
    step = 4 * _PIECE
    return one.size == other.size and all(
        np.array_equal(one[start : start + step], other[start : start + step]) for start in range(0, one.size, step)
    )


def is_constant(place: Place) -> bool:
    return len(place.model.buffer(place.tensor.buffer)) > 0


__all__ = ["UNLIKE", "Gap", "Place", "constant_gap", "is_constant", "same_bytes", "scale_gap"]
