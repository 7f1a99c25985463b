"""What the scripts of a report read. In: record and taps. Out: columns of small values, texts by index.

Numbers are cut to the digits that the page shows; nothing is computed from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

from harness.names.stages import FLATBUFFER, FLOAT, HF, own_stages, recipe_of_hop
from harness.plain import clean
from harness.record.details import Details
from harness.record.record import Record
from harness.render.tap_columns import TEXTS, VERDICTS, Cell, compact, tap_columns

if TYPE_CHECKING:
    import pandas as pd

VERSIONS = (HF, *own_stages(), FLATBUFFER)


class FaultIndex(TypedDict):
    """Where the first fault is, by index in the texts; null for what the taps do not name."""

    hop: int | None
    tap: int | None
    input: int | None


class StepsOf(TypedDict):
    """The decode steps of one input on one hop, as `harness/record/steps.py` has them; hop and input by index."""

    hop: int
    input: int
    positions: list[int]
    logits: list[Cell]
    limit: Cell
    worst: list[Cell]
    limits: list[Cell]
    taps: list[str]
    kl: list[Cell]


class TapData(TypedDict):
    """The taps table as the scripts read it."""

    columns: dict[str, list[Cell]]
    rows: int  # how many
    texts: dict[str, list[str]]  # column -> its texts, by index
    files: list[str]  # the float32 one, and those of recipes
    hop_files: list[int]  # of each hop in `texts`
    verdicts: tuple[str, ...]
    blocks: list[int]  # of each tap in `texts`
    versions: tuple[str, ...]
    modules: list[list[str]]  # of each tap, one name per version
    fault: FaultIndex | None
    steps: list[StepsOf]
    details: NotRequired[DetailsData]


def tap_data(record: Record, frame: pd.DataFrame) -> TapData:
    """The taps frame in columns: texts by index, a number, null, or the word `NaN`, `inf` or `-inf`."""
    taps = frame[["tap", "order", "block"]].drop_duplicates("tap").sort_values("order", kind="stable")
    order = {str(tap): i for i, tap in enumerate(taps["tap"])}
    texts: dict[str, dict[str, int]] = {column: {} for column in TEXTS}
    texts["input"] = {item.id: i for i, item in enumerate(record.inputs)}
    texts["hop"] = {hop.name: i for i, hop in enumerate(record.hops)}
    texts["tap"] = order
    columns = tap_columns(frame.sort_values(["hop", "input", "order"], kind="stable"), texts)
    recipes = [recipe_of_hop(hop) for hop in texts["hop"]]
    files = list(dict.fromkeys(recipes))
    return TapData(
        files=["float32" if recipe == FLOAT else clean(recipe) for recipe in files],
        hop_files=[files.index(recipe) for recipe in recipes],
        columns=columns,
        rows=len(frame),
        texts={column: [clean(text) for text in index] for column, index in texts.items()},
        verdicts=VERDICTS,
        blocks=[int(block) for block in taps["block"]],
        versions=VERSIONS,
        modules=[[clean(record.taps.get(tap, {}).get(name) or "") for name in VERSIONS] for tap in order],
        fault=_fault_index(record, texts),
        steps=list(_steps(record, texts)),
    )


def _fault_index(record: Record, texts: dict[str, dict[str, int]]) -> FaultIndex | None:
    fault = record.first_fault
    if fault is None:
        return None
    return FaultIndex(
        hop=texts["hop"].get(fault.hop),
        tap=texts["tap"].get(fault.tap),
        input=texts["input"].get(fault.input),
    )


def _steps(record: Record, texts: dict[str, dict[str, int]]) -> Iterator[StepsOf]:
    """The decode steps of what the taps table knows."""
    for one in record.steps:
        if one.hop in texts["hop"] and one.input in texts["input"]:
            yield StepsOf(
                hop=texts["hop"][one.hop],
                input=texts["input"][one.input],
                positions=one.positions,
                logits=[_or_infinite(value) for value in one.logits],
                limit=compact(one.limit),
                worst=[_or_infinite(value) for value in one.worst],
                limits=[compact(value) for value in one.limits],
                taps=[clean(tap) for tap in one.taps],
                kl=[compact(value) for value in one.kl],
            )


def _or_infinite(value: float | None) -> Cell:
    """JSON holds no infinity: an excess that is none there is one."""
    return compact(math.inf if value is None else value)


class Excesses(TypedDict):
    """Positions of one tap on one input; hop, tap and input by index."""

    hop: int
    tap: int
    input: int
    limit: Cell
    positions: list[int]
    excess: list[Cell]  # of each position


# Positions of the logits of one input, likewise. kl: in nats. from, to: the most likely tokens. flip: in words, if any.
LogitsOf = TypedDict(
    "LogitsOf",
    {
        "hop": int,
        "input": int,
        "positions": list[int],
        "kl": list[Cell],
        "margin": list[Cell],
        "noise": list[Cell],
        "from": list[int],
        "to": list[int],
        "flip": list[str],
    },
)


class Histogram(TypedDict):
    """How many elements of a tap have an error of at least that size, and less than the next."""

    hop: int
    tap: int
    input: int
    at_least: list[Cell]
    count: list[int]


Ranked = tuple[list[int], list[float], list[Cell]]  # ids, logits and probabilities of tokens, best first


class DetailsData(TypedDict):
    """The details of a run as the scripts read them."""

    excesses: list[Excesses]
    logits: list[LogitsOf]
    stages: list[str]
    tokens: dict[str, dict[str, list[Ranked]]]  # input -> position -> of each of the stages
    words: dict[str, str]  # token -> its text
    histograms: list[Histogram]
    inputs: list[list[int]]  # the tokens of each


def details_data(record: Record, details: Details, texts: dict[str, list[str]]) -> DetailsData:
    """The details of a run: hops, inputs and taps by their index in `texts`."""
    number = {column: {text: i for i, text in enumerate(texts[column])} for column in ("hop", "tap", "input")}
    return DetailsData(
        excesses=list(_excesses(details.positions, number)),
        logits=list(_logits(details.logits, number)),
        stages=[clean(stage) for stage in dict.fromkeys(details.tokens["stage"])],
        tokens=_tokens(details.tokens, number["input"]),
        words={str(row.token): clean(row.text) for row in details.words.itertuples()},
        histograms=list(_histograms(details.histograms, number)),
        inputs=[item.token_ids for item in record.inputs],
    )


def _groups(
    frame: pd.DataFrame, by: list[str], number: dict[str, dict[str, int]]
) -> Iterator[tuple[dict[str, int], pd.DataFrame]]:
    """Rows that belong together, with the indexes of what they are of; rows of what the record does not know go."""
    for key, rows in frame.groupby(by, sort=False):
        names = {name: number[name].get(clean(value)) for name, value in zip(by, key, strict=True)}
        if None not in names.values():
            yield cast("dict[str, int]", names), rows


def _excesses(frame: pd.DataFrame, number: dict[str, dict[str, int]]) -> Iterator[Excesses]:
    for names, rows in _groups(frame, ["hop", "tap", "input"], number):
        limit = float(rows["limit"].iloc[0])
        yield Excesses(
            hop=names["hop"],
            tap=names["tap"],
            input=names["input"],
            limit=None if math.isnan(limit) else compact(limit),
            positions=rows["position"].tolist(),
            excess=_numbers(rows["excess"]),
        )


def _logits(frame: pd.DataFrame, number: dict[str, dict[str, int]]) -> Iterator[LogitsOf]:
    for names, rows in _groups(frame, ["hop", "input"], number):
        yield {
            "hop": names["hop"],
            "input": names["input"],
            "positions": rows["position"].tolist(),
            "kl": _numbers(rows["kl"]),
            "margin": _numbers(rows["margin"]),
            "noise": _numbers(rows["noise"]),
            "from": rows["top1_from"].tolist(),
            "to": rows["top1_to"].tolist(),
            "flip": rows["flip"].tolist(),
        }


def _tokens(frame: pd.DataFrame, inputs: dict[str, int]) -> dict[str, dict[str, list[Ranked]]]:
    order = {stage: i for i, stage in enumerate(dict.fromkeys(frame["stage"]))}
    given = {item: inputs.get(clean(item)) for item in frame["input"].unique()}
    found: dict[str, dict[str, list[Ranked]]] = {}
    ranked = frame.sort_values("rank", kind="stable")
    names = ("input", "position", "stage", "token", "logit", "probability")
    # Plain lists: a table gives out its rows one by one three times as slowly.
    for item, position, stage, *token in zip(*(ranked[name].tolist() for name in names), strict=True):
        if given[item] is None:
            continue
        stages = found.setdefault(str(given[item]), {}).setdefault(str(position), [([], [], []) for _ in order])
        _rank(stages[order[stage]], *token)
    return found


def _rank(ranked: Ranked, token: int, logit: float, probability: float) -> None:
    ids, logits, probabilities = ranked
    ids.append(int(token))
    logits.append(float(f"{logit:.5g}"))
    probabilities.append(compact(float(probability)))


def _histograms(frame: pd.DataFrame, number: dict[str, dict[str, int]]) -> Iterator[Histogram]:
    for names, rows in _groups(frame, ["hop", "tap", "input"], number):
        rows = rows.sort_values("at_least")
        yield Histogram(
            hop=names["hop"],
            tap=names["tap"],
            input=names["input"],
            at_least=_numbers(rows["at_least"]),
            count=rows["count"].tolist(),
        )


def _numbers(values: pd.Series[float]) -> list[Cell]:
    return [compact(value) for value in values.tolist()]
