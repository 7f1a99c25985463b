"""What the tap of a fault is called in a flatbuffer: in the signature where the fault is.

In: a fault with its place in the sequence, the rows of the taps and the alignment plans. Out: the fault again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.align.plan import PlanFacts
from harness.flatbuffer.signatures import DECODE
from harness.inputs.tokens import schedule_of, step_at
from harness.jobs.prepared import Prepared
from harness.names.stages import FLATBUFFER, runs_file, split
from harness.record.record import Fault
from harness.record.tap_row import rows_in

if TYPE_CHECKING:
    import pandas as pd


def named_where_it_is(fault: Fault, frame: pd.DataFrame, prepared: Prepared, plans: Mapping[str, PlanFacts]) -> Fault:
    """The fault with the tensor, and on a hop into a file the operator, of the signature where it is.

    plans: recipe -> what the plan of its file says. A tap that this signature lacks keeps the names that it has.
    """
    return in_signature(fault, _signature(fault, frame, prepared), plans)


def in_signature(fault: Fault, signature: str, plans: Mapping[str, PlanFacts]) -> Fault:
    """The same for a signature that is known, empty for the first one."""
    candidate = fault.between.candidate
    plan = plans.get(split(candidate)[1])
    found = plan.where(fault.tap, signature) if plan is not None else None
    if found is None:
        return fault
    at, written = found
    names = {"signature": at, "modules": {**fault.modules, FLATBUFFER: written.tensor}}
    return fault.model_copy(update={**names, "op": written.op} if runs_file(candidate) else names)


def _signature(fault: Fault, frame: pd.DataFrame, prepared: Prepared) -> str:
    """The one that computed the position where the fault begins, or else where it is worst; empty if not known."""
    if fault.only_in == DECODE:
        return DECODE
    position = fault.starts_at if fault.starts_at is not None else _worst_position(fault, frame)
    item = next((item for item in prepared.inputs if item.id == fault.input), None)
    if position is None or item is None:
        return ""
    step = step_at(schedule_of(item, prepared), position)
    return "" if step is None else step.signature


def _worst_position(fault: Fault, frame: pd.DataFrame) -> int | None:
    rows = frame[(frame["hop"] == fault.hop) & (frame["tap"] == fault.tap) & (frame["input"] == fault.input)]
    return next((row.worst_position for row in rows_in(rows)), None)
