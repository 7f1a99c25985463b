"""Where the first fault is, and what each hop and each input came to.

In: judged rows. Out: hops, cases and the first failing tap. Pure.

At this point the first fault is the first failing tap in execution order: taps before it agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import pandas as pd

from harness.record import Case, FirstFault, Hop, Logits, MissingTap, Worst


def summarise_hop(
    hop: str, frame: pd.DataFrame, taps: list[str], logits: Logits | None, required_coverage: float, blocked: str = ""
) -> Hop:
    """A hop's line in the record. `blocked`: why it could not be compared at all, if so."""
    reference, candidate = hop.split("->")
    rows = frame[frame["hop"] == hop]
    missing = _missing(rows, blocked, taps)
    failing = rows[rows["verdict"] == "fail"]
    coverage = (len(taps) - len(missing)) / len(taps)
    reasons = []
    if blocked:
        reasons.append(blocked)
    if len(failing):
        reasons.append(
            f"{failing['tap'].nunique()} taps fail, first {_first(failing)['tap']}: {_first(failing)['why']}"
        )
    if coverage < required_coverage and not blocked:
        reasons.append(f"coverage {coverage:.3f} is below the {required_coverage:g} that the model declares")
    return Hop(
        from_=reference,
        to=candidate,
        verdict="fail" if reasons else "pass",
        taps_compared=len(taps) - len(missing),
        taps_missing=len(missing),
        coverage=coverage,
        coverage_required=required_coverage,
        worst=_worst(rows, "excess"),
        worst_position=_worst(rows, "position_excess"),
        logits=logits,
        first_failing_tap=str(_first(failing)["tap"]) if len(failing) else None,
        missing=missing,
        reasons=reasons,
    )


def _missing(rows: pd.DataFrame, blocked: str, taps: list[str]) -> list[MissingTap]:
    """Taps that were not compared on every input."""
    if blocked:
        return [MissingTap(tap=tap, why=blocked) for tap in taps]
    absent = rows[rows["verdict"] == "missing"].sort_values("order").drop_duplicates("tap")
    return [MissingTap(tap=tap, why=why) for tap, why in zip(absent["tap"], absent["why"], strict=True)]


def _first(failing: pd.DataFrame) -> Any:
    """The failing row that is first in execution order; on several inputs, the one that shows it most."""
    earliest = failing[failing["order"] == failing["order"].min()]
    severity = earliest["position_excess"].fillna(math.inf)
    return earliest.loc[severity.idxmax()]


def _worst(rows: pd.DataFrame, column: str) -> Worst | None:
    """The row nearest to its limit: short inputs have wider limits, so the largest figure alone would mislead."""
    compared = rows[rows["verdict"] != "missing"]
    if compared.empty:
        return None
    limit = f"{column}_limit"
    # NaN is worse than any number: it must not be lost in a maximum. A rule without this limit counts as limit 1.
    used = (compared[column] / compared[limit].fillna(1.0)).where(compared[column].notna(), math.inf)
    row: Any = compared.loc[cast("Any", used.idxmax())]
    return Worst(
        tap=row["tap"], input=row["input"], excess=row[column], max_abs_err=row["max_abs_err"], limit=row[limit]
    )


def cases(hops: list[Hop], frame: pd.DataFrame, inputs: list[str]) -> list[Case]:
    """One case per input and hop. An input fails when one of its taps does, or when the hop lacks coverage."""
    found = []
    for hop in hops:
        for item in inputs:
            rows = frame[(frame["hop"] == hop.name) & (frame["input"] == item)]
            found.append(_case(hop, item, rows))
    return found


def _case(hop: Hop, item: str, rows: pd.DataFrame) -> Case:
    compared = rows[rows["verdict"] != "missing"]
    if compared.empty:
        why = hop.reasons[0] if hop.reasons else "nothing was compared"
        return Case(input=item, hop=hop.name, verdict="missing", message=f"{hop.name} on {item}: {why}")
    worst = float(compared["excess"].fillna(math.inf).max())
    worst_position = float(compared["position_excess"].fillna(math.inf).max())
    failing = rows[rows["verdict"] == "fail"]
    if len(failing):
        row = _first(failing)
        message = f"{hop.name} on {item}: first failing tap {row['tap']}, {row['why']} (rule {row['rule'] or 'none'})"
        return Case(
            input=item,
            hop=hop.name,
            verdict="fail",
            first_failing_tap=row["tap"],
            excess=row["excess"],
            position_excess=row["position_excess"],
            message=message,
        )
    low = [reason for reason in hop.reasons if reason.startswith("coverage")]
    verdict: Any = "fail" if low else "pass"
    message = f"{hop.name} on {item}: {low[0]}" if low else ""
    return Case(
        input=item, hop=hop.name, verdict=verdict, excess=worst, position_excess=worst_position, message=message
    )


def first_fault(
    hops: list[Hop], frame: pd.DataFrame, modules: Mapping[str, Mapping[str, str | None]], ops: Mapping[str, str]
) -> FirstFault | None:
    """The first failing tap of the first failing hop, in the order of the pipeline.

    modules: tap -> module or tensor name per version. ops: tap -> kind of the flatbuffer operator that writes it.
    """
    for hop in hops:
        failing = frame[(frame["hop"] == hop.name) & (frame["verdict"] == "fail")]
        if hop.verdict == "pass" or failing.empty:
            continue
        row = _first(failing)
        block = int(row["block"])
        return FirstFault(
            hop=hop.name,
            tap=row["tap"],
            block=None if block < 0 else block,
            input=row["input"],
            modules=dict(modules.get(row["tap"], {})),
            op=ops.get(row["tap"]) if hop.to.startswith("tflite") else None,
            excess=row["excess"],
            position_excess=row["position_excess"],
            reason=row["why"],
        )
    return None
