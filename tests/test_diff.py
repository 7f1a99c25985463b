"""What a diff promises: what changed for the worse is named, and unlike things are not compared."""

from __future__ import annotations

import math

import pytest
from record_factory import FAULTY_TAP, NAN_TAP, make_run

from harness.diff import compare_runs
from harness.errors import UsageError


def test_two_equal_runs_differ_in_nothing() -> None:
    run = make_run("fail")
    comparison = compare_runs(*run, *run)
    assert comparison.verdict == ("fail", "fail")
    assert comparison.newly_failing == comparison.newly_passing == comparison.newly_missing == ()
    assert comparison.changed_total == 0
    assert comparison.only_a == comparison.only_b == comparison.uncompared_inputs == ()


def test_a_new_fault_is_first_among_the_newly_failing_taps_with_its_numbers() -> None:
    comparison = compare_runs(*make_run("pass"), *make_run("fail"))
    first = comparison.newly_failing[0]
    assert (first.hop, first.tap, first.verdict) == ("hf->reauthored", FAULTY_TAP, ("pass", "fail"))
    before, after = first.excess
    assert before is not None
    assert after is not None
    assert before < 2 < 300 < after
    assert comparison.hops[0].worst_excess[1] > 300


def test_a_mended_fault_is_newly_passing() -> None:
    comparison = compare_runs(*make_run("fail"), *make_run("pass"))
    assert FAULTY_TAP in {change.tap for change in comparison.newly_passing}
    assert not comparison.newly_failing


def test_a_tap_that_got_lost_is_newly_missing_and_not_passing() -> None:
    comparison = compare_runs(*make_run("pass"), *make_run("crash"))
    assert len(comparison.newly_missing) == 513
    assert {change.excess[1] for change in comparison.newly_missing} == {None}
    assert not comparison.newly_passing
    assert comparison.hops[1].coverage[1] == 0.0


def test_nan_is_worse_than_every_number() -> None:
    comparison = compare_runs(*make_run("fail"), *make_run("nan"))
    change = next(c for c in comparison.newly_failing if c.tap == NAN_TAP)
    assert change.excess[1] == math.inf
    assert comparison.changed[0].ratio == math.inf
    assert compare_runs(*make_run("nan"), *make_run("pass")).changed[0].ratio == 0.0


def test_only_the_largest_changes_are_kept_sorted_and_counted() -> None:
    comparison = compare_runs(*make_run("pass"), *make_run("fail"))
    sizes = [max(change.ratio, 1 / change.ratio) for change in comparison.changed]
    assert len(sizes) == 20 < comparison.changed_total
    assert sizes == sorted(sizes, reverse=True)
    assert min(change.ratio for change in comparison.changed) > 2


def test_an_input_with_other_tokens_is_left_out_of_the_taps() -> None:
    record, frame = make_run("pass")
    longer = record.inputs[0].model_copy(update={"tokens": 9})
    other = record.model_copy(update={"inputs": [longer, *record.inputs[1:]]})
    comparison = compare_runs(record, frame, other, frame)
    assert comparison.uncompared_inputs == ("prompt",)
    assert "prompt" not in comparison.common_inputs


def test_taps_in_one_run_only_are_named() -> None:
    record, frame = make_run("pass")
    comparison = compare_runs(record, frame, record, frame[frame["tap"] != "block.2.attn.q"])
    assert set(comparison.only_a) == {(hop.name, "block.2.attn.q") for hop in record.hops}


def test_runs_of_different_models_are_refused() -> None:
    record, frame = make_run("pass")
    with pytest.raises(UsageError, match="two runs of one model"):
        compare_runs(record, frame, record.model_copy(update={"model": "phi2"}), frame)
