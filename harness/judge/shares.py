"""How much of its limit a tap uses up. In: a tap row, or a frame of them. Out: its share, and the figure that comes
nearest to its limit.

Short inputs have wider limits, so raw excess cannot be compared between rows; the share of the limit can.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.judge.rules import floor_alone
from harness.names.figures import FLOOR, LOCAL_FIGURES
from harness.record.tap_row import TapRow, floats_in

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

FIGURES = ("excess", "position_excess", "local_excess", "local_position_excess")


@dataclass(frozen=True)
class Figure:
    """One figure of a tap and its limit.

    value: NaN where the tap holds NaN, or where JSON could not hold it. limit: None where the rule sets none,
    and in records from before limits were stored.
    """

    column: str
    value: float
    limit: float | None

    @property
    def share(self) -> float:
        """Value over limit; without a limit the value itself, as if the limit were 1. NaN is worst of all: inf."""
        if math.isnan(self.value) or math.isinf(self.value):
            return math.inf
        if self.limit is None:
            return self.value
        if self.limit <= 0:
            return math.inf if self.value > self.limit else 0.0
        return self.value / self.limit


def limit_of(row: TapRow, column: str) -> float | None:
    """The limit of one of `FIGURES`; None where there is none."""
    limit: float = getattr(row, f"{column}_limit")
    return None if math.isnan(limit) else limit


def nearest(row: TapRow) -> Figure | None:
    """The figure that uses up most of its limit; None for a tap that was not compared or has no figure.

    A figure without a limit counts only where none has one: then it is the excess. Local figures are of chosen
    inputs: elsewhere they are NaN, which there says nothing of the tap. The noise floor is the figure of a tap that
    breaks no other limit: an excess over it is small there because the floor is large.
    """
    if row.verdict == "missing":
        return None
    floor = floor_alone(row) if row.verdict == "fail" else None
    if floor is not None:
        return Figure(FLOOR, math.inf if floor.value is None else floor.value, floor.limit)
    known = [column for column in FIGURES if column not in LOCAL_FIGURES or not math.isnan(getattr(row, column))]
    limited = [(column, limit_of(row, column)) for column in known]
    limited = [pair for pair in limited if pair[1] is not None] or [("excess", None)]
    figures = [Figure(column, getattr(row, column), limit) for column, limit in limited]
    worst = max(figures, key=lambda figure: figure.share)
    undefined = worst.limit is None and math.isnan(worst.value) and not _holds_nan(row)
    return None if undefined else worst


def share(row: TapRow) -> float | None:
    """The share of its limit that a tap uses up: above 1 it fails. None where it has no figure."""
    figure = nearest(row)
    return None if figure is None else figure.share


def _holds_nan(row: TapRow) -> bool:
    """Every compared tap has a `max_abs_err`: where that is NaN, or NaN and Inf were counted, the tap holds some."""
    return math.isnan(row.max_abs_err) or bool(row.nan_count) or bool(row.inf_count)


def shares(frame: pd.DataFrame) -> NDArray[np.float64]:
    """`share` of every row of a frame, float64 `[rows]`; NaN for None. A run has 50,000, so no row is made of them."""
    import numpy as np

    values = np.stack([floats_in(frame, name) for name in FIGURES])
    limits = np.stack([floats_in(frame, f"{name}_limit") for name in FIGURES])
    local = np.array([name in LOCAL_FIGURES for name in FIGURES])[:, None]
    used = np.where(np.isnan(limits) | (local & np.isnan(values)), -np.inf, _used(values, limits)).max(axis=0)
    undefined = np.isnan(values[0]) & ~_nan_in(frame)
    alone = np.where(undefined, np.nan, np.where(np.isfinite(values[0]), values[0], np.inf))
    used = np.where(used == -np.inf, alone, used)
    floor = floats_in(frame, FLOOR)
    broken = (frame["broken"] == FLOOR).to_numpy() if "broken" in frame else np.zeros(len(frame), dtype=bool)
    of_floor = (frame["verdict"] == "fail").to_numpy() & broken & ~np.isnan(floor)
    used = np.where(of_floor, _used(floor, floats_in(frame, f"{FLOOR}_limit")), used)
    return np.where((frame["verdict"] == "missing").to_numpy(), np.nan, used)


def _used(values: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.float64]:
    """`Figure.share` of each, where there is a limit."""
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        within = np.where(limits > 0, values / limits, np.where(values > limits, np.inf, 0.0))
    return np.where(np.isfinite(values), within, np.inf)


def _nan_in(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """`_holds_nan` of every row."""
    import numpy as np

    found: NDArray[np.bool_] = np.isnan(floats_in(frame, "max_abs_err"))
    for name in ("nan_count", "inf_count"):
        found |= floats_in(frame, name) > 0
    return found
