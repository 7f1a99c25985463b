"""Comparing traces: what is not there, not alike or not a number is never agreement."""

from pathlib import Path

import numpy as np
import pytest

from harness.compare.traces import Comparison, compare_traces
from harness.judge.rules import load_rules
from harness.names.coverage import NO_PREFILL_LOGITS, Absence, listed
from harness.names.stages import Hop
from harness.store.trace import TraceWriter

TAPS = ["embed", "block.0.mlp.out", "logits"]
STAGES = ("oracle", "hf", "reauthored", "tflite-xnnpack")
HOPS = (Hop("hf", "reauthored"), Hop("reauthored", "tflite-xnnpack"))
LENGTH = 12


def arrays(seed: int = 0, error: float = 0.0) -> dict[str, np.ndarray]:
    """Taps of one stage; the same seed is the same model."""
    rng = np.random.default_rng(7)
    clean = {tap: rng.standard_normal((1, LENGTH, 64)) for tap in TAPS}
    noise = np.random.default_rng(seed)
    return {tap: value * (1 + error * noise.standard_normal(value.shape)) for tap, value in clean.items()}


@pytest.fixture
def stages() -> dict[str, dict[str, np.ndarray]]:
    """A faithful run: every float32 stage is off by as much as float32 costs."""
    made = {stage: arrays(seed, 1e-7) for seed, stage in enumerate(STAGES)}
    made["oracle"] = arrays()
    return {
        stage: {tap: v if stage == "oracle" else v.astype(np.float32) for tap, v in taps.items()}
        for stage, taps in made.items()
    }


def compare(folder: Path, stages: dict[str, dict[str, np.ndarray]]) -> Comparison:
    for stage, taps in stages.items():
        with TraceWriter(folder / stage / "a", LENGTH) as trace:
            for tap, values in taps.items():
                trace.put(tap, values)
    rules = load_rules()
    return compare_traces(
        folder, set(stages), ["a"], TAPS, "m", rules, lambda stage, tap: Absence(f"no {tap} in {stage}"), HOPS
    )


def verdicts(found: Comparison, hop: str) -> dict[str, str]:
    return {row.tap: row.verdict for row in found.rows if row.hop == hop}


def test_a_faithful_run_passes_on_every_tap(tmp_path, stages):
    found = compare(tmp_path, stages)
    assert len(found.rows) == len(TAPS) * len(HOPS)
    assert {row.verdict for row in found.rows} == {"pass"}
    assert found.logits["hf->reauthored"].positions == LENGTH


def test_an_error_upstream_is_not_charged_to_the_hop_behind_it(tmp_path, stages):
    for stage in ("reauthored", "tflite-xnnpack"):
        stages[stage]["block.0.mlp.out"] = stages[stage]["block.0.mlp.out"] * np.float32(1.001)
    found = compare(tmp_path, stages)
    assert verdicts(found, "hf->reauthored")["block.0.mlp.out"] == "fail"
    assert set(verdicts(found, "reauthored->tflite-xnnpack").values()) == {"pass"}
    after = next(row for row in found.rows if row.hop.endswith("xnnpack") and row.tap == "block.0.mlp.out")
    assert after.excess < 4 < after.total_excess  # what is left in the end is still on record


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [["tflite-xnnpack"], ["reauthored", "tflite-xnnpack"], list(STAGES)])
@pytest.mark.parametrize("tap", TAPS)
def test_a_value_that_is_no_number_fails_even_where_both_sides_have_it(tmp_path, stages, value, where, tap):
    for stage in where:
        stages[stage][tap][0, 5, 3] = value
    assert verdicts(compare(tmp_path, stages), "reauthored->tflite-xnnpack")[tap] == "fail"


def test_a_tap_that_a_stage_lacks_is_missing_with_the_reason_and_no_pass(tmp_path, stages):
    del stages["tflite-xnnpack"]["embed"]
    found = compare(tmp_path, stages)
    row = next(row for row in found.rows if row.hop.endswith("xnnpack") and row.tap == "embed")
    assert (row.verdict, row.why) == ("missing", "no embed in tflite-xnnpack")
    assert verdicts(found, "hf->reauthored")["embed"] == "pass"


def test_without_the_oracle_nothing_passes(tmp_path, stages):
    del stages["oracle"]["block.0.mlp.out"]
    for hop in ("hf->reauthored", "reauthored->tflite-xnnpack"):
        assert verdicts(compare(tmp_path, stages), hop)["block.0.mlp.out"] == "missing"


def test_another_shape_is_a_failure_that_names_the_shapes(tmp_path, stages):
    stages["tflite-xnnpack"]["embed"] = np.ones((1, LENGTH, 32), np.float32)
    found = compare(tmp_path, stages)
    row = next(row for row in found.rows if row.hop.endswith("xnnpack") and row.tap == "embed")
    assert row.verdict == "fail"
    assert "1x12x64 against 1x12x32" in row.why


def test_only_positions_that_both_stages_computed_are_compared(tmp_path, stages):
    folder = tmp_path / "partial"
    for stage, taps in stages.items():
        with TraceWriter(folder / stage / "a", LENGTH) as trace:
            for tap, values in taps.items():
                start = LENGTH - 1 if (stage, tap) == ("tflite-xnnpack", "logits") else 0
                trace.put(tap, values[:, start:], start)

    def compared(absent: Absence) -> Comparison:
        return compare_traces(folder, set(stages), ["a"], TAPS, "m", load_rules(), lambda stage, tap: absent, HOPS)

    unexplained = compared(Absence("the kernel was tired"))
    (row,) = [row for row in unexplained.rows if row.verdict != "pass"]
    assert (row.tap, row.verdict, row.absence) == ("logits", "missing", "")
    assert row.why == "compared at 1 of 12 positions: the kernel was tired"
    found = compared(listed(NO_PREFILL_LOGITS))
    assert set(verdicts(found, "reauthored->tflite-xnnpack").values()) == {"pass"}
    assert found.logits["reauthored->tflite-xnnpack"].positions == 1
    assert found.logits["hf->reauthored"].positions == LENGTH


def test_a_flip_counts_only_where_the_margin_is_above_the_noise(tmp_path, stages):
    for taps in stages.values():  # two candidates that float32 cannot tell apart at 3, a clear winner at 8
        taps["logits"][0, 3, 10:12] = 50.0
        taps["logits"][0, 8, 20] = 60.0
    stages["tflite-xnnpack"]["logits"][0, 3, 11] = np.nextafter(np.float32(50), np.float32(60))
    stages["hf"]["logits"][0, 3, 10] = np.nextafter(np.float32(50), np.float32(60))
    near = compare(tmp_path / "near", stages).logits["reauthored->tflite-xnnpack"]
    assert (near.flips, near.flips_above_noise) == (1, 0)
    stages["tflite-xnnpack"]["logits"][0, 8, 21] = 70.0
    clear = compare(tmp_path / "clear", stages).logits["reauthored->tflite-xnnpack"]
    assert (clear.flips, clear.flips_above_noise) == (2, 1)
