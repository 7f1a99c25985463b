"""What got better or worse between two runs of one model. In: two records and their taps. Out: a `Comparison`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.record import Hop, Logits, Record

if TYPE_CHECKING:
    import pandas as pd

# An excess below this is within what float32 itself costs: a change there is not news, whatever its ratio.
NEWSWORTHY_EXCESS = 1.0
RATIO = 2.0
SHOWN = 20
_SEVERITY = {"pass": 0, "missing": 1, "fail": 2}


@dataclass(frozen=True)
class HopChange:
    """One hop before and after. A value is None where the run has no such hop or number."""

    hop: str
    verdict: tuple[str | None, str | None]
    worst_excess: tuple[float | None, float | None]
    coverage: tuple[float | None, float | None]
    logits: tuple[Logits | None, Logits | None]


@dataclass(frozen=True)
class TapChange:
    """One tap of one hop before and after, at its worst over the inputs both runs have.

    `ratio` is after over before: above 1 is worse. An excess is inf where the tap holds NaN or Inf,
    and None where it was not compared.
    """

    hop: str
    tap: str
    verdict: tuple[str, str]
    excess: tuple[float | None, float | None]
    ratio: float


@dataclass(frozen=True)
class Comparison:
    """Run B against run A. Pairs are (A, B)."""

    model: str
    run_ids: tuple[str, str]
    verdict: tuple[str, str]
    hops: tuple[HopChange, ...]
    newly_failing: tuple[TapChange, ...]
    newly_passing: tuple[TapChange, ...]
    newly_missing: tuple[TapChange, ...]
    changed: tuple[TapChange, ...]  # by more than `RATIO`, the largest change first, at most `SHOWN`
    changed_total: int
    stage_seconds: Mapping[str, tuple[float | None, float | None]]
    common_inputs: tuple[str, ...]
    uncompared_inputs: tuple[str, ...]  # only in one run, or with other tokens
    only_a: tuple[tuple[str, str], ...]  # (hop, tap)
    only_b: tuple[tuple[str, str], ...]


def compare_runs(record_a: Record, frame_a: pd.DataFrame, record_b: Record, frame_b: pd.DataFrame) -> Comparison:
    """Compare run B with run A, tap by tap.

    Only inputs with the same name and the same tokens are compared, so that a longer prompt does
    not look like a regression. Raises UsageError when the runs are of different models.
    """
    if record_a.model != record_b.model:
        raise UsageError(
            f"run {record_a.run_id} is of {record_a.model} and run {record_b.run_id} of {record_b.model}: "
            "give two runs of one model"
        )
    common, uncompared = _inputs(record_a, record_b)
    taps_a, taps_b = _worst_rows(frame_a, common), _worst_rows(frame_b, common)
    changes = [_tap_change(key, taps_a[key], taps_b[key]) for key in taps_a if key in taps_b]
    moved = [change for change in changes if _moved(change)]
    moved.sort(key=_size, reverse=True)
    by_verdict = {
        verdict: tuple(c for c in changes if c.verdict[1] == verdict and c.verdict[0] != verdict)
        for verdict in _SEVERITY
    }
    return Comparison(
        model=record_a.model,
        run_ids=(record_a.run_id, record_b.run_id),
        verdict=(record_a.verdict, record_b.verdict),
        hops=_hops(record_a, record_b),
        newly_failing=by_verdict["fail"],
        newly_passing=by_verdict["pass"],
        newly_missing=by_verdict["missing"],
        changed=tuple(moved[:SHOWN]),
        changed_total=len(moved),
        stage_seconds=_stage_seconds(record_a, record_b),
        common_inputs=common,
        uncompared_inputs=uncompared,
        only_a=tuple(key for key in taps_a if key not in taps_b),
        only_b=tuple(key for key in taps_b if key not in taps_a),
    )


def _inputs(a: Record, b: Record) -> tuple[tuple[str, ...], tuple[str, ...]]:
    given_a = {i.id: (i.tokens, tuple(i.token_ids)) for i in a.inputs}
    given_b = {i.id: (i.tokens, tuple(i.token_ids)) for i in b.inputs}
    common = tuple(name for name, tokens in given_a.items() if given_b.get(name) == tokens)
    every = dict.fromkeys((*given_a, *given_b))
    return common, tuple(name for name in every if name not in common)


def _worst_rows(frame: pd.DataFrame, inputs: tuple[str, ...]) -> dict[tuple[str, str], dict[str, Any]]:
    """(hop, tap) -> verdict and excess at their worst over `inputs`, in execution order."""
    columns = ["hop", "tap", "order", "verdict", "excess", "nan_count", "inf_count"]
    rows = frame[frame["input"].isin(inputs)].sort_values(["hop", "order"], kind="stable")[columns]
    worst: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        key = (str(row["hop"]), str(row["tap"]))
        verdict, excess = str(row["verdict"]), _excess(row)
        seen = worst.setdefault(key, {"verdict": verdict, "excess": excess})
        if _SEVERITY[verdict] > _SEVERITY[seen["verdict"]]:
            seen["verdict"] = verdict
        if excess is not None and (seen["excess"] is None or excess > seen["excess"]):
            seen["excess"] = excess
    return worst


def _excess(row: Mapping[Any, Any]) -> float | None:
    """The excess, inf where NaN or Inf stands in the tap, None where it was not compared."""
    if row["verdict"] == "missing":
        return None
    value = row["excess"]
    return math.inf if value is None or math.isnan(value) else float(value)


def _tap_change(key: tuple[str, str], a: Mapping[str, Any], b: Mapping[str, Any]) -> TapChange:
    return TapChange(
        hop=key[0],
        tap=key[1],
        verdict=(a["verdict"], b["verdict"]),
        excess=(a["excess"], b["excess"]),
        ratio=_ratio(a["excess"], b["excess"]),
    )


def _ratio(before: float | None, after: float | None) -> float:
    """After over before, both raised to what counts as news: 0.01 -> 0.5 is no fiftyfold regression."""
    if before is None or after is None or before == after:
        return 1.0
    return max(after, NEWSWORTHY_EXCESS) / max(before, NEWSWORTHY_EXCESS)


def _size(change: TapChange) -> float:
    """How far an excess moved, up or down alike: tenfold better is as large as tenfold worse."""
    return change.ratio if change.ratio >= 1.0 else 1 / change.ratio if change.ratio else math.inf


def _moved(change: TapChange) -> bool:
    return _size(change) > RATIO


def _hops(a: Record, b: Record) -> tuple[HopChange, ...]:
    hops_a, hops_b = {hop.name: hop for hop in a.hops}, {hop.name: hop for hop in b.hops}
    return tuple(_hop_change(name, hops_a.get(name), hops_b.get(name)) for name in dict.fromkeys((*hops_a, *hops_b)))


def _hop_change(name: str, a: Hop | None, b: Hop | None) -> HopChange:
    return HopChange(
        hop=name,
        verdict=(a.verdict if a else None, b.verdict if b else None),
        worst_excess=(_worst_excess(a), _worst_excess(b)),
        coverage=(a.coverage if a else None, b.coverage if b else None),
        logits=(a.logits if a else None, b.logits if b else None),
    )


def _worst_excess(hop: Hop | None) -> float | None:
    if hop is None or hop.worst is None:
        return None
    excess = hop.worst.excess
    return math.inf if excess is None or math.isnan(excess) else excess


def _stage_seconds(a: Record, b: Record) -> dict[str, tuple[float | None, float | None]]:
    seconds_a, seconds_b = ({stage.name: stage.seconds for stage in record.stages} for record in (a, b))
    names = dict.fromkeys((*seconds_a, *seconds_b))
    return {name: (seconds_a.get(name), seconds_b.get(name)) for name in names}
