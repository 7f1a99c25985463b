"""The faults of a run with whose they are, as far as its traces and findings tell.

In: faults, the rows of the taps, findings, task results and traces. Out: the faults again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.compare.traces import blocks, common_spans
from harness.jobs.results import facts_of
from harness.locate.beyond_float32 import beyond_float32
from harness.locate.faults import ANOTHER_MASK, hides_others
from harness.locate.owners import is_given, ownership, taps_at
from harness.names.stages import (
    HF,
    ORACLE,
    Hop,
    file_stages,
)
from harness.names.taps import split_tap
from harness.processes.scheduler import TaskResult
from harness.record.record import Fault, Finding
from harness.record.tap_row import rows_in
from harness.store.trace import Trace

if TYPE_CHECKING:
    import pandas as pd


def with_mask(fault: Fault, traces: Path) -> Fault:
    """A fault of attention's probabilities, with a word about the mask if that is what differs."""
    if split_tap(fault.tap)[1] != "attn.probs":
        return fault
    hop = Hop.parse(fault.hop)
    names = (hop.judged_against, hop.candidate)
    one, other = (Trace.open(traces / name / fault.input) for name in names)
    pair = one.load(fault.tap), other.load(fault.tap)
    spans = common_spans(one.covered(fault.tap), other.covered(fault.tap))
    masked = pair[0].shape == pair[1].shape and any(
        hides_others(*(values[:, rows] for values in pair)) for rows in blocks(spans, *pair)
    )
    return fault.model_copy(update={"where": ANOTHER_MASK}) if masked else fault


def owned(
    faults: list[Fault],
    frame: pd.DataFrame,
    findings: list[Finding],
    results: dict[str, TaskResult],
    traces: Path,
) -> list[Fault]:
    """The faults with whose they are. Of those that no stage is to blame for, the first one of each hop."""
    owned: list[Fault] = []
    for fault in faults:
        same_place = frame[frame["tap"].isin(taps_at(fault.tap)) & (frame["input"] == fault.input)]
        compared = set(same_place[same_place["verdict"] != "missing"]["hop"])
        observers = {
            name: facts_of(results, name).steps_differing_from_untouched_file
            for name in file_stages()
            if name in results and any(hop.endswith(f"->{name}") for hop in compared)
        }
        not_finite = not_finite_stages(fault, frame, traces)
        unseen = not_compared_before(fault, frame, traces)
        whose = ownership(fault, faults, findings, observers, not_finite, beyond_float32(fault, frame), unseen)
        if is_given(whose.owner) and any(one.hop == fault.hop and one.owner == whose.owner for one in owned):
            continue
        owned.append(fault.model_copy(update={"owner": whose.owner, "evidence": list(whose.evidence)}))
    return owned


def not_compared_before(fault: Fault, frame: pd.DataFrame, traces: Path) -> str:
    """Of a long input: that taps before a fault were not compared at its worst position, in words; else empty."""
    rows = frame[(frame["hop"] == fault.hop) & (frame["input"] == fault.input)]
    own = rows_in(rows[rows["tap"] == fault.tap])
    folder = traces / Hop.parse(fault.hop).candidate / fault.input
    if not own or own[0].worst_position is None or not folder.is_dir():
        return ""
    trace, at = Trace.open(folder), own[0].worst_position
    before = rows[(rows["order"] < own[0].order) & (rows["verdict"] != "missing")].sort_values("order", ascending=False)
    for row in rows_in(before):
        kept = trace.positions(row.tap) if row.tap in trace else range(trace.length)
        if at not in kept:
            compared = f"{len(kept):,} of {trace.length:,} positions were compared"
            return f"of {row.tap} before it {compared}, and position {at:,} is none of them"
    return ""


def not_finite_stages(fault: Fault, frame: pd.DataFrame, traces: Path) -> list[str]:
    """The stages whose values of a fault's tap are NaN or infinite."""
    rows = frame[(frame["tap"] == fault.tap) & (frame["input"] == fault.input) & (frame["hop"] == fault.hop)]
    if not (rows["nan_count"].fillna(0) + rows["inf_count"].fillna(0)).gt(0).any():
        return []
    found = []
    for stage in dict.fromkeys((ORACLE, HF, *Hop.parse(fault.hop).stages)):
        trace = Trace.open(traces / stage / fault.input)
        if fault.tap in trace and not _is_finite(trace, fault.tap):
            found.append(stage)
    return found


def _is_finite(trace: Trace, tap: str) -> bool:
    values, spans = trace.load(tap), [slice(*span) for span in trace.covered(tap)]
    return all(np.isfinite(values[:, rows]).all() for rows in blocks(spans, values))
