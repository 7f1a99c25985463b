"""The faults of a run with where in the sequence they live, as far as single positions of all inputs tell.

In: faults, the rows of the taps, the preparation and the traces. Out: the faults again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.compare.by_position import Each, excess_of_tap
from harness.flatbuffer.signatures import DECODE
from harness.inputs.tokens import schedule_of
from harness.jobs.job import JobInput
from harness.jobs.prepared import Prepared
from harness.locate.sequence import Course, Place, place_of
from harness.names.boundaries import DECODE as DECODE_BEGINS
from harness.names.stages import Floor
from harness.names.taps import split_tap
from harness.pipeline.comparison import decode_start
from harness.record.record import Fault

if TYPE_CHECKING:
    import pandas as pd

CACHE_POINTS = ("cache.k", "cache.v")
# Steps that every block takes in the same way, with no weight of its own: one mistake shows in all of them.
_SHARED = (("attn.q_rope", "attn.k_rope"), CACHE_POINTS, ("attn.probs",))


def in_sequence(faults: list[Fault], frame: pd.DataFrame, prepared: Prepared, traces: Path) -> list[Fault]:
    """The faults with `only_in` and the like.

    What comes after the first fault of a hop carries errors of that one, so it is placed by its local errors alone.
    """
    placed: list[Fault] = []
    for fault in faults:
        follows = any(other.hop == fault.hop for other in placed)
        found = _placed(fault, frame, prepared, traces, (True,) if follows else (False, True))
        placed.append(_same_as(found, placed))
    return placed


def _same_as(fault: Fault, before: Sequence[Fault]) -> Fault:
    """The fault with the earlier one that is the same mistake: where prefill or decode alone has it, and the same step
    of another block, or of keys where that one is of queries, has it there too."""
    group = next((points for points in _SHARED if split_tap(fault.tap)[1] in points), ())
    for other in before:
        alike = other.hop == fault.hop and split_tap(other.tap)[1] in group and not other.same_as
        if alike and _begins_alike(fault, other):
            names = () if fault.only_in else ("only_in", "starts_at", "boundary")
            return fault.model_copy(update={"same_as": other.tap, **{name: getattr(other, name) for name in names}})
    return fault


def _begins_alike(fault: Fault, other: Fault) -> bool:
    """Few inputs have local errors: on those alone decode may not be told from the position where it begins."""
    if other.only_in:
        return fault.only_in == other.only_in or (other.only_in == DECODE and fault.boundary == DECODE_BEGINS)
    begins = (other.starts_at, other.boundary)
    return other.starts_at is not None and not fault.only_in and (fault.starts_at, fault.boundary) == begins


def _placed(fault: Fault, frame: pd.DataFrame, prepared: Prepared, traces: Path, passes: tuple[bool, ...]) -> Fault:
    """passes: whether to look at local errors, in order; the first that tell something count."""
    # A recipe's price has other limits, and kernels are held against each other by no noise.
    if fault.between.floor not in (Floor.NOISE, Floor.RUNTIME) or fault.floor is not None:
        return fault
    # A conversation prefills after it has decoded: which of them computed a position is not told by where it lies.
    if any(item.earlier for item in prepared.inputs if item.id == fault.input):
        return fault
    for local in passes:
        place = place_of(_courses(fault, frame, prepared, traces, local), fault.input, prepared.boundaries)
        if place.only_in or place.starts_at is not None:
            found = place if local else _with_earlier_step(place, fault, frame, prepared, traces)
            return fault.model_copy(update=vars(found))
    return fault


def _with_earlier_step(place: Place, fault: Fault, frame: pd.DataFrame, prepared: Prepared, traces: Path) -> Place:
    """Of a fault in decode alone: the first step at which its local errors show it, where those do earlier."""
    if place.only_in != DECODE or place.first_position is None:
        return place
    sharp = place_of(_courses(fault, frame, prepared, traces, True), fault.input, prepared.boundaries)
    first = sharp.first_position
    if sharp.boundary == DECODE_BEGINS and sharp.only_in == "":  # few inputs have local errors
        first = next((decode_start(item, prepared) for item in prepared.inputs if item.id == fault.input), None)
    if first is None or first >= place.first_position or place.first_step is None:
        return place
    return replace(place, first_step=place.first_step - (place.first_position - first), first_position=first)


def _courses(fault: Fault, frame: pd.DataFrame, prepared: Prepared, traces: Path, local: bool) -> list[Course]:
    column = "local_position_excess_limit" if local else "position_excess_limit"
    rows = frame[(frame["hop"] == fault.hop) & (frame["tap"] == fault.tap)]
    limits = dict(zip(rows["input"], rows[column], strict=True))
    alone = [item for item in prepared.inputs if not item.earlier]
    inputs = [item for item in alone if math.isfinite(limits.get(item.id, math.nan))]
    found = excess_of_tap(traces, fault.between, fault.tap, [item.id for item in inputs], local)
    each = {item.id: _of_known_steps(found.get(item.id, []), fault.tap, item, prepared) for item in inputs}
    return [_course(item, prepared, each[item.id], limits[item.id]) for item in inputs if each[item.id]]


def _of_known_steps(each: Each, tap: str, item: JobInput, prepared: Prepared) -> Each:
    """Without the slot of a cache before the first one of decode: prefill writes it, and a decode that misses its own
    slot may write it again."""
    decoded = decode_start(item, prepared)
    if split_tap(tap)[1] not in CACHE_POINTS or decoded >= len(item.tokens):
        return each
    return [(position, value) for position, value in each if position != decoded - 1]


def _course(item: JobInput, prepared: Prepared, each: Each, limit: float) -> Course:
    steps, decoded = schedule_of(item, prepared), decode_start(item, prepared)
    positions, excess = zip(*each, strict=True)
    chunks = tuple(step.start for step in steps if step.start and step.signature != DECODE)
    return Course(item.id, positions, excess, limit, decoded, chunks)
