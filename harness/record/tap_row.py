"""One tap of one input on one hop: a row of `taps.parquet`.

In: what a comparison found, or a frame of such rows. Out: `TapRow`, whose fields are the columns; the frame; the rows.
A run has thousands, so nothing is validated here (`taps_table.py` checks what comes from a file), and the comparison
fills a row in place. Nobody else changes one: whoever knows more of it makes another with `replace`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from harness.record.part import TapVerdict

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

_KEPT = "kept"


@dataclass(slots=True, kw_only=True)
class TapRow:
    """What a tap came to. Until something was compared it is missing, and its figures are NaN, its counts None."""

    model: str  # its name
    input: str  # id of the input
    hop: str  # "hf->reauthored"
    tap: str  # "block.0.attn.q"
    block: int  # -1 outside the blocks
    order: int  # of execution: the number of the tap in the model
    shape: str | None = None  # of the candidate's array, "1x12x9x64"; None where nothing was compared
    dtype: str | None = None  # of the candidate's array, "float32"
    max_abs_err: float = math.nan  # largest absolute error, in units of the tap
    mean_abs_err: float = math.nan  # mean absolute error, in units of the tap
    rel_l2: float = math.nan  # norm of the error over norm of the reference
    cosine: float = math.nan  # cosine similarity, -1 to 1
    snr_db: float = math.nan  # signal to noise in dB; infinite without any error
    noise_floor: float = math.nan  # what float32 costs here: a relative error
    excess: float = math.nan  # error over the noise floor, over all positions compared
    position_excess: float = math.nan  # the largest excess of a single token position
    worst_position: int | None = None  # where that is, counted from 0 in the input
    total_excess: float = math.nan  # error of the candidate against `oracle` over the noise floor
    local_excess: float = math.nan  # excess introduced at the tap; NaN on inputs that no local pass ran
    local_position_excess: float = math.nan  # the largest of these of a single position
    decode_excess: float = math.nan  # the largest excess of a position that decode ran; NaN where it ran none
    decode_position: int | None = None  # where that is, counted from 0 in the input
    nan_count: int | None = None  # elements that are NaN, on either side or in the oracle
    inf_count: int | None = None  # elements that are infinite, likewise
    value_min: float = math.nan  # smallest value of the oracle, NaN passed over; of missing taps too
    value_max: float = math.nan  # largest value of the oracle
    overflow_share: float = math.nan  # share of the oracle's values beyond float16, 0 to 1
    subnormal_share: float = math.nan  # share of the oracle's values that are subnormal in float16, 0 to 1
    kl_mean: float = math.nan  # of logits: KL in nats, mean over positions; NaN at other taps, as the next three
    kl_p50: float = math.nan  # of logits: what half of the positions do not exceed
    kl_p95: float = math.nan  # of logits: what 95 % do not; the largest of fewer than 20
    kl_p99: float = math.nan  # of logits: what 99 % do not; the largest of fewer than 100
    answer_flips: int | None = None  # of logits on text: positions where one side alone has the next token first
    how: str | None = None  # "read" where both sides hold the tap, "derived" where one was computed from others
    verdict: TapVerdict = "missing"
    absence: str | None = None  # listed reason of a missing tap; without one it fails its hop
    rule: str = ""  # name of the tolerance rule that judged it; empty where none did
    # Codes of what fails it, joined by ", ": figures whose limits it breaks, or a `TapCode`. Empty where none does.
    broken: str = ""
    noise_floor_limit: float = math.nan  # limits of that rule, NaN where it sets none: in units of `noise_floor`
    excess_limit: float = math.nan  # in units of `excess`
    position_excess_limit: float = math.nan  # in units of `position_excess`
    local_excess_limit: float = math.nan  # in units of `local_excess`
    local_position_excess_limit: float = math.nan  # in units of `local_position_excess`
    why: str = ""  # limits that it broke, or why it is missing, in words
    # How many positions were compared. Rules ask for it; the table does not keep it.
    positions: int | None = field(default=None, metadata={_KEPT: False})


TAP_COLUMNS: tuple[str, ...] = tuple(column.name for column in fields(TapRow) if column.metadata.get(_KEPT, True))


def taps_frame(rows: Sequence[TapRow]) -> pd.DataFrame:
    """Rows as a tidy frame with exactly `TAP_COLUMNS`; what a row has not is empty there."""
    import pandas as pd

    columns = {name: [_cell(getattr(row, name)) for row in rows] for name in TAP_COLUMNS}
    return pd.DataFrame(columns, dtype=None if rows else object)


def _cell(value: object) -> object:
    return math.nan if value is None else value


def rows_in(frame: pd.DataFrame) -> list[TapRow]:
    """The rows of a frame, in its order. Columns that an older version did not write are as if nothing was known."""
    names = [name for name in TAP_COLUMNS if name in frame]
    columns = [_cells_of(frame[name], _READ[name]) for name in names]
    return [TapRow(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


def floats_in(frame: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """A column of numbers, float64 `[rows]`; NaN where it is empty, and where an older version did not write it."""
    import numpy as np

    if column not in frame:
        return np.full(len(frame), np.nan)
    return frame[column].to_numpy(dtype=np.float64, na_value=np.nan)


def _cells_of(column: pd.Series[Any], read: Callable[[Any], Any]) -> Iterable[Any]:
    """The cells of a column as a row has them. Most are floats already, and a run has a million."""
    cells = column.tolist()
    return cells if read is _number and column.dtype == "float64" else map(read, cells)


def _is_empty(value: Any) -> bool:
    return value is None or value != value  # NaN


def _text(value: Any) -> str:
    return "" if _is_empty(value) else str(value)


def _text_or_none(value: Any) -> str | None:
    return None if _is_empty(value) else str(value)


def _number(value: Any) -> float:
    return math.nan if _is_empty(value) else float(value)


def _count(value: Any) -> int | None:
    return int(value) if not _is_empty(value) and math.isfinite(value) else None


# The type of a field -> what makes a cell of a frame one: an empty cell is NaN or None, a count a float beside those.
_READERS: dict[Any, Callable[[Any], Any]] = {
    "str": _text,
    "TapVerdict": _text,
    "str | None": _text_or_none,
    "float": _number,
    "int": int,
    "int | None": _count,
}
_READ = {column.name: _READERS[column.type] for column in fields(TapRow)}
