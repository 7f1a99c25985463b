"""What a diff promises: what changed for the worse is named, and unlike things are not compared."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from record_factory import BLOCKS, FAULTY_TAP, NAN_TAP, make_run

from harness.compare.runs import compare_runs
from harness.errors import UsageError
from harness.names.taps import tap_order

if TYPE_CHECKING:
    import pandas as pd


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
    before, after = first.figures
    assert before is not None
    assert after is not None
    assert before.share < 1 < 70 < after.share
    assert after.limit == {"excess": 4.0, "position_excess": 16.0}[after.column]
    worst = comparison.hops[0].worst[1]
    assert worst is not None
    assert (worst.excess or 0) > 300


def test_a_mended_fault_is_newly_passing() -> None:
    comparison = compare_runs(*make_run("fail"), *make_run("pass"))
    assert FAULTY_TAP in {change.tap for change in comparison.newly_passing}
    assert not comparison.newly_failing


def test_a_tap_that_got_lost_is_newly_missing_and_not_passing() -> None:
    comparison = compare_runs(*make_run("pass"), *make_run("crash"))
    assert len(comparison.newly_missing) == len(tap_order(BLOCKS)) - BLOCKS  # the probabilities were missing before
    assert {change.figures[1] for change in comparison.newly_missing} == {None}
    assert not comparison.newly_passing
    assert comparison.hops[1].coverage[1] == 0.0


def test_nan_is_worse_than_every_number() -> None:
    comparison = compare_runs(*make_run("fail"), *make_run("nan"))
    change = next(c for c in comparison.newly_failing if c.tap == NAN_TAP)
    assert change.figures[1] is not None
    assert change.figures[1].share == math.inf
    assert comparison.changed[0].ratio == math.inf
    assert compare_runs(*make_run("nan"), *make_run("pass")).changed[0].ratio == 0.0


def with_figures(frame: pd.DataFrame, tap: str, given: str, **figures: float) -> pd.DataFrame:
    """A copy of a frame in which one tap of hf->reauthored has other figures on one input."""
    changed = frame.copy()
    mine = (changed["hop"] == "hf->reauthored") & (changed["tap"] == tap) & (changed["input"] == given)
    assert mine.sum() == 1
    for column, value in figures.items():
        changed.loc[mine, column] = value
    return changed


def test_a_wide_limit_of_a_short_input_does_not_hide_a_change_on_a_long_one() -> None:
    record, frame = make_run("pass", 4)
    tap = "block.2.attn.q"
    before = with_figures(frame, tap, "one-token", excess=3.5, position_excess=3.5)
    after = with_figures(before, tap, "long", excess=3.4)
    (change,) = (c for c in compare_runs(record, before, record, after).changed if c.tap == tap)
    assert change.figures[1] is not None
    assert (change.figures[1].value, change.figures[1].limit) == (3.4, 4.0)
    assert change.ratio > 2


def test_a_changed_rule_is_no_changed_number_and_a_run_without_limits_is_compared_too() -> None:
    record, frame = make_run("fail", 8)
    loose = frame.assign(excess_limit=40.0, position_excess_limit=160.0)
    old = frame.drop(columns=["excess_limit", "position_excess_limit"])
    for other in (loose, old):
        assert compare_runs(record, other, record, frame).changed_total == 0
        assert compare_runs(record, frame, record, other).changed_total == 0
    assert compare_runs(*make_run("pass", 8), record, old).newly_failing
    assert compare_runs(record, old, record, old).changed_total == 0


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
    assert comparison.uncompared_inputs == ("one-token",)
    assert "one-token" not in comparison.common_inputs


def test_taps_in_one_run_only_are_named() -> None:
    record, frame = make_run("pass")
    comparison = compare_runs(record, frame, record, frame[frame["tap"] != "block.2.attn.q"])
    assert set(comparison.only_a) == {(hop.name, "block.2.attn.q") for hop in record.hops}


def test_how_well_the_reference_predicts_the_common_text_is_compared() -> None:
    record, frame = make_run("pass")
    assert record.likelihood is not None
    each = [one.model_copy(update={"nll": 5.29}) for one in record.likelihood.inputs]
    worse = record.model_copy(update={"likelihood": record.likelihood.model_copy(update={"inputs": each})})
    assert compare_runs(record, frame, worse, frame).likelihood == pytest.approx((3.58, 5.29))
    assert compare_runs(worse, frame, record, frame).likelihood == pytest.approx((5.29, 3.58))
    old = record.model_copy(update={"likelihood": None})
    assert compare_runs(old, frame, worse, frame).likelihood == (None, pytest.approx(5.29))
    prompt = next(item for item in record.inputs if item.id == "prompt")
    others = [item if item is not prompt else item.model_copy(update={"token_ids": [1]}) for item in record.inputs]
    elsewhere = worse.model_copy(update={"inputs": others})
    assert compare_runs(record, frame, elsewhere, frame).likelihood == (None, None)


def test_runs_of_different_models_are_refused() -> None:
    record, frame = make_run("pass")
    with pytest.raises(UsageError, match="two runs of one model"):
        compare_runs(record, frame, record.model_copy(update={"model": "phi2"}), frame)
