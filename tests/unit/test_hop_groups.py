"""Comparing the hops of each file by themselves gives what comparing all at once gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from harness.compare.joined import KnownFloors, joined
from harness.compare.traces import Comparison, compare_traces
from harness.judge.rules import load_rules
from harness.names.coverage import Absence
from harness.names.stages import FLOAT, HF, ORACLE, Hop, hops_of
from harness.pipeline.hop_groups import hop_groups
from harness.record.tap_row import TAP_COLUMNS
from harness.store.trace import TraceWriter

STAGES = (
    *("oracle", "hf", "reauthored", "tflite-xnnpack", "tflite-builtin"),
    *("fakequant[fp16]", "tflite-xnnpack[fp16]", "fakequant-builtin[fp16]", "tflite-builtin[fp16]"),
    *("fakequant[int8]", "tflite-xnnpack[int8]"),
)
TAPS = ["embed", "block.0.mlp.out", "logits"]
INPUTS = {"long": 9, "short": 4}


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    for number, stage in enumerate(STAGES):
        for item, length in INPUTS.items():
            right, draw = np.random.default_rng(length), np.random.default_rng(number)
            with TraceWriter(tmp_path / stage / item, length) as trace:
                for tap in TAPS:
                    values = right.standard_normal((1, length, 16)) * (1 + 1e-6 * draw.standard_normal((1, length, 16)))
                    trace.put(tap, values if stage == ORACLE else values.astype(np.float32))
    return tmp_path


def compared(traces: Path, hops: Sequence[Hop], floors: KnownFloors | None = None) -> Comparison:
    return compare_traces(
        traces,
        {ORACLE, HF, *(stage for hop in hops for stage in hop.stages)},
        list(INPUTS),
        TAPS,
        "m",
        load_rules(),
        lambda stage, tap: Absence(f"no {tap} in {stage}"),
        hops=hops,
        floors_at=floors,
        decoded=dict.fromkeys(INPUTS, 2),
    )


def test_groups_joined_are_the_whole(traces: Path) -> None:
    hops, floors = hops_of(STAGES), KnownFloors()
    groups = hop_groups(STAGES)
    assert [group.recipe for group in groups] == [FLOAT, "fp16", "int8"]
    parts = [compared(traces, group.hops, floors) for group in reversed(groups)]
    found, whole = joined(parts, hops, list(INPUTS), STAGES), compared(traces, hops)
    assert [repr([getattr(row, name) for name in TAP_COLUMNS]) for row in found.rows] == [
        repr([getattr(row, name) for name in TAP_COLUMNS]) for row in whole.rows
    ]
    for name in {field.name for field in fields(Comparison)} - {"rows", "logit_positions"}:
        assert getattr(found, name) == getattr(whole, name), name
    assert list(found.logit_positions) == list(whole.logit_positions)


def test_a_group_needs_what_its_hops_and_their_noise_floor_need() -> None:
    groups = {group.recipe: group for group in hop_groups(STAGES)}
    assert groups[FLOAT].stages == STAGES[:5]
    assert groups["int8"].stages == ("oracle", "hf", "reauthored", "fakequant[int8]", "tflite-xnnpack[int8]")
    assert groups["fp16"].name == "compare[fp16]"
    assert sum(len(group.hops) for group in groups.values()) == len(hops_of(STAGES))
