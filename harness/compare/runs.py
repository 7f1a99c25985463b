"""What got better or worse between two runs of one model. In: two records and their taps. Out: a `RunDiff`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from harness.errors import UsageError
from harness.judge.shares import FIGURES, Figure, nearest, shares
from harness.record.record import HopResult, Logits, Record, Worst
from harness.record.tap_row import floats_in, rows_in

if TYPE_CHECKING:
    import pandas as pd

# A share of the limit below this, or an excess where there is no limit, is within what float32 itself
# costs: a change there is not news, whatever its ratio.
NEWSWORTHY_SHARE = 0.25
NEWSWORTHY_EXCESS = 1.0
RATIO = 2.0
SHOWN = 20
_SEVERITY = {"pass": 0, "missing": 1, "fail": 2}
_PLACE = ["hop", "input", "tap"]
_LIMITS = tuple(f"{name}_limit" for name in FIGURES)


@dataclass(frozen=True)
class HopChange:
    """One hop before and after. A value is None where the run has no such hop or number."""

    hop: str
    verdict: tuple[str | None, str | None]
    worst: tuple[Worst | None, Worst | None]
    coverage: tuple[float | None, float | None]
    logits: tuple[Logits | None, Logits | None]


@dataclass(frozen=True)
class TapChange:
    """One tap of one hop before and after, at its worst over the inputs both runs have.

    A figure is what uses up most of its limit there, None where nothing was compared. Short inputs have
    wider limits, so `ratio` is of the shares of the limit, after over before: above 1 is worse. Both runs
    are measured by the limits of B (of A where B has none): a changed rule is not a changed number.
    """

    hop: str
    tap: str
    verdict: tuple[str, str]
    figures: tuple[Figure | None, Figure | None]
    ratio: float


@dataclass(frozen=True)
class RunDiff:
    """Run B against run A. Pairs are (A, B)."""

    model: str
    run_ids: tuple[str, str]
    variant: tuple[str, str]
    verdict: tuple[str, str]
    hops: tuple[HopChange, ...]
    newly_failing: tuple[TapChange, ...]
    newly_passing: tuple[TapChange, ...]
    newly_missing: tuple[TapChange, ...]
    changed: tuple[TapChange, ...]  # by more than `RATIO`, the largest change first, at most `SHOWN`
    changed_total: int
    likelihood: tuple[float | None, float | None]  # the reference's NLL over the inputs of text that both have
    stage_seconds: Mapping[str, tuple[float | None, float | None]]
    common_inputs: tuple[str, ...]
    uncompared_inputs: tuple[str, ...]  # only in one run, or with other tokens
    only_a: tuple[tuple[str, str], ...]  # (hop, tap)
    only_b: tuple[tuple[str, str], ...]


def compare_runs(record_a: Record, frame_a: pd.DataFrame, record_b: Record, frame_b: pd.DataFrame) -> RunDiff:
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
    rows_a, rows_b = _rows(frame_a, common), _rows(frame_b, common)
    limits = _limits(rows_a, rows_b)
    taps_a = _lost_taps(record_a) | _worst_rows(rows_a, limits)
    taps_b = _lost_taps(record_b) | _worst_rows(rows_b, limits)
    changes = [_tap_change(key, taps_a[key], taps_b[key]) for key in taps_a if key in taps_b]
    moved = [change for change in changes if _moved(change)]
    moved.sort(key=_size, reverse=True)
    by_verdict = {
        verdict: tuple(c for c in changes if c.verdict[1] == verdict and c.verdict[0] != verdict)
        for verdict in _SEVERITY
    }
    return RunDiff(
        model=record_a.model,
        run_ids=(record_a.run_id, record_b.run_id),
        variant=(record_a.variant, record_b.variant),
        verdict=(record_a.verdict, record_b.verdict),
        hops=_hops(record_a, record_b),
        newly_failing=by_verdict["fail"],
        newly_passing=by_verdict["pass"],
        newly_missing=by_verdict["missing"],
        changed=tuple(moved[:SHOWN]),
        changed_total=len(moved),
        likelihood=(_nll(record_a, record_b, common), _nll(record_b, record_a, common)),
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


def _nll(record: Record, other: Record, inputs: tuple[str, ...]) -> float | None:
    """Nats per token over those of `inputs` of which both records say it; where the other says nothing, over all."""
    mine, theirs = (
        {one.input: one for one in side.likelihood.inputs} if side.likelihood else {} for side in (record, other)
    )
    chosen = [mine[name] for name in inputs if name in mine and (name in theirs or not theirs)]
    if not chosen:
        return None
    total = sum(math.nan if one.nll is None else one.nll * one.tokens for one in chosen)
    return total / sum(one.tokens for one in chosen)


def _rows(frame: pd.DataFrame, inputs: tuple[str, ...]) -> pd.DataFrame:
    """The rows of `inputs`, hop by hop in execution order. Limits that an older version did not write are empty."""
    rows = frame[frame["input"].isin(inputs)].sort_values(["hop", "order"], kind="stable", ignore_index=True)
    return rows.assign(**{name: floats_in(rows, name) for name in _LIMITS if name not in rows})


def _lost_taps(record: Record) -> dict[tuple[str, str], tuple[str, Figure | None]]:
    """The taps of hops that have no rows, because a stage did not finish: the record alone names them."""
    lost = [hop for hop in record.hops if not hop.taps_compared]
    return {(hop.name, missing.tap): ("missing", None) for hop in lost for missing in hop.missing}


def _limits(*sides: pd.DataFrame) -> pd.DataFrame:
    """Limits by hop, input and tap, of the taps that have any: those of the last side that has some."""
    import pandas as pd

    known = pd.concat([rows.loc[rows[list(_LIMITS)].notna().any(axis=1), [*_PLACE, *_LIMITS]] for rows in sides])
    return known.drop_duplicates(_PLACE, keep="last").set_index(_PLACE)


def _worst_rows(rows: pd.DataFrame, limits: pd.DataFrame) -> dict[tuple[str, str], tuple[str, Figure | None]]:
    """(hop, tap) -> verdict and figure at their worst over the inputs, in execution order.

    limits: what the figures are measured by.
    """
    import pandas as pd

    places = pd.MultiIndex.from_frame(rows[_PLACE])
    rows = rows.assign(**limits.reindex(places).reset_index(drop=True))
    severity = rows["verdict"].map(_SEVERITY).groupby([rows["hop"], rows["tap"]], sort=False).max()
    # Without a figure a row is below all others; of equals the first one is shown.
    used = np.nan_to_num(shares(rows), nan=-np.inf, posinf=np.inf)
    ranked = rows.iloc[np.argsort(-used, kind="stable")].drop_duplicates(["hop", "tap"])
    figures = {(row.hop, row.tap): nearest(row) for row in rows_in(ranked)}
    words = {number: verdict for verdict, number in _SEVERITY.items()}
    verdicts = cast("dict[tuple[str, str], int]", severity.to_dict())
    return {key: (words[number], figures[key]) for key, number in verdicts.items()}


def _tap_change(key: tuple[str, str], a: tuple[str, Figure | None], b: tuple[str, Figure | None]) -> TapChange:
    return TapChange(hop=key[0], tap=key[1], verdict=(a[0], b[0]), figures=(a[1], b[1]), ratio=_ratio(a[1], b[1]))


def _ratio(before: Figure | None, after: Figure | None) -> float:
    """After over before, both raised to what counts as news: 0.01 -> 0.5 is not a fiftyfold regression."""
    if before is None or after is None or before.share == after.share:
        return 1.0
    return _news(after) / _news(before)


def _news(figure: Figure) -> float:
    return max(figure.share, NEWSWORTHY_EXCESS if figure.limit is None else NEWSWORTHY_SHARE)


def _size(change: TapChange) -> float:
    """How far an excess moved, up or down alike: tenfold better is as large as tenfold worse."""
    return change.ratio if change.ratio >= 1.0 else 1 / change.ratio if change.ratio else math.inf


def _moved(change: TapChange) -> bool:
    return _size(change) > RATIO


def _hops(a: Record, b: Record) -> tuple[HopChange, ...]:
    hops_a, hops_b = {hop.name: hop for hop in a.hops}, {hop.name: hop for hop in b.hops}
    return tuple(_hop_change(name, hops_a.get(name), hops_b.get(name)) for name in dict.fromkeys((*hops_a, *hops_b)))


def _hop_change(name: str, a: HopResult | None, b: HopResult | None) -> HopChange:
    return HopChange(
        hop=name,
        verdict=(a.verdict if a else None, b.verdict if b else None),
        worst=(a.worst if a else None, b.worst if b else None),
        coverage=(a.coverage if a else None, b.coverage if b else None),
        logits=(a.logits if a else None, b.logits if b else None),
    )


def _stage_seconds(a: Record, b: Record) -> dict[str, tuple[float | None, float | None]]:
    seconds_a, seconds_b = ({stage.name: stage.seconds for stage in record.stages} for record in (a, b))
    names = dict.fromkeys((*seconds_a, *seconds_b))
    return {name: (seconds_a.get(name), seconds_b.get(name)) for name in names}
