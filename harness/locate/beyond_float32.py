"""Taps that float32 cannot compute: the reference's own two precisions disagree there, so no candidate can be judged.

In: a fault and the table of taps. Out: what says so, in words. Pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.compare.value_range import short
from harness.record.record import Fault

if TYPE_CHECKING:
    import pandas as pd

# Below the first, numbers of float32 have fewer and fewer digits; below half of the second, they are zero.
_SMALLEST_NORMAL, _SMALLEST = 2.0**-126, 2.0**-149


def beyond_float32(fault: Fault, frame: pd.DataFrame) -> str:
    """Why nothing can be judged at a fault's tap; empty where it breaks another limit than the noise floor's."""
    floor = fault.floor
    if floor is None:
        return ""
    value = math.inf if floor.value is None else floor.value
    said = (
        f"hf and oracle, the same model in float32 and float64, differ there by {value:.3g} relative "
        f"(limit {floor.limit:g}), so float32 cannot compute this tap from these numbers"
    )
    return said + _denormals(fault, frame)


def _denormals(fault: Fault, frame: pd.DataFrame) -> str:
    """`subnormal_share` is of float16, and says nothing of float32: the ends of the values do."""
    rows = frame[(frame["tap"] == fault.tap) & (frame["input"] == fault.input) & (frame["hop"] == fault.hop)]
    reach = max((abs(float(end)) for end in rows[["value_min", "value_max"]].to_numpy().flat), default=math.nan)
    if not 0 < reach < _SMALLEST_NORMAL:
        return ""
    return (
        f": its values are at most {short(reach)}, and below {_SMALLEST_NORMAL:.3g} float32 has denormals alone, "
        f"below {_SMALLEST:.2g} nothing"
    )
