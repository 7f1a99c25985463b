"""Find a tensor of a flatbuffer among the intermediates of the re-authored model, by its values.

In: recorded arrays, and a tensor. Out: the name of the one with the same values, whatever its shape and the order of
its axes. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_HEAD = 64  # elements that are compared before all of them are
_MOST_AXES = 5
# A mask hides with minus infinity here and with the smallest float32 there, or the sum of two of those.
_HIDDEN = 1e30


@dataclass
class RecordedTaps:
    """Intermediates of a model by name, in the order in which they were computed; the first match counts."""

    _by_size: dict[int, list[tuple[str, Array, Array]]] = field(default_factory=dict)

    @classmethod
    def of(cls, arrays: Iterable[tuple[str, Array]]) -> RecordedTaps:
        made = cls()
        for name, values in arrays:
            squeezed = _clipped(values).squeeze()
            made._by_size.setdefault(values.size, []).append((name, squeezed, _moments(squeezed)))
        return made

    def find(self, values: Array, tolerance: float) -> str | None:
        """tolerance: of the largest difference, as a share of the largest value."""
        flat = _clipped(values).reshape(-1)
        moments, size = _moments(flat), _size(flat)
        for name, other, known in self._by_size.get(flat.size, []):
            if np.all(np.abs(moments - known) <= 4 * tolerance * (np.abs(known) + size * 1e-3) + 1e-30) and any(
                _same(flat, turned, tolerance * size) for turned in _turned(other)
            ):
                return name
        return None

    def nearest(self, values: Array) -> tuple[str, float, int] | None:
        """Of the same shape: name, largest difference as a share of the largest value, and how many elements differ."""
        wanted = _clipped(values).squeeze()
        best: tuple[str, float, int] | None = None
        for name, other, _ in self._by_size.get(wanted.size, []):
            for turned in _turned(other):
                if turned.shape != wanted.shape:
                    continue
                difference = np.abs(turned - wanted)
                share = float(difference.max()) / (_size(wanted) or 1.0)
                if best is None or share < best[1]:
                    best = (name, share, int(np.count_nonzero(difference)))
        return best


def _clipped(values: Array) -> Array:
    return np.clip(np.asarray(values, np.float64), -_HIDDEN, _HIDDEN)


def _seen(values: Array) -> Array:
    return values[np.abs(values) < _HIDDEN]


def _size(values: Array) -> float:
    seen = _seen(values)
    return float(np.abs(seen).max()) if seen.size else 0.0


def _moments(values: Array) -> Array:
    """Figures that do not depend on the order of the elements, each of the size of the values."""
    seen = _seen(values)
    if not seen.size:
        return np.zeros(4)
    return np.array([np.abs(seen).mean(), np.sqrt(np.mean(np.square(seen))), seen.max(), seen.min()])


def _turned(values: Array) -> Iterable[Array]:
    """The values with their axes in every order, as they are first."""
    if values.ndim > _MOST_AXES:
        return [values]
    return (values.transpose(order) for order in itertools.permutations(range(values.ndim)))


def _same(flat: Array, other: Array, bound: float) -> bool:
    if other.ndim > 1:
        # The first elements decide nearly always, and cost no copy of all.
        first = np.array([value for value, _ in zip(other.flat, range(_HEAD), strict=False)])
        if not _close(flat[:_HEAD], first, bound):
            return False
    return _close(flat, other.reshape(-1), bound)


def _close(one: Array, other: Array, bound: float) -> bool:
    return bool(np.all(np.abs(one - other) <= bound))
