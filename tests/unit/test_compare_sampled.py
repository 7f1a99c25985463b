"""Comparing taps that are kept at some positions: those count, no other does, and the record says so."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from harness.compare.local import local_errors
from harness.compare.noise import NoiseFloor, with_grid, with_typical
from harness.compare.traces import Comparison, TapReader, compare_traces, known_spans, noise_floors
from harness.fuzz.judging import InputJudgement, judge_input
from harness.judge.rules import load_rules
from harness.names.coverage import SAMPLED_POSITIONS, Absence
from harness.names.sample import Sample
from harness.names.stages import Hop
from harness.store.trace import TraceWriter

LENGTH = 40
SAMPLE = Sample((0, 1, *range(4, 36, 2), 38, 39))
TAP, WHOLE = "block.0.mlp.out", "block.0.out"
STAGES = ("oracle", "hf", "reauthored")
HOP = Hop("hf", "reauthored")


def values(stage: str, tap: str) -> np.ndarray:
    clean = np.random.default_rng(len(tap)).standard_normal((1, LENGTH, 64))
    if stage == "oracle":
        return clean
    noise = np.random.default_rng(STAGES.index(stage)).standard_normal(clean.shape)
    return (clean * (1 + 1e-7 * noise)).astype(np.float32)


def write(folder: Path, stage: str, sample: Sample | None = SAMPLE, **wrong: int) -> None:
    """wrong: a tap without its dots -> the position at which it is off."""
    with TraceWriter(folder / stage / "a", LENGTH, sample=sample) as trace:
        for tap in (TAP, WHOLE):
            made = values(stage, tap)
            at = wrong.get(tap.rpartition(".")[2])
            if at is not None:
                made[0, at] *= 1.01
            trace.put(tap, made)


def compare(folder: Path) -> Comparison:
    return compare_traces(
        folder,
        set(STAGES),
        ["a"],
        [TAP, WHOLE],
        "m",
        load_rules(),
        lambda stage, tap: Absence(f"no {tap} in {stage}"),
        [HOP],
        samples={"a": SAMPLE},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for stage in STAGES:
        write(tmp_path, stage)
    return tmp_path


def test_a_tap_is_judged_at_the_positions_that_are_kept_and_its_row_says_so(folder):
    sampled, whole = compare(folder).rows
    assert (sampled.verdict, sampled.positions, sampled.absence) == ("pass", len(SAMPLE.positions), SAMPLED_POSITIONS)
    assert (whole.verdict, whole.positions, whole.absence) == ("pass", LENGTH, None)


def test_the_figures_are_those_of_the_same_positions_alone(folder, tmp_path_factory):
    """Zeros between the kept positions move neither the error nor what it is measured in."""
    dense, at = tmp_path_factory.mktemp("dense"), list(SAMPLE.positions)
    for stage in STAGES:
        with TraceWriter(dense / stage / "a", len(at)) as trace:
            trace.put(TAP, values(stage, TAP)[:, at])
    sampled = compare(folder).rows[0]
    (alone,) = compare_traces(
        dense, set(STAGES), ["a"], [TAP], "m", load_rules(), lambda stage, tap: Absence(""), [HOP]
    ).rows
    for name in ("excess", "position_excess", "noise_floor", "rel_l2", "value_min", "value_max"):
        assert getattr(sampled, name) == getattr(alone, name)


@pytest.mark.parametrize(("wrong", "verdicts"), [({"out": 4}, ["fail"]), ({"out": 5}, ["pass"])])
def test_an_error_shows_at_a_position_that_is_kept(folder, wrong, verdicts):
    with TraceWriter(folder / "reauthored" / "a", LENGTH, sample=SAMPLE) as trace:
        made = values("reauthored", TAP)
        made[0, wrong["out"]] *= 1.01
        trace.put(TAP, made)
    assert [compare(folder).rows[0].verdict] == verdicts


def test_an_error_at_any_position_shows_in_what_each_block_ends_in(folder):
    with TraceWriter(folder / "reauthored" / "a", LENGTH, sample=SAMPLE) as trace:
        made = values("reauthored", WHOLE)
        made[0, 5] *= 1.01
        trace.put(WHOLE, made)
    row = compare(folder).rows[1]
    assert (row.verdict, row.worst_position) == ("fail", 5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_lacks_a_position_that_it_has_to_keep_is_no_pass(folder, stage):
    write(folder, stage, Sample(SAMPLE.positions[:-1]))
    row = compare(folder).rows[0]
    assert (row.verdict, row.absence) == ("missing", "")
    assert f"no {TAP}" in row.why


def test_a_stage_that_keeps_other_positions_is_no_pass(folder):
    write(folder, "reauthored", Sample(tuple(range(1, LENGTH, 2))))
    assert compare(folder).rows[0].verdict == "missing"


def test_stages_that_share_no_position_have_no_noise_floor(folder):
    write(folder, "hf", Sample((2, 3)))
    assert noise_floors([TapReader.of(folder, STAGES, "a")], TAP, ["hf"]) == [None]
    assert compare(folder).rows[0].verdict == "missing"


def test_a_local_error_is_taken_at_the_positions_that_are_kept(folder):
    for run, stage in (("hf.local", "hf"), ("reauthored.local", "reauthored")):
        with TraceWriter(folder / run / "a", LENGTH, sample=Sample(SAMPLE.positions, every=True)) as trace:
            for tap in (TAP, WHOLE):
                trace.put(tap, values(stage, tap))
    errors = local_errors(folder, [HOP], ["a"], [TAP, WHOLE])
    assert {key[2] for key in errors} == {TAP, WHOLE}
    assert all(error.whole < 4 for error in errors.values())


def test_a_floor_is_known_where_it_was_measured_and_nowhere_else():
    part = NoiseFloor(np.array([1e-6, 3e-6]), np.ones(2))
    (floor,) = with_typical([part.spread(np.array([2, 5]), 7)])
    assert floor.typical == pytest.approx(2e-6)
    assert floor.whole == pytest.approx(2.5e-6)
    assert np.isnan(floor.floor[[0, 1, 3, 4, 6]]).all()
    assert known_spans(floor) == [slice(2, 3), slice(5, 6)]
    grid = with_grid(floor, np.array([1e-12, 1e-12]))
    assert np.isfinite(grid.floor[[2, 5]]).all()
    assert np.isnan(grid.floor[3])
    assert np.isfinite(grid.whole)


def test_a_value_that_is_no_number_at_a_kept_position_fails(folder):
    with TraceWriter(folder / "oracle" / "a", LENGTH, sample=SAMPLE) as trace:
        made = values("oracle", TAP)
        made[0, 4, 3] = np.nan
        trace.put(TAP, made)
        trace.put(WHOLE, values("oracle", WHOLE))
    assert compare(folder).rows[0].verdict == "fail"


def test_a_search_counts_a_tap_that_is_kept_at_some_positions(folder):
    def judged(sample: Sample | None) -> InputJudgement:
        def floors_at(opened: Sequence[TapReader], tap: str) -> list[NoiseFloor | None]:
            return noise_floors(opened, tap, ["hf"])

        return judge_input(folder, "a", (HOP,), [TAP], "m", load_rules(), floors_at, sample)

    assert judged(None).nearest.what == "nothing compared", "what is not whole is not compared"
    assert TAP in judged(SAMPLE).nearest.what
    assert judged(SAMPLE).faults == ()
    with TraceWriter(folder / "reauthored" / "a", LENGTH, sample=SAMPLE) as trace:
        trace.put(TAP, values("reauthored", TAP) * np.float32(1.0001))
    assert [fault.tap for fault in judged(SAMPLE).faults] == [TAP]
