"""What the scripts of a report read. In: record and taps. Out: columns of small values, texts by index.

Numbers are cut to the digits that the page shows; nothing is computed from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from harness.judge.shares import FIGURES, limit_of, share
from harness.names.figures import LOCAL_FIGURES
from harness.names.stages import FLATBUFFER, HF, REAUTHORED
from harness.plain import clean
from harness.record.details import Details
from harness.record.record import Record
from harness.render.numbers import is_nothing, tap_value

if TYPE_CHECKING:
    import pandas as pd

VERDICTS = ("pass", "fail", "missing")
VERSIONS = (HF, REAUTHORED, FLATBUFFER)
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
_TEXTS = ("input", "hop", "tap", "rule", "why", "shape", "dtype", "how")
_COUNTS = ("worst_position", "nan_count", "inf_count")


def tap_data(record: Record, frame: pd.DataFrame) -> dict[str, Any]:
    """The taps frame in columns: texts by index, a number, null, or the word `NaN`, `inf` or `-inf`."""
    taps = frame[["tap", "order", "block"]].drop_duplicates("tap").sort_values("order", kind="stable")
    order = {str(tap): i for i, tap in enumerate(taps["tap"])}
    texts: dict[str, dict[str, int]] = {column: {} for column in _TEXTS}
    texts["input"] = {item.id: i for i, item in enumerate(record.inputs)}
    texts["hop"] = {hop.name: i for i, hop in enumerate(record.hops)}
    texts["tap"] = order
    names = [*_TEXTS, "verdict", *_COUNTS, *NUMBERS, *(f"{name}_limit" for name in FIGURES), USED, *RANGE, MAGNITUDE]
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for row in frame.sort_values(["hop", "input", "order"], kind="stable").to_dict("records"):
        for name, value in _cells(row, texts).items():
            columns[name].append(value)
    return {
        "columns": columns,
        "rows": len(frame),
        "texts": {column: [clean(text) for text in index] for column, index in texts.items()},
        "verdicts": VERDICTS,
        "blocks": [int(block) for block in taps["block"]],
        "versions": VERSIONS,
        "modules": [[clean(record.taps.get(tap, {}).get(name) or "") for name in VERSIONS] for tap in order],
        "fault": _fault_index(record, texts),
    }


def _cells(row: dict[Any, Any], texts: dict[str, dict[str, int]]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for column in _TEXTS:
        cells[column] = _index(texts[column], "" if is_nothing(row[column]) else str(row[column]))
    cells["verdict"] = VERDICTS.index(row["verdict"])
    for column in _COUNTS:
        cells[column] = 0 if is_nothing(row[column]) else int(row[column])
    for column in NUMBERS:
        cells[column] = compact(tap_value(row, column), column) if column in row and _known(row, column) else None
    for column in FIGURES:
        cells[f"{column}_limit"] = compact(limit_of(row, column), column)
    return cells | {USED: compact(share(row), USED)} | _range_cells(row)


def _range_cells(row: dict[Any, Any]) -> dict[str, Any]:
    ends = [None if is_nothing(row.get(name)) else float(row[name]) for name in RANGE]
    known = [abs(end) for end in ends[:2] if end is not None]
    return dict(zip(RANGE, map(compact, ends), strict=True)) | {MAGNITUDE: compact(max(known, default=None))}


def _known(row: dict[Any, Any], column: str) -> bool:
    """Local figures are of chosen inputs only: elsewhere there is none, though the tap may hold NaN."""
    return column not in LOCAL_FIGURES or not is_nothing(row[column])


def _fault_index(record: Record, texts: dict[str, dict[str, int]]) -> dict[str, int | None] | None:
    fault = record.first_fault
    if fault is None:
        return None
    return {
        "hop": texts["hop"].get(fault.hop),
        "tap": texts["tap"].get(fault.tap),
        "input": texts["input"].get(fault.input),
    }


def _index(known: dict[str, int], text: str) -> int:
    return known.setdefault(text, len(known))


def compact(value: float | str | None, column: str = "") -> float | str | None:
    """A number in three digits (nine of a cosine, which is near 1), as JSON takes it."""
    if value is None or isinstance(value, str):
        return value
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    short = float(f"{value:.9g}" if column == "cosine" else f"{value:.3g}")
    return int(short) if short == int(short) and abs(short) < 1e6 else short


def details_data(record: Record, details: Details, texts: dict[str, list[str]]) -> dict[str, Any]:
    """The details of a run: hops, inputs and taps by their index in `texts`.

    excesses: {hop, tap, input, limit, positions, excess} each. logits: {hop, input, positions, kl, margin, noise, from,
    to, flip} each. tokens: by input and position, for each stage the ids, logits and probabilities, best first.
    """
    number = {column: {text: i for i, text in enumerate(texts[column])} for column in ("hop", "tap", "input")}
    return {
        "excesses": list(_excesses(details.positions, number)),
        "logits": list(_logits(details.logits, number)),
        "stages": [clean(stage) for stage in dict.fromkeys(details.tokens["stage"])],
        "tokens": _tokens(details.tokens, number["input"]),
        "words": {str(row.token): clean(row.text) for row in details.words.itertuples()},
        "histograms": list(_histograms(details.histograms, number)),
        "inputs": [item.token_ids for item in record.inputs],
    }


def _groups(
    frame: pd.DataFrame, by: list[str], number: dict[str, dict[str, int]]
) -> Iterator[tuple[dict[str, int], pd.DataFrame]]:
    """Rows that belong together, with the indexes of what they are of; rows of what the record does not know go."""
    for key, rows in frame.groupby(by, sort=False):
        names = {name: number[name].get(clean(value)) for name, value in zip(by, key, strict=True)}
        if None not in names.values():
            yield cast("dict[str, int]", names), rows


def _excesses(frame: pd.DataFrame, number: dict[str, dict[str, int]]) -> Iterator[dict[str, Any]]:
    for names, rows in _groups(frame, ["hop", "tap", "input"], number):
        limit = float(rows["limit"].iloc[0])
        yield {
            **names,
            "limit": None if math.isnan(limit) else compact(limit),
            "positions": rows["position"].tolist(),
            "excess": _numbers(rows["excess"]),
        }


def _logits(frame: pd.DataFrame, number: dict[str, dict[str, int]]) -> Iterator[dict[str, Any]]:
    for names, rows in _groups(frame, ["hop", "input"], number):
        yield {
            **names,
            "positions": rows["position"].tolist(),
            **{column: _numbers(rows[column]) for column in ("kl", "margin", "noise")},
            "from": rows["top1_from"].tolist(),
            "to": rows["top1_to"].tolist(),
            "flip": rows["flip"].tolist(),
        }


def _tokens(frame: pd.DataFrame, inputs: dict[str, int]) -> dict[str, dict[str, list[Any]]]:
    order = {stage: i for i, stage in enumerate(dict.fromkeys(frame["stage"]))}
    given = {item: inputs.get(clean(item)) for item in frame["input"].unique()}
    found: dict[str, dict[str, list[Any]]] = {}
    ranked = frame.sort_values("rank", kind="stable")
    names = ("input", "position", "stage", "token", "logit", "probability")
    # Plain lists: a table gives out its rows one by one three times as slowly.
    for item, position, stage, *token in zip(*(ranked[name].tolist() for name in names), strict=True):
        if given[item] is None:
            continue
        stages = found.setdefault(str(given[item]), {}).setdefault(str(position), [[[], [], []] for _ in order])
        for side, value in zip(stages[order[stage]], _token(*token), strict=True):
            side.append(value)
    return found


def _token(token: int, logit: float, probability: float) -> tuple[int, Any, Any]:
    return int(token), float(f"{logit:.5g}"), compact(float(probability))


def _histograms(frame: pd.DataFrame, number: dict[str, dict[str, int]]) -> Iterator[dict[str, Any]]:
    for names, rows in _groups(frame, ["hop", "tap", "input"], number):
        rows = rows.sort_values("at_least")
        yield {**names, "at_least": _numbers(rows["at_least"]), "count": rows["count"].tolist()}


def _numbers(values: pd.Series[Any]) -> list[float | str | None]:
    return [compact(float(value)) for value in values]
