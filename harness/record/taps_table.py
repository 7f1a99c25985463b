"""The table of a run's taps, as it is read back. In: `taps.parquet`. Out: a frame whose columns hold what they should.

A run folder may be damaged, of another version, or made by somebody else: what is read here is checked once, so that
nothing that renders a run has to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.plain import brief, one_line
from harness.record.older import with_broken
from harness.system.reading import MB, check_file

if TYPE_CHECKING:
    import pandas as pd

_AGAIN = "run the model again"
_LARGEST_FILE, _LARGEST_TABLE = 1000 * MB, 4000 * MB
_MOST_ROWS = 10_000_000
_TEXTS = ("model", "input", "hop", "tap", "shape", "dtype", "how", "verdict", "rule", "why")
_ALWAYS_THERE = ("input", "hop", "tap", "verdict")
_WHOLE = ("block", "order")
_VERDICTS = frozenset({"pass", "fail", "missing"})
# Columns that records of older versions lack.
_ADDED = frozenset(
    {
        *("value_min", "value_max", "overflow_share", "subnormal_share", "absence", "broken", "noise_floor_limit"),
        *("kl_mean", "kl_p50", "kl_p95", "kl_p99", "answer_flips"),
    }
)


def read_table(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """The rows of a file. columns: those that a run has. Raises UsageError for a file that is not such a table."""
    check_file(path, _AGAIN, _LARGEST_FILE)
    try:
        frame = _read(path)
    except Exception as error:  # native code raises whatever garbage leads it to
        raise UsageError(f"{path} cannot be read ({one_line(error, 200) or type(error).__name__}); {_AGAIN}") from None
    wrong = next(_wrong(frame, columns), "")
    if wrong:
        raise UsageError(f"{path} is not a table of taps ({wrong}); {_AGAIN}")
    return with_broken(frame)


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd
    from pyarrow import parquet

    about: Any = parquet.read_metadata(path)
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    if about.num_rows > _MOST_ROWS or sum(group.total_byte_size for group in groups) > _LARGEST_TABLE:
        raise ValueError("it would take gigabytes of memory")
    return pd.read_parquet(path)


def _wrong(frame: pd.DataFrame, columns: Iterable[str]) -> Iterator[str]:
    if not frame.columns.is_unique:
        yield "a column is there twice"
    for name in columns:
        if name not in frame:
            if name not in _ADDED:
                yield f"it lacks the column {name}"
        elif name in _TEXTS or name in ("absence", "broken"):
            yield from _wrong_text(name, frame[name])
        else:
            yield from _wrong_number(name, frame[name])
    odd = set(frame["verdict"]) - _VERDICTS
    if odd:
        yield f"{brief(next(iter(odd)))} is not a verdict"
    hop = next((hop for hop in frame["hop"].unique() if hop.count("->") != 1), None)
    if hop is not None:
        yield f"{brief(hop)} is not a hop"


def _wrong_text(name: str, values: pd.Series[Any]) -> Iterator[str]:
    for value in values.unique():
        empty = value is None or (isinstance(value, float) and math.isnan(value))
        if not isinstance(value, str) and not (empty and name not in _ALWAYS_THERE):
            yield f"{brief(value)} in the column {name} is not text"
            return


def _wrong_number(name: str, values: pd.Series[Any]) -> Iterator[str]:
    import pandas as pd

    plain = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if not (plain or values.isna().all()) or pd.api.types.is_complex_dtype(values):
        yield f"the column {name} holds no numbers"
    elif name in _WHOLE and not ((values == values.round()) & (values.abs() < 2**31)).all():
        yield f"the column {name} holds no whole numbers"
