"""How much of its limit a tap uses up. In: a tap row. Out: its share, and the figure that comes nearest to its limit.

Short inputs have wider limits, so raw excess cannot be compared between rows; the share of the limit can.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.judge.rules import floor_alone
from harness.names.figures import FLOOR, LOCAL_FIGURES
from harness.record.tap_row import TapRow

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
