"""How large the numbers of a tap get: what float16 could not hold. In: what the kernels gathered. Out: a `ValueRange`.

float16 ends at 65,504, and below 6.1e-5 its numbers have fewer and fewer digits. bfloat16 has the exponents of
float32: it loses digits everywhere, and overflows nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.record.tap_row import TapRow

FLOAT16_LARGEST = 65504.0
# From here on rounding to float16 gives infinity: half a step past its largest number.
FLOAT16_OVERFLOWS = 65520.0


@dataclass(frozen=True)
class ValueRange:
    """Of `elements` numbers, NaN passed over: the ends, how many are beyond 65,504 in magnitude, and how many are
    subnormal in float16: not zero, and below 6.1e-5. Without a number the ends are NaN."""

    smallest: float
    largest: float
    beyond: int
    subnormal: int
    elements: int

    @classmethod
    def of(cls, spans: np.ndarray[Any, Any], elements: int) -> ValueRange:
        """From the rows `[n, 4]` that `kernels.widen` filled, some of them perhaps untouched."""
        least, most = float(spans[:, 0].min(initial=math.inf)), float(spans[:, 1].max(initial=-math.inf))
        ends = (least, most) if least <= most else (math.nan, math.nan)
        return cls(*ends, int(spans[:, 2].sum()), int(spans[:, 3].sum()), elements)

    @property
    def magnitude(self) -> float:
        return max(abs(self.smallest), abs(self.largest))


def fill_range(row: TapRow, found: ValueRange | None) -> None:
    """Put the range of the oracle's values at a row's tap into it, where that is known."""
    if found is not None:
        count = max(1, found.elements)
        row.value_min, row.value_max = found.smallest, found.largest
        row.overflow_share, row.subnormal_share = found.beyond / count, found.subnormal / count


def joined(parts: Sequence[ValueRange]) -> ValueRange:
    """The range of all parts together. Raises ValueError without parts."""
    ends = [(part.smallest, part.largest) for part in parts if not math.isnan(part.smallest)]
    least, most = (min(one for one, _ in ends), max(one for _, one in ends)) if ends else (math.nan, math.nan)
    counts = [sum(getattr(part, name) for part in parts) for name in ("beyond", "subnormal", "elements")]
    if not parts:
        raise ValueError("no parts to join")
    return ValueRange(least, most, *counts)


def short(value: float) -> str:
    """`1.15e5`, as an engineer writes it."""
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")
