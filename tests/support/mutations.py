"""Ways to spoil what a person or a run folder may bring: JSON, bytes and tables, for Hypothesis to choose from."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    import pandas as pd

HOSTILE = "\x1b[2J\u202e::error::x\r\n##[error]</script>{{7*7}}[bold]\x00'\""
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.0, -0.5, 1e308, -1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"), "", " ", "x", "a->b", "hf->reauthored", "->", "../../x",
    "block.0.attn.q", "block.-1.out", "block.99999999999999999999.out", "pass", "missing", HOSTILE,
    "\ud800", "y" * 5000, [], {}, [[]],
    [None], ["x"], {"x": None}, {"": 0}, [1, 2, 3], [0, 10**12],
)  # fmt: skip


def places(value: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in inside for place in [(*so_far, key), *places(item, (*so_far, key))]]


@st.composite
def spoilt_json(draw: st.DrawFn, content: Any) -> Any:
    """The content with one to three of its values replaced, removed, renamed or doubled."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        ways = places(content)
        if not ways:
            break
        # Drawn by depth first: a long list would otherwise be all that is ever spoilt.
        depth = draw(st.sampled_from(sorted({len(way) for way in ways})))
        *path, last = draw(st.sampled_from([way for way in ways if len(way) == depth]))
        holder = content
        for key in path:
            holder = holder[key]
        how = draw(st.sampled_from(["replace", "replace", "remove", "rename", "double"]))
        if how == "replace":
            holder[last] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
        elif how == "remove":
            del holder[last]
        elif how == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["", "x", HOSTILE.replace("\x00", ""), f"{last}2"]))] = holder.pop(last)
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
    return content


@st.composite
def spoilt_bytes(draw: st.DrawFn, content: bytes, head: int = 4096) -> bytes:
    """The content cut, with bytes replaced, or with bytes put in. Half of the changes are in the first `head` bytes."""
    spoilt = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        end = max(1, len(spoilt))
        at = draw(st.integers(0, min(head, end) - 1) | st.integers(0, end - 1))
        how = draw(st.sampled_from(["replace", "replace", "replace", "cut", "insert", "zero", "fill"]))
        if how == "replace" and spoilt:
            spoilt[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del spoilt[at:]
        elif how == "insert":
            spoilt[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            size = draw(st.sampled_from([4, 8, 64]))
            spoilt[at : at + size] = (b"\0" if how == "zero" else b"\xff") * len(spoilt[at : at + size])
    return bytes(spoilt)


@st.composite
def spoilt_table(draw: st.DrawFn, frame: pd.DataFrame) -> pd.DataFrame:
    """The table with a column gone, of another kind or with an odd value, or with rows gone, doubled or mixed."""
    import pandas as pd

    frame = frame.copy()
    for _ in range(draw(st.integers(1, 2))):
        column = draw(st.sampled_from(list(frame.columns)))
        how = draw(st.sampled_from(["drop", "value", "values", "text", "rows", "double", "mix", "nothing"]))
        if how == "drop":
            frame = frame.drop(columns=column)
        elif how in ("value", "values"):
            odd = draw(st.sampled_from([odd for odd in ODD_VALUES if _fits(odd)]))
            values = list(frame[column])
            at = draw(st.integers(0, max(0, len(values) - 1)))
            values = [odd if how == "values" or number == at else value for number, value in enumerate(values)]
            frame[column] = pd.Series(values, index=frame.index, dtype=object if _mixed(values) else None)
        elif how == "text":
            frame[column] = frame[column].astype(str)
        elif how == "rows":
            frame = frame.iloc[: draw(st.sampled_from([0, 1, 7]))]
        elif how == "double":
            frame = pd.concat([frame, frame.iloc[:3]], ignore_index=True)
        elif how == "mix":
            frame = frame.sample(frac=1.0, random_state=draw(st.integers(0, 9)))
        else:
            frame[column] = None
    return frame


def _fits(value: object) -> bool:
    """Whether a table can hold it: its format has kinds of its own for the rest."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return not (whole and abs(value) >= 2**63) and value != "\ud800" and not isinstance(value, (list, dict))


def _mixed(values: list[object]) -> bool:
    return len({type(value) for value in values}) > 1
