"""The taps table as a page's scripts read it. In: its rows. Out: columns of small values, texts by index.

A run has 50,000 rows of 30 cells, so whole columns are made at once. Numbers are cut to the digits that the page shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.judge.shares import FIGURES, shares
from harness.names.figures import LOCAL_FIGURES
from harness.record.tap_row import floats_in

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

VERDICTS = ("pass", "fail", "missing")
# The numbers of a tap; the scripts know them by these names.
NUMBERS = (
    "excess",
    "position_excess",
    "local_excess",
    "local_position_excess",
    "total_excess",
    "rel_l2",
    "noise_floor",
    "max_abs_err",
    "mean_abs_err",
    "snr_db",
    "cosine",
)
# The largest share of a limit that is used up.
USED = "limit_used"
# How large the reference's values get: of the oracle, whatever became of the comparison. Old taps files lack them.
RANGE = ("value_min", "value_max", "overflow_share", "subnormal_share")
MAGNITUDE = "magnitude"
TEXTS = ("input", "hop", "tap", "rule", "why", "shape", "dtype", "how")
_COUNTS = ("worst_position", "nan_count", "inf_count")

Cell = float | str | None  # null, or the word `NaN`, `inf` or `-inf` where there is no number; texts by their index


def tap_columns(frame: pd.DataFrame, texts: dict[str, dict[str, int]]) -> dict[str, list[Cell]]:
    """The columns, a cell for each row in the frame's order. texts: column -> text -> index; new ones are added."""
    columns: dict[str, list[Cell]] = {name: _indexes(frame, name, texts[name]) for name in TEXTS}
    columns["verdict"] = list(frame["verdict"].map({name: i for i, name in enumerate(VERDICTS)}))
    for name in _COUNTS:
        columns[name] = np.nan_to_num(floats_in(frame, name), posinf=0, neginf=0).astype(np.int64).tolist()
    counted = (frame["verdict"] != "missing").to_numpy() & np.isfinite(floats_in(frame, "nan_count"))
    nan_in = (floats_in(frame, "nan_count") > 0) | (floats_in(frame, "inf_count") > 0)
    nan_in |= np.isnan(floats_in(frame, "max_abs_err"))
    for name in NUMBERS:
        values = floats_in(frame, name)
        known = counted & (~np.isnan(values) | (nan_in & (name not in LOCAL_FIGURES)))
        columns[name] = compact_all(values, name, known)
    for name in FIGURES:
        limits = floats_in(frame, f"{name}_limit")
        columns[f"{name}_limit"] = compact_all(limits, name, ~np.isnan(limits))
    used = shares(frame)
    return columns | {USED: compact_all(used, USED, ~np.isnan(used))} | _range_columns(frame)


def _range_columns(frame: pd.DataFrame) -> dict[str, list[Cell]]:
    values = {name: floats_in(frame, name) for name in RANGE}
    largest = np.fmax(np.abs(values[RANGE[0]]), np.abs(values[RANGE[1]]))
    return {name: compact_all(each, "", ~np.isnan(each)) for name, each in (values | {MAGNITUDE: largest}).items()}


def _indexes(frame: pd.DataFrame, column: str, known: dict[str, int]) -> list[Cell]:
    """Each text of a column by its index."""
    if column not in frame:
        return [known.setdefault("", len(known))] * len(frame)
    import pandas as pd

    codes, found = pd.factorize(frame[column].fillna("").astype(str))
    indexes = [known.setdefault(text, len(known)) for text in found]
    return np.array(indexes, dtype=np.int64)[codes].tolist() if indexes else []


def compact_all(
    values: NDArray[np.float64] | Sequence[float], column: str = "", known: NDArray[np.bool_] | None = None
) -> list[Cell]:
    """`compact` of each; None where it is not known. The same number is cut once: limits are few."""
    distinct, where = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True)
    cells = np.empty(len(distinct) + 1, dtype=object)
    cells[:-1] = [compact(value, column) for value in distinct.tolist()]
    found: list[Cell] = cells[where if known is None else np.where(known, where, len(distinct))].tolist()
    return found


def compact(value: Cell, column: str = "") -> Cell:
    """A number in three digits (nine of a cosine, which is near 1), as JSON takes it."""
    if value is None or isinstance(value, str):
        return value
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    short = float(f"{value:.9g}" if column == "cosine" else f"{value:.3g}")
    return int(short) if short == int(short) and abs(short) < 1e6 else short
