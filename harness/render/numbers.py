"""Numbers of a record as every renderer shows them: digits, shares, a figure beside its limit, the worst of several.

In: the record, or rows of its taps. Out: text. Computes no number of its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from harness.judge.shares import Figure, limit_of, nearest, share
from harness.record.record import Fault, HopResult, Record, Worst
from harness.record.tap_row import TapRow, rows_in

if TYPE_CHECKING:
    import pandas as pd


_FIGURE_NAMES = {
    "excess": "excess",
    "position_excess": "position",
    "local_excess": "local",
    "local_position_excess": "local position",
    "noise_floor": "noise floor",
}


def number(value: object) -> str:
    """Three significant digits, as an engineer writes them; `-` for nothing, `NaN` and `inf` as they are."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    real = float(value)  # type: ignore[arg-type]
    if math.isnan(real):
        return "NaN"
    if math.isinf(real):
        return "inf" if real > 0 else "-inf"
    if real == int(real) and abs(real) < 1e6:
        return str(int(real))
    if 1e-2 <= abs(real) < 999.5:
        return f"{real:#.3g}".rstrip(".")
    return f"{real:.2e}"


def percent(share: float | None) -> str:
    """A share as a percentage, cut and not rounded: 99.98 % of the taps is not `100 %`."""
    if share is None or math.isnan(share):
        return "-"
    tenths = math.floor(share * 1000 + 1e-9)
    return f"{tenths // 10} %" if tenths % 10 == 0 else f"{tenths / 10:.1f} %"


def share_words(share: float) -> str:
    """A share that may be tiny, as a percentage of two digits: `0.42 %`."""
    return f"{100 * share:.2g} %" if share else "0"


def is_nothing(value: object) -> bool:
    """True for None and for NaN, which a parquet column makes of it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def tap_value(row: TapRow, column: str) -> float | str | None:
    """A number of a tap row, honest about what is not one.

    A missing tap has no numbers: None; nor has one whose shapes differ, of which nothing was counted. A
    tap that was compared and holds NaN or Inf says `NaN`. Every compared tap has a `max_abs_err`, so where
    that is nothing it was NaN before a file made it null; any other number may be undefined there (no
    excess without a noise floor): None.
    """
    value: float | None = getattr(row, column)
    if row.verdict == "missing" or row.nan_count is None:
        return None
    if value is not None and not math.isnan(value):
        return float(value)
    return "NaN" if row.nan_count or row.inf_count or math.isnan(row.max_abs_err) else None


def sort_key(row: TapRow) -> float:
    """Worst first under `reverse=True`: by the share of its limit that a tap uses up.

    NaN of a compared tap stands above everything, a missing tap below.
    """
    used = share(row)
    return -math.inf if used is None else used


def of_limit(value: str, limit: float | None) -> str:
    """`3.20 of 4`: a figure beside its limit, where it has one; `not finite` of what has no figure."""
    if value == "NaN":
        return "not finite"
    return value if is_nothing(limit) else f"{value} of {number(limit)}"


def figure_text(figure: Figure | None) -> str:
    """`excess 3.20 of 4`: a figure with its name and its limit."""
    if figure is None:
        return "excess -"
    return f"{_FIGURE_NAMES[figure.column]} {of_limit(number(figure.value), figure.limit)}"


def floor_text(fault: Fault) -> str:
    """`1 of 0.001`: the noise floor at a fault that breaks no limit but that; else empty."""
    floor = fault.floor
    return "" if floor is None else of_limit(number(math.inf if floor.value is None else floor.value), floor.limit)


def tap_figure(row: TapRow, column: str) -> str:
    """A figure of a tap row beside its limit: `3.20 of 4`."""
    value = number(tap_value(row, column))
    return value if value == "-" else of_limit(value, limit_of(row, column))


def nearest_figure(row: TapRow) -> str:
    """The figure of a tap that uses up most of its limit, as `3.20 of 4` or `position 15.1 of 16`."""
    if row.nan_count is None:
        return "not comparable"
    return figure_text(nearest(row)).removeprefix("excess ")


def rows_of(frame: pd.DataFrame, **wanted: str) -> list[TapRow]:
    """Tap rows whose columns have the wanted values, in execution order."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return sorted(rows_in(frame), key=lambda row: row.order)


def worst_excess(worst: Worst | None) -> str:
    """The excess of a hop's worst tap beside its limit; NaN if the error is, and undefined without either."""
    if worst is None:
        return "-"
    value = compared(worst.max_abs_err) if is_nothing(worst.max_abs_err) else number(worst.excess)
    return of_limit(value, worst.limit)


def worst_of(record: Record, attribute: Literal["worst", "worst_position"] = "worst") -> tuple[HopResult, Worst] | None:
    """The hop whose worst tap comes nearest to its limit or goes furthest past it; None when nothing was compared."""
    found = [(hop, worst) for hop in record.hops if (worst := getattr(hop, attribute)) is not None]
    return max(found, key=lambda pair: share_of(pair[1])) if found else None


def share_of(worst: Worst) -> float:
    """How much of its limit the worst tap of a hop uses up; infinite for NaN."""
    limit = None if is_nothing(worst.limit) else worst.limit
    return Figure("excess", math.nan if worst.excess is None else worst.excess, limit).share


def ratio_text(value: float | None) -> str:
    """A ratio that is near 1, where three digits would say nothing: `1.0007`."""
    if is_nothing(value):
        return "NaN"
    assert value is not None
    return f"{value:.4f}" if 0.5 <= value < 9.9995 else number(value)


def compared(value: float | None) -> str:
    """A number of what was compared: where the record has none, JSON could not hold the NaN or Inf."""
    return "NaN" if is_nothing(value) else number(value)
