"""Arrays of any shape in units of what float32 costs: their rows are the positions of `harness/compare/noise.py`.

In: a candidate, the truth in float64 and float32 runs. Out: `Measured`. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.compare.noise import NoiseFloor, excess

Array = np.ndarray[Any, Any]
LIMIT, POSITION_LIMIT = 4.0, 16.0  # as `harness/judge/tolerances.toml` has them for float32
# Bits of the significand. One rounding is off by at most 2 to the minus that, of the value.
BITS = {"bfloat16": 8, "float16": 11}
_FLOAT32_BITS = 24
_ROW = 16  # numbers that a row has at least, where there are as many


def rows_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """How an array is looked at: `[rows, numbers]`, whose rows are as short as gives them 16 numbers."""
    numbers, size = 1, math.prod(shape)
    for extent in reversed(shape):
        if numbers >= _ROW:
            break
        numbers *= extent
    return (size // numbers, numbers) if numbers else (0, 0)


@dataclass(frozen=True)
class Measured:
    """whole, worst: excess of all and of the worst row. floor: relative to the row, its mean over rows."""

    whole: float
    worst: float
    row: int
    floor: float

    def passes(self, limit: float = LIMIT) -> bool:
        return self.whole <= limit and self.worst <= max(POSITION_LIMIT, limit)


def measure(
    candidate: Array, exact: Array, runs: Sequence[Array], dtype: str = "", reference: Array | None = None
) -> Measured:
    """How far `candidate` is from `reference`, or from `exact` where there is none.

    All are arrays of one shape without NaN or infinity. runs: what float32 made of `exact`; none where it is not known.
    dtype: a narrow type whose rounding is the least that the floor may be; empty for float32.
    """
    rows = rows_of(exact.shape)
    want, given, *samples = (values.reshape(rows).astype(np.float64) for values in (exact, candidate, *runs))
    norms = np.sqrt(_squares(want))
    # A row of zeros has no norm to be relative to: that of the others is taken.
    norms = np.where(norms > 0, norms, float(norms[norms > 0].mean()) if norms.any() else 1.0)
    noise = np.sqrt(np.mean([_squares(sample - want) for sample in samples], axis=0)) / norms if samples else 0 * norms
    typical = max(float(np.median(noise)), 2.0 ** -BITS.get(dtype, _FLOAT32_BITS))
    floor = NoiseFloor(noise, norms, typical)
    base = want if reference is None else reference.reshape(rows).astype(np.float64)
    found = excess(_squares(given - base), floor)
    return Measured(found.whole, found.worst, found.worst_position, floor.whole)


def _squares(values: Array) -> Array:
    """Sums of squares of each row."""
    return np.asarray(np.einsum("ij,ij->i", values, values))
