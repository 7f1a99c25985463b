"""Where the first fault is, and what each hop and each input came to.

In: judged rows. Out: hops, cases and the first failing tap. Pure.

A fault is a tap whose local error exceeds its limit: computed from the reference's own values, it is not the
reference's. Where no local pass ran, it is the first failing tap in execution order: taps before it agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd

from harness.judge.rules import floor_alone
from harness.names.codes import ReasonCode
from harness.names.coverage import LISTED
from harness.names.stages import Hop, known_stage, runs_file
from harness.names.taps import block_tap, reaching, split_tap
from harness.record.record import Case, Fault, HopResult, Logits, LowestSnr, MissingTap, Worst
from harness.record.tap_row import TapRow, rows_in
from harness.record.text import TextFigures


class LostStage(NamedTuple):
    """The stage for want of which a hop could not be compared at all, and what became of it, in words."""

    stage: str
    why: str


def summarise_hop(
    hop: Hop,
    frame: pd.DataFrame,
    taps: list[str],
    logits: Logits | None,
    required_coverage: float,
    blocked: LostStage | None = None,
    text: TextFigures | None = None,
    over_budget: str = "",
) -> HopResult:
    """A hop's line in the record. over_budget: how it breaks a limit on what is of no single input, in words."""
    by_snr = hop.by_snr
    rows = frame[frame["hop"] == hop.name]
    missing = _missing(rows, blocked, taps)
    failing = rows[rows["verdict"] == "fail"]
    compared = len(taps) - len(missing)
    reasons = _reasons(rows, compared / len(taps), required_coverage, blocked)
    if ReasonCode.COVERAGE_LOW in reasons and known_stage(hop.candidate) is None:
        reasons[ReasonCode.COVERAGE_LOW] = (
            f"{compared} of {len(taps)} taps are compared, and {round(required_coverage * len(taps))} have to be: "
            "those that the imported traces name, or give on some input"
        )
    reasons |= {ReasonCode.OVER_BUDGET: over_budget} if over_budget and not blocked else {}
    return HopResult(
        from_=hop.reference,
        to=hop.candidate,
        verdict="fail" if reasons else "pass",
        taps_compared=compared,
        taps_missing=len(missing),
        coverage=compared / len(taps),
        coverage_required=required_coverage,
        worst=None if by_snr else _worst(rows, "excess"),
        worst_position=None if by_snr else _worst(rows, "position_excess"),
        lowest_snr=_lowest_snr(rows) if by_snr else None,
        logits=logits,
        text=text,
        first_failing_tap=first_row(failing).tap if len(failing) else None,
        missing=missing,
        reasons=list(reasons.values()),
        reason_codes=list(reasons),
        blocked_by=blocked.stage if blocked else "",
    )


def _reasons(rows: pd.DataFrame, coverage: float, required: float, blocked: LostStage | None) -> dict[ReasonCode, str]:
    """Why a hop fails: code -> in words."""
    reasons = {ReasonCode.STAGE_LOST: blocked.why} if blocked else {}
    failing = rows[rows["verdict"] == "fail"]
    if len(failing):
        first = first_row(failing)
        failed = _taps_fail(failing["tap"].nunique())
        reasons[ReasonCode.TAPS_FAIL] = f"{failed}, first {first.tap} (input {first.input}): {first.why}"
    if not blocked and (said := _unexplained(rows)):
        reasons[ReasonCode.TAPS_MISSING] = said
    if not blocked and coverage < required:
        declared = f"the {required:g} that the model declares"
        reasons[ReasonCode.COVERAGE_LOW] = f"coverage {coverage:.3f} is below {declared}"
    return reasons


def _taps_fail(number: int) -> str:
    return "1 tap fails" if number == 1 else f"{number} taps fail"


def _missing(rows: pd.DataFrame, blocked: LostStage | None, taps: list[str]) -> list[MissingTap]:
    """Taps that were not compared on every input."""
    if blocked:
        return [MissingTap(tap=tap, why=blocked.why) for tap in taps]
    absent = _absent(rows).sort_values(["order", "listed"]).drop_duplicates("tap")
    return [
        MissingTap(tap=row.tap, why=row.why, reason=(row.absence or "") if is_listed else "")
        for row, is_listed in zip(rows_in(absent), absent["listed"], strict=True)
    ]


def _absent(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of missing taps; `listed` says whether a listed reason holds.

    A reason that must leave the tap to be compared on another input does not hold where it was compared on none.
    """
    absent = rows[rows["verdict"] == "missing"]
    compared = set(rows[rows["verdict"] != "missing"]["tap"])
    reasons = [LISTED.get(reason) for reason in absent["absence"].fillna("")]
    held = [r is not None and (r.everywhere or tap in compared) for r, tap in zip(reasons, absent["tap"], strict=True)]
    return absent.assign(absence=absent["absence"].fillna(""), listed=held)


def _unexplained(rows: pd.DataFrame) -> str:
    """What is missing for no listed reason, in words; empty where nothing is."""
    absent = _absent(rows)
    absent = absent[~absent["listed"].astype(bool)].sort_values("order")
    if absent.empty:
        return ""
    (first,), count = rows_in(absent.head(1)), absent["tap"].nunique()
    what = "1 tap is" if count == 1 else f"{count} taps are"
    return f"{what} missing for no listed reason, first {first.tap}: {first.why}"


def first_row(failing: pd.DataFrame) -> TapRow:
    """The failing row that is first in execution order; on several inputs, the one that shows it most."""
    earliest = failing[failing["order"] == failing["order"].min()]
    severity = earliest["position_excess"].fillna(math.inf)
    return _row_at(earliest, severity.idxmax())


def _row_at(rows: pd.DataFrame, label: object) -> TapRow:
    (row,) = rows_in(rows.loc[cast("Any", [label])])
    return row


def _worst(rows: pd.DataFrame, column: str) -> Worst | None:
    """The row nearest to its limit: short inputs have wider limits, so the largest figure alone would mislead."""
    compared = rows[rows["verdict"] != "missing"]
    if compared.empty:
        return None
    limit = f"{column}_limit"
    # NaN is worse than any number: it must not be lost in a maximum. A rule without this limit counts as limit 1.
    used = (compared[column] / compared[limit].fillna(1.0)).where(compared[column].notna(), math.inf)
    row = _row_at(compared, used.idxmax())
    figure, its_limit = getattr(row, column), getattr(row, limit)
    return Worst(tap=row.tap, input=row.input, excess=figure, max_abs_err=row.max_abs_err, limit=its_limit)


def _lowest_snr(rows: pd.DataFrame) -> LowestSnr | None:
    compared = rows[rows["verdict"] != "missing"]
    if compared.empty:
        return None
    row = _row_at(compared, compared["snr_db"].fillna(-math.inf).idxmin())
    return LowestSnr(tap=row.tap, input=row.input, snr_db=row.snr_db)


def cases(hops: list[HopResult], frame: pd.DataFrame, inputs: list[str]) -> list[Case]:
    """One case per input and hop. An input fails when one of its taps does, or when the hop lacks coverage."""
    found = []
    for hop in hops:
        for item in inputs:
            rows = frame[(frame["hop"] == hop.name) & (frame["input"] == item)]
            found.append(_case(hop, item, rows))
    return found


def _case(hop: HopResult, item: str, rows: pd.DataFrame) -> Case:
    compared = rows[rows["verdict"] != "missing"]
    if compared.empty:
        why = hop.reasons[0] if hop.reasons else "nothing was compared"
        return Case(input=item, hop=hop.name, verdict="missing", message=f"{hop.name} on {item}: {why}")
    worst, worst_position = None, None
    if not Hop.parse(hop.name).by_snr:
        worst = float(compared["excess"].fillna(math.inf).max())
        worst_position = float(compared["position_excess"].fillna(math.inf).max())
    failing = rows[rows["verdict"] == "fail"]
    if len(failing):
        row = first_row(failing)
        message = f"{hop.name} on {item}: first failing tap {row.tap}, {row.why} (rule {row.rule or 'none'})"
        return Case(
            input=item,
            hop=hop.name,
            verdict="fail",
            first_failing_tap=row.tap,
            excess=row.excess,
            position_excess=row.position_excess,
            message=message,
        )
    of_the_hop = (ReasonCode.COVERAGE_LOW, ReasonCode.OVER_BUDGET)
    lacking = [*_lacking(hop, rows), *(said for code in of_the_hop for said in hop.reasons_of(code))]
    verdict: Any = "fail" if lacking else "pass"
    message = f"{hop.name} on {item}: {lacking[0]}" if lacking else ""
    return Case(
        input=item, hop=hop.name, verdict=verdict, excess=worst, position_excess=worst_position, message=message
    )


def _lacking(hop: HopResult, rows: pd.DataFrame) -> list[str]:
    """What an input lacks for no listed reason, in words."""
    unexplained = {missing.tap for missing in hop.missing if not missing.reason}
    absent = rows[(rows["verdict"] == "missing") & rows["tap"].isin(unexplained)].sort_values("order")
    return [f"{row.tap} is missing: {row.why}" for row in rows_in(absent.head(1))]


def locate(
    hops: list[HopResult], frame: pd.DataFrame, modules: Mapping[str, Mapping[str, str | None]], ops: Mapping[str, str]
) -> list[Fault]:
    """The faults of a run, in the order of the pipeline: the first one is the first fault.

    A tap is at fault when its local error exceeds a limit, and no faulty tap whose error the model went on with feeds
    it. On a hop without local errors it is the first failing tap.

    modules: tap -> module or tensor name per version. ops: tap -> kind of the flatbuffer operator that writes it.
    """
    found = []
    for hop in hops:
        rows = frame[frame["hop"] == hop.name]
        if hop.verdict == "pass" or not (rows["verdict"] == "fail").any():
            continue
        for row in _faulty(rows):
            found.append(
                Fault(
                    hop=hop.name,
                    tap=row.tap,
                    block=None if row.block < 0 else row.block,
                    input=row.input,
                    modules=dict(modules.get(row.tap, {})),
                    op=ops.get(row.tap) if runs_file(hop.to) else None,
                    excess=row.excess,
                    position_excess=row.position_excess,
                    local_excess=_number(row.local_excess),
                    local_position_excess=_number(row.local_position_excess),
                    reason=row.why,
                    broken=_codes(row.broken),
                    floor=floor_alone(row),
                )
            )
    return [fault.model_copy(update={"where": _where(fault, found)}) for fault in found]


def _faulty(rows: pd.DataFrame) -> list[TapRow]:
    """One row for each tap of a failing hop that is at fault, in execution order."""
    failing = rows[rows["verdict"] == "fail"]
    first = first_row(failing)
    known = set(rows[rows["local_excess"].notna()]["tap"])
    worst = rows.assign(share=_local_share(rows)).sort_values("share", ascending=False).drop_duplicates("tap")
    over = {row.tap: row for row in rows_in(worst[worst["share"] > 1].sort_values("order"))}
    # What no local pass could look at may be at fault itself, if it fails before any tap that surely is.
    blind = first.tap not in known and all(first.order < row.order for row in over.values())
    faulty = {first.tap: first, **over} if blind else over
    own = [row for tap, row in faulty.items() if not _fed_by(tap, set(faulty), known)]
    return own or [first]


def _local_share(rows: pd.DataFrame) -> pd.Series:
    """How much of its local limits a row uses up; NaN where no local pass ran."""
    shares = [rows[name] / rows[f"{name}_limit"] for name in ("local_excess", "local_position_excess")]
    return pd.concat(shares, axis=1).max(axis=1)


def _fed_by(tap: str, faulty: set[str], known: set[str]) -> bool:
    """Whether a faulty tap feeds this one whose error the model went on with, so that this one need not be at fault."""
    block, point = split_tap(tap)
    if block is None:
        return False
    sources = reaching(point, lambda source: source in KEPT or block_tap(block, source) not in known)
    return any(block_tap(block, source) in faulty for source in sources)


def _where(fault: Fault, faults: list[Fault]) -> str:
    """What a tap is, in words."""
    block, point = split_tap(fault.tap)
    taps = {other.tap for other in faults if other.hop == fault.hop}
    rotated = ("attn.q_rope", "attn.k_rope")
    if block is not None and point in rotated and {block_tap(block, name) for name in rotated} <= taps:
        return "the rotary embedding: its tables, or how they are applied"
    return _WORDS.get(point, "")


def hides_others(reference: Array, candidate: Array) -> bool:
    """Whether probabilities of attention, `[1, time, heads, source]`, are zero at other positions: by another mask."""
    mine, theirs = (np.asarray(values) for values in (reference, candidate))
    return bool(((mine == 0) & (theirs > _SEEN)).any() or ((theirs == 0) & (mine > _SEEN)).any())


def _codes(broken: str) -> list[str]:
    """What a row of taps names as broken, one by one; nothing of a row that names none."""
    return broken.split(", ") if broken else []


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


Array = np.ndarray[Any, Any]
_SEEN = 1e-6  # a probability that no rounding makes of none
ANOTHER_MASK = "the attention mask: it hides other positions"
# Results that a local pass reads and does not replace: what follows them sees the model's own.
KEPT = frozenset({"cache.k", "cache.v", "attn.probs"})
_WORDS: Mapping[str, str] = {
    "embed": "the embedding",
    "attn.norm": "the norm before attention",
    "attn.q": "the query projection",
    "attn.k": "the key projection",
    "attn.v": "the value projection",
    "attn.q_rope": "the rotation of the queries",
    "attn.k_rope": "the rotation of the keys",
    "cache.k": "the KV cache: keys",
    "cache.v": "the KV cache: values",
    "attn.probs": "the attention scores: scale, mask or softcap",
    "attn.context": "attention: scores, mask, or their product with the values",
    "attn.out": "the output projection of attention",
    "residual": "the sum after attention",
    "mlp.norm": "the norm before the MLP",
    "mlp.gate": "the gate projection",
    "mlp.up": "the up projection",
    "mlp.act": "the activation",
    "mlp.out": "the down projection",
    "out": "the sum after the MLP",
    "final_norm": "the final norm",
    "logits": "the lm_head",
}
