"""The faults of a run with where in the sequence they live, as far as single positions of all inputs tell.

In: faults, the rows of the taps, the preparation and the traces. Out: the faults again.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from harness.compare.by_position import excess_of_tap
from harness.flatbuffer.signatures import DECODE
from harness.inputs.tokens import schedule_of
from harness.jobs.job import JobInput
from harness.jobs.prepared import Prepared
from harness.locate.sequence import Course, place_of
from harness.names.stages import Floor
from harness.pipeline.comparison import decode_start
from harness.record.record import Fault

if TYPE_CHECKING:
    import pandas as pd


def in_sequence(faults: list[Fault], frame: pd.DataFrame, prepared: Prepared, traces: Path) -> list[Fault]:
    """The faults with `only_in` and the like.

    What comes after the first fault of a hop carries errors of that one, so it is placed by its local errors alone.
    """
    placed: list[Fault] = []
    for fault in faults:
        follows = any(other.hop == fault.hop for other in placed)
        placed.append(_placed(fault, frame, prepared, traces, (True,) if follows else (False, True)))
    return placed


def _placed(fault: Fault, frame: pd.DataFrame, prepared: Prepared, traces: Path, passes: tuple[bool, ...]) -> Fault:
    """passes: whether to look at local errors, in order; the first that tell something count."""
    if fault.between.floor is not Floor.NOISE or fault.floor is not None:
        return fault
    # A conversation prefills after it has decoded: which of them computed a position is not told by where it lies.
    if any(item.earlier for item in prepared.inputs if item.id == fault.input):
        return fault
    for local in passes:
        place = place_of(_courses(fault, frame, prepared, traces, local), fault.input, prepared.boundaries)
        if place.only_in or place.starts_at is not None:
            return fault.model_copy(update=vars(place))
    return fault


def _courses(fault: Fault, frame: pd.DataFrame, prepared: Prepared, traces: Path, local: bool) -> list[Course]:
    column = "local_position_excess_limit" if local else "position_excess_limit"
    rows = frame[(frame["hop"] == fault.hop) & (frame["tap"] == fault.tap)]
    limits = dict(zip(rows["input"], rows[column], strict=True))
    alone = [item for item in prepared.inputs if not item.earlier]
    inputs = [item for item in alone if math.isfinite(limits.get(item.id, math.nan))]
    found = excess_of_tap(traces, fault.between, fault.tap, [item.id for item in inputs], local)
    return [_course(item, prepared, found[item.id], limits[item.id]) for item in inputs if found.get(item.id)]


def _course(item: JobInput, prepared: Prepared, each: list[tuple[int, float]], limit: float) -> Course:
    steps = schedule_of(item, prepared)
    positions, excess = zip(*each, strict=True)
    chunks = tuple(step.start for step in steps if step.start and step.signature != DECODE)
    return Course(item.id, positions, excess, limit, decode_start(item, prepared), chunks)
