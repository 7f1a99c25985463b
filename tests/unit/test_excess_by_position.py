"""The excess of a tap at each position, in the floor of its hop: a step of a quantised file's grid belongs to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.compare.by_position import excess_of_tap
from harness.compare.traces import FLOAT32_RUNS
from harness.names.stages import FAKEQUANT, ORACLE, XNNPACK, Hop, named
from harness.store.trace import TraceWriter

TAP, ITEM, LENGTH, NOISE, GRID = "block.0.out", "prompt", 6, 1e-6, 1e-2
HOP = Hop.between(named(FAKEQUANT, "int8"), named(XNNPACK, "int8"))


def write(traces: Path, stage: str, offset: float, *, at: int | None = None, more: float = 0.0) -> None:
    """Ones that are off by `offset` of a row's norm, at one position by `more`."""
    values = np.ones((1, LENGTH, 4), np.float64 if stage == ORACLE else np.float32)
    values[..., 0] += 2 * offset
    if at is not None:
        values[0, at, 1] += 2 * more
    with TraceWriter(traces / stage / ITEM, LENGTH) as trace:
        trace.put(TAP, values, 0)


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    write(tmp_path, ORACLE, 0)
    for run in FLOAT32_RUNS:
        write(tmp_path, run, NOISE)
    write(tmp_path, HOP.reference, 0)
    write(tmp_path, HOP.candidate, 0, at=4, more=5 * GRID)
    return tmp_path


def test_a_runtime_is_measured_in_steps_of_its_grid_too(traces: Path) -> None:
    write(traces, HOP.unrounded, GRID)
    found = dict(excess_of_tap(traces, HOP, TAP, [ITEM])[ITEM])
    assert [position for position, value in found.items() if value > 1] == [4]
    assert found[4] == pytest.approx(5 / np.sqrt(2), rel=1e-2), "a step of two computations is the root of two"


def test_without_what_a_step_costs_the_noise_of_float32_alone_counts(traces: Path) -> None:
    assert dict(excess_of_tap(traces, HOP, TAP, [ITEM])[ITEM])[4] == pytest.approx(5 * GRID / NOISE, rel=0.1)
