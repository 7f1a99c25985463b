"""What one input shows, by the rules of a run and by what is typical of the model as well.

In: the traces of one input. Out: `InputJudgement`. What a run of that input alone lets pass, passes here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.compare.noise import NoiseFloor
from harness.compare.traces import FLOAT32_RUNS, TapReader, compare_traces, noise_floors
from harness.judge.rules import Rule
from harness.names.coverage import Absence
from harness.names.sample import Sample
from harness.names.stages import ORACLE, Hop
from harness.record.tap_row import TapRow

Floats = np.ndarray[Any, np.dtype[np.float64]]
FloorsAt = Callable[[Sequence[TapReader], str], list[NoiseFloor | None]]


@dataclass(frozen=True)
class Failure:
    """The first failing tap of a hop on one input. position: where its error is worst; -1 where shapes differ."""

    hop: str
    tap: str
    why: str
    rule: str = ""
    position: int = -1

    def same_as(self, other: Failure) -> bool:
        """Whether two inputs show the same fault: it begins at the same tap of the same hop."""
        return (self.hop, self.tap) == (other.hop, other.tap)


@dataclass(frozen=True)
class Nearest:
    """The figure that is nearest to its limit. share: of that limit."""

    share: float = 0.0
    what: str = "nothing compared"


@dataclass(frozen=True)
class InputJudgement:
    """faults: of each failing hop, in the order of the pipeline."""

    faults: tuple[Failure, ...]
    nearest: Nearest


def judge_input(
    traces: Path,
    item: str,
    hops: Sequence[Hop],
    taps: list[str],
    model: str,
    rules: list[Rule],
    floors_at: FloorsAt,
    sample: Sample | None = None,
) -> InputJudgement:
    """Compare the traces of one input on the hops, and judge them. Taps that cannot be compared say nothing here.

    sample: the positions that are kept of an input that is too long for all.
    """
    stages = {ORACLE, *(stage for hop in hops for stage in hop.stages)}
    missing = Absence("")  # nobody asks why
    compared = compare_traces(
        traces,
        stages,
        [item],
        taps,
        model,
        rules,
        lambda stage, tap: missing,
        hops=tuple(hops),
        floors_at=floors_at,
        samples={} if sample is None else {item: sample},
    )
    rows = [row for row in compared.rows if row.verdict != "missing"]
    firsts = (_first(row for row in rows if row.hop == hop.name and row.verdict == "fail") for hop in hops)
    faults = tuple(
        Failure(row.hop, row.tap, row.why, row.rule, -1 if row.worst_position is None else row.worst_position)
        for row in firsts
        if row
    )
    nearest = max(map(_nearest, rows), key=lambda near: near.share, default=Nearest())
    return InputJudgement(faults, nearest)


def typical_noise(traces: Path, inputs: Iterable[str], taps: Iterable[str]) -> dict[str, Floats]:
    """What float32 costs at each position of some inputs, `[positions]` by tap; they are traced by oracle and hf."""
    opened = [TapReader.of(traces, {ORACLE, *FLOAT32_RUNS}, item) for item in inputs]
    found = {tap: [floor.known for floor in noise_floors(opened, tap, FLOAT32_RUNS) if floor] for tap in taps}
    return {tap: np.concatenate(parts) for tap, parts in found.items() if parts}


def with_typical_of(known: Mapping[str, Floats]) -> FloorsAt:
    """Noise floors of one input that are no lower than is typical of that input, and of it and the known ones.

    Over the few positions of one input the median is as lucky as its positions. It still counts, since a run of
    the input alone knows no other.
    """

    def floors_at(opened: Sequence[TapReader], tap: str) -> list[NoiseFloor | None]:
        return [
            floor and raised(floor, known.get(tap, np.empty(0))) for floor in noise_floors(opened, tap, FLOAT32_RUNS)
        ]

    return floors_at


def raised(floor: NoiseFloor, known: Floats) -> NoiseFloor:
    """A floor whose `typical` is no lower than the median over the known noise and its own. NaN stays NaN."""
    median = np.median(np.concatenate([known, floor.known]))
    return replace(floor, typical=float(np.maximum(floor.typical, median)))


def _first(rows: Iterable[TapRow]) -> TapRow | None:
    return min(rows, key=lambda row: row.order, default=None)


def _nearest(row: TapRow) -> Nearest:
    where = f"at {row.tap} of {row.hop}"
    if row.positions is None:  # shapes differ
        return Nearest(math.inf, f"{row.why} {where}")
    limited = {
        "excess": (row.excess, row.excess_limit),
        "position_excess": (row.position_excess, row.position_excess_limit),
    }
    name, (value, limit) = max(limited.items(), key=lambda item: _share(*item[1]))
    return Nearest(_share(value, limit), f"{name} {value:.3g} of {limit:g} {where}")


def _share(value: float, limit: float) -> float:
    if math.isnan(limit):
        return 0.0
    return math.inf if math.isnan(value) else value / limit if limit else math.inf
