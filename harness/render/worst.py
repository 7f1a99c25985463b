"""What is shown of each tap of a hop: the input on which it is worst. In: the taps table. Out: a row for each tap.

A hop has thousands of rows and shows a few hundred: rows are chosen by whole columns, and only the chosen are made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from harness.judge.shares import shares
from harness.names.stages import Hop
from harness.record.tap_row import TapRow, floats_in, rows_in

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

LOCAL_EXCESS, DECODE_EXCESS, SNR = "local_excess", "decode_excess", "snr_db"
_WORST_FIRST = {"fail": 0, "missing": 1, "pass": 2}


@dataclass(frozen=True)
class ShownTap:
    """What is shown of a tap: its row of one input. The local figures in it may be of another, `local_input`."""

    row: TapRow
    local_input: str


def worst_per_tap(frame: pd.DataFrame, hop: str) -> dict[str, TapRow]:
    """The worst row of each tap of a hop over its inputs, in execution order: a failing one before a missing one before
    a pass, and of these the one that uses up most of its limit.
    """
    rows = _of_hop(frame, hop)
    return _made(rows, _worst(rows))


def worst_rows(frame: pd.DataFrame, hop: str) -> dict[str, ShownTap]:
    """What is shown of each tap of a hop: its row of the input on which it uses up most of its limit.

    Between two sets of kernels it is the one with the lowest SNR, since that is what they are judged by.
    Only some inputs are judged locally: the local figures are of the one of these where most of their limit is used.
    Likewise the worst decode step is that of all inputs.
    """
    rows = _of_hop(frame, hop)
    chosen = _worst(rows)
    if Hop.parse(hop).by_snr:
        noisiest = _noisiest(rows)
        chosen = {tap: noisiest[tap] for tap in chosen}
    local = _made(rows, _most_of_limit(rows, LOCAL_EXCESS, "local_excess_limit"))
    decoded = _made(rows, _most_of_limit(rows, DECODE_EXCESS, "position_excess_limit"))  # a step is one position
    worst = _made(rows, chosen)
    return {tap: _with_local(_with_decode(row, decoded.get(tap)), local.get(tap)) for tap, row in worst.items()}


def _of_hop(frame: pd.DataFrame, hop: str) -> pd.DataFrame:
    """The rows of a hop in execution order."""
    return frame[frame["hop"] == hop].sort_values("order", kind="stable")


def _made(rows: pd.DataFrame, chosen: dict[str, int]) -> dict[str, TapRow]:
    return dict(zip(chosen, rows_in(rows.iloc[list(chosen.values())]), strict=True))


def _worst(rows: pd.DataFrame) -> dict[str, int]:
    """Tap -> the number of its worst row, taps in execution order."""
    used, verdicts = np.nan_to_num(shares(rows), nan=-np.inf, posinf=np.inf), rows["verdict"].map(_WORST_FIRST)
    ranked = np.lexsort((-used, verdicts.to_numpy()))
    found = _last(rows, ranked[::-1])
    return {tap: found[tap] for tap in rows["tap"].unique()}


def _most_of_limit(rows: pd.DataFrame, figure: str, limit: str) -> dict[str, int]:
    """Tap -> the row in which that figure uses up most of its limit, of those that have it."""
    values, limits = floats_in(rows, figure), floats_in(rows, limit)
    used = values / np.where(np.isnan(limits) | (limits == 0), 1.0, limits)
    known = ~np.isnan(values) & _counted(rows)
    ranked = np.argsort(used, kind="stable")
    return _last(rows, ranked[known[ranked]])


def _noisiest(rows: pd.DataFrame) -> dict[str, int]:
    """Tap -> the row with the lowest SNR, a failing one first; one that holds NaN has none at all."""
    signal = floats_in(rows, SNR)
    signal = np.where(np.isnan(signal) | ~_counted(rows), -np.inf, signal)
    signal = np.where((rows["verdict"] == "missing").to_numpy(), np.inf, signal)
    failing = (rows["verdict"] == "fail").to_numpy()
    return _last(rows, np.lexsort((-signal, failing)))


def _counted(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows were compared: of a missing tap, and of one whose shapes differ, nothing was counted."""
    return np.isfinite(floats_in(rows, "nan_count")) & (rows["verdict"] != "missing").to_numpy()


def _last(rows: pd.DataFrame, ranked: NDArray[np.intp]) -> dict[str, int]:
    """Tap -> the last of its rows in that order."""
    return dict(zip(rows["tap"].to_numpy()[ranked].tolist(), ranked.tolist(), strict=True))


def _with_decode(row: TapRow, other: TapRow | None) -> TapRow:
    if other is None:
        return row
    return replace(row, decode_excess=other.decode_excess, decode_position=other.decode_position)


def _with_local(row: TapRow, local: TapRow | None) -> ShownTap:
    if local is None:
        return ShownTap(row, row.input)
    merged = replace(
        row,
        local_excess=local.local_excess,
        local_position_excess=local.local_position_excess,
        local_excess_limit=local.local_excess_limit,
        local_position_excess_limit=local.local_position_excess_limit,
    )
    return ShownTap(merged, local.input)
