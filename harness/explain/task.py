"""Which faults of a run are explained, on which input, and the task that does it.

In: the record so far and the rows of its taps. Out: a task, or None where there is no fault. Imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from harness.jobs.prepared import Prepared
from harness.jobs.results import Explained, Repro
from harness.locate.owners import weights_agree
from harness.names.codes import FindingCode
from harness.names.owners import CHECKPOINT, SPEC
from harness.processes.scheduler import Task, TaskResult
from harness.record.record import Fault, Finding, Record
from harness.record.tap_row import TapRow, rows_in

if TYPE_CHECKING:
    import pandas as pd

EXPLAIN = "explain"
REPRO = "repro"
EVIDENCE = "evidence"
RUN_FILE = "run.json"  # in it: what a repro has to know of the run
_FAULTS = 3  # are explained at most
_SECONDS = 300.0


class FaultPlace(BaseModel):
    """A fault on the input on which it is explained."""

    hop: str
    tap: str
    input: str  # its id
    shown: str = ""  # the input that the record names; empty: the same
    worst: int = 0  # the position with the largest excess
    local_share: float | None = None  # of its limits, the most that the tap uses up in local passes; none without one
    same_weights: bool = False  # the audits have found the weights that act there to be the checkpoint's


class ExplainRequest(BaseModel):
    """What the process that explains is told."""

    prepared: Prepared
    spec_file: str
    spec_variable: str
    traces: Path  # of the run
    folder: Path  # where evidence is written
    faults: list[FaultPlace]
    flatbuffer: str = ""  # of the TFLite stages, if there are any
    plan: str = ""  # how that is aligned


class ReproRequest(BaseModel):
    """What the process that writes a folder to show a fault with is told."""

    evidence: Path  # the folder in the run
    target: Path  # the new folder, empty
    replaced: dict[str, str] = Field(default_factory=dict)  # stands in place of what the evidence says of the model


def explain_task(
    record: Record,
    frame: pd.DataFrame,
    prepared: Prepared,
    spec: tuple[str, str],
    traces: Path,
    folder: Path,
    flatbuffer: str,
    plan: str,
) -> Task | None:
    """spec: file and variable of the declaration. traces, folder: of the run. flatbuffer, plan: empty without one."""
    faults = [
        fault_of(fault.hop, fault.tap, frame, shown=fault.input, same_weights=weights_agree(fault, record.findings))
        for fault in _places(record)[:_FAULTS]
    ]
    if not faults:
        return None
    request = ExplainRequest(
        prepared=prepared,
        spec_file=spec[0],
        spec_variable=spec[1],
        traces=traces,
        folder=folder / EVIDENCE,
        faults=faults,
        flatbuffer=flatbuffer,
        plan=plan,
    )
    payload = request.model_dump(mode="json")
    return Task(EXPLAIN, "harness.explain.job:explain_run", payload, Explained, torch=True, timeout=_SECONDS)


def repro_task(run: Path, target: Path, replaced: Mapping[str, str]) -> Task:
    """The task that writes a folder to show the fault with, `target`, which is empty.

    replaced: what stands in place of what the run's evidence says of the model.
    """
    request = ReproRequest(evidence=run / EVIDENCE, target=target, replaced=dict(replaced))
    payload = request.model_dump(mode="json")
    return Task(REPRO, "harness.explain.repro:write_repro", payload, Repro, timeout=_SECONDS)


def explained(record: Record, result: TaskResult) -> Record:
    """The record with what the task found, or with a word about why it found nothing."""
    found = result.gave(Explained)
    if found is None:
        what = f"the fault is not explained: {result.detail}"
        lost = Finding(kind="runtime", code=FindingCode.FAULT_NOT_EXPLAINED, severity="warning", what=what)
        return record.model_copy(update={"findings": [*record.findings, lost]})
    return Record.model_validate(
        {
            **record.model_dump(by_alias=True),
            "diagnosis": [entry.model_dump(by_alias=True) for entry in found.diagnosis],
            "unexplained": found.unexplained,
            "findings": [*record.findings, *found.right_by_itself],
        }
    )


def _places(record: Record) -> list[Fault]:
    """The first fault and further ones. What both TFLite stages show is the file's, and said once."""
    places: dict[str, Fault] = {}
    for fault in record.faults:
        # What a recipe did to a weight can be said; there is nothing to say of these.
        if fault.owner in (CHECKPOINT, SPEC) or fault.same_as:
            continue
        places.setdefault(f"{fault.hop.split('->')[0]} {fault.tap}", fault)
    return list(places.values())


def fault_of(hop: str, tap: str, frame: pd.DataFrame, *, shown: str = "", same_weights: bool = False) -> FaultPlace:
    """A fault on the longest input that shows it: the more positions, the more there is to tell causes apart.

    shown: the input that the record names.
    """
    rows = rows_in(frame[(frame["hop"] == hop) & (frame["tap"] == tap)])
    failing = [row for row in rows if row.verdict == "fail"] or rows
    row = max(failing, key=lambda row: _length(row.shape))
    share, worst = _local_share(failing), row.worst_position or 0
    return FaultPlace(
        hop=hop, tap=tap, input=row.input, shown=shown, worst=worst, local_share=share, same_weights=same_weights
    )


def _local_share(failing: Sequence[TapRow]) -> float | None:
    """Of its limits, the most that a tap uses up in the local passes of the inputs that show a fault."""
    figures = [
        (value, limit)
        for row in failing
        for value, limit in (
            (row.local_excess, row.local_excess_limit),
            (row.local_position_excess, row.local_position_excess_limit),
        )
        if not math.isnan(value)
    ]
    return max((value / limit for value, limit in figures if limit > 0), default=None)


def _length(shape: str | None) -> int:
    """Positions of a tap's shape, "1x45x128"; 0 where the row has none."""
    parts = (shape or "").split("x")
    return int(parts[1]) if len(parts) > 1 else 0
