"""From judged rows to the first fault, the hops and the cases."""

import math

import numpy as np
import pandas as pd

from harness.locate.faults import LostStage, cases, hides_others, locate, summarise_hop
from harness.names.stages import Hop
from harness.record.tap_row import TAP_COLUMNS

TAPS = ["embed", "block.0.attn.q", "block.0.out", "logits"]
HOP = "hf->reauthored"


def frame_of(*rows: dict) -> pd.DataFrame:
    base = {"model": "m", "hop": HOP, "excess_limit": 4.0, "position_excess_limit": 16.0, "rule": "float32", "why": ""}
    filled = []
    for row in rows:
        order = TAPS.index(row["tap"])
        figures = {"excess": 1.0, "position_excess": 1.0, "max_abs_err": 1e-6, "verdict": "pass", "input": "a"}
        filled.append({**base, **figures, "order": order, "block": 0 if "block" in row["tap"] else -1, **row})
    return pd.DataFrame(filled, columns=list(TAP_COLUMNS))


def clean(**changes: dict) -> pd.DataFrame:
    return frame_of(*[{"tap": tap, **changes.get(tap.replace(".", "_"), {})} for tap in TAPS])


def failing(tap: str, excess: float, **more: object) -> dict:
    return {"tap": tap, "excess": excess, "verdict": "fail", "why": f"excess {excess} > 4", **more}


def test_a_clean_hop_passes_with_its_worst_tap_named():
    hop = summarise_hop(Hop.parse(HOP), clean(block_0_out={"excess": 3.5}), TAPS, None, 0.95)
    assert hop.verdict == "pass"
    assert hop.worst is not None
    assert (hop.worst.tap, hop.worst.excess, hop.worst.limit) == ("block.0.out", 3.5, 4.0)


def test_worst_is_the_tap_nearest_to_its_limit_and_not_the_largest_number():
    frame = frame_of(
        {"tap": "embed", "excess": 10.0, "excess_limit": 16.0, "input": "one-token"},
        {"tap": "logits", "excess": 3.5, "input": "long"},
    )
    hop = summarise_hop(Hop.parse(HOP), frame, TAPS, None, 0.0)
    assert hop.worst is not None
    assert hop.worst.tap == "logits"


def test_nan_is_worse_than_any_number():
    frame = frame_of(failing("embed", 1e9), failing("logits", math.nan))
    hop = summarise_hop(Hop.parse(HOP), frame, TAPS, None, 0.0)
    assert hop.worst is not None
    assert hop.worst.tap == "logits"


def test_the_first_fault_is_first_in_execution_order_whatever_is_largest():
    frame = frame_of(
        {"tap": "embed"}, failing("block.0.out", 5.0), failing("logits", 5000.0), failing("block.0.out", 9.0, input="b")
    )
    hop = summarise_hop(Hop.parse(HOP), frame, TAPS, None, 0.0)
    (fault,) = locate([hop], frame, {"block.0.out": {"hf": "model.layers.0"}}, {"block.0.out": "ADD"})
    assert fault is not None
    assert (fault.tap, fault.input, fault.block) == ("block.0.out", "a", 0)
    assert fault.modules == {"hf": "model.layers.0"}
    assert fault.op is None  # no flatbuffer takes part in this hop


def test_a_fault_of_an_earlier_hop_comes_first():
    device = "reauthored->tflite-xnnpack"
    early = frame_of({"tap": "embed"}, failing("logits", 9.0))
    late = frame_of(failing("embed", 9.0, hop=device))
    frame = pd.concat([late, early], ignore_index=True)
    hops = [summarise_hop(Hop.parse(name), frame, TAPS, None, 0.0) for name in (HOP, device)]
    fault, *_ = locate(hops, frame, {}, {})
    assert fault is not None
    assert fault.hop == HOP


def test_a_missing_tap_is_no_pass_and_lowers_coverage():
    frame = clean(block_0_out={"verdict": "missing", "why": "fused", "absence": "fused-attention"})
    hop = summarise_hop(Hop.parse(HOP), frame, TAPS, None, 0.8)
    assert hop.verdict == "fail"
    assert hop.coverage == 0.75
    assert [(tap.tap, tap.why) for tap in hop.missing] == [("block.0.out", "fused")]
    assert "coverage" in hop.reasons[0]
    assert summarise_hop(Hop.parse(HOP), frame, TAPS, None, 0.7).verdict == "pass"


def test_a_tap_missing_on_one_input_counts_as_missing():
    frame = frame_of(*[{"tap": tap} for tap in TAPS], {"tap": "logits", "input": "b", "verdict": "missing", "why": "x"})
    assert summarise_hop(Hop.parse(HOP), frame, TAPS, None, 0.0).taps_missing == 1


def test_a_hop_whose_stage_crashed_fails_and_says_so():
    lost = LostStage("reauthored", "stage reauthored crashed: SIGSEGV")
    hop = summarise_hop(Hop.parse(HOP), frame_of(), TAPS, None, 0.95, lost)
    assert hop.verdict == "fail"
    assert hop.coverage == 0.0
    assert "SIGSEGV" in hop.reasons[0]
    [case] = cases([hop], frame_of(), ["a"])
    assert case.verdict == "missing"
    assert "SIGSEGV" in case.message


def test_a_case_names_hop_input_tap_excess_and_rule():
    frame = frame_of({"tap": "embed"}, failing("logits", 9.0))
    hop = summarise_hop(Hop.parse(HOP), frame, TAPS, None, 0.0)
    failed, passed = cases([hop], pd.concat([frame, frame_of({"tap": "embed", "input": "b"})]), ["a", "b"])
    assert failed.verdict == "fail"
    for part in (HOP, "on a", "logits", "9.0", "float32"):
        assert part in failed.message
    assert passed.verdict == "pass"


BLOCK = ["attn.k_rope", "cache.k", "attn.probs", "attn.context", "attn.out", "mlp.out"]


def located(**local: float) -> list[str]:
    """Taps found at fault in a block whose taps have these local excesses; the rest have 1."""
    rows = []
    for order, point in enumerate(BLOCK):
        excess = local.get(point.replace(".", "_"), 1.0)
        verdict = "fail" if excess > 4 or math.isnan(excess) else "pass"
        rows.append(
            {
                "model": "m",
                "hop": HOP,
                "input": "a",
                "tap": f"block.0.{point}",
                "block": 0,
                "order": order,
                "excess": 9.0,
                "position_excess": 9.0,
                "max_abs_err": 1.0,
                "rule": "float32",
                "why": "",
                "local_excess": excess,
                "local_excess_limit": 4.0,
                "verdict": verdict,
                "local_position_excess": excess,
                "local_position_excess_limit": 16.0,
            }
        )
    frame = pd.DataFrame(rows, columns=list(TAP_COLUMNS))
    hop = summarise_hop(Hop.parse(HOP), frame, list(frame["tap"]), None, 0.0)
    return [fault.tap.removeprefix("block.0.") for fault in locate([hop], frame, {}, {})]


def test_two_faults_with_sound_taps_between_are_both_found():
    assert located(attn_k_rope=50.0, attn_out=9.0, mlp_out=5.0) == ["attn.k_rope", "attn.out", "mlp.out"]


def test_what_a_faulty_cache_does_to_attention_is_not_charged_to_attention():
    assert located(cache_k=50.0, attn_probs=40.0, attn_context=30.0) == ["cache.k"]
    assert located(attn_probs=40.0, attn_context=30.0, attn_out=20.0) == ["attn.probs", "attn.out"]


def test_a_failing_tap_that_no_local_pass_saw_comes_before_local_faults_behind_it():
    assert located(attn_k_rope=math.nan, mlp_out=9.0) == ["attn.k_rope", "mlp.out"]
    assert located(attn_k_rope=9.0, mlp_out=math.nan) == ["attn.k_rope"]


def test_no_number_is_past_every_limit():
    assert located(attn_out=math.inf) == ["attn.out"]


def test_a_mask_is_told_from_scores_by_the_zeros():
    scores = np.random.default_rng(0).random((1, 4, 2, 4)) + 0.1
    causal = scores * np.tril(np.ones((4, 4)))[None, :, None, :]
    assert not hides_others(causal, causal * 1.5)
    assert hides_others(causal, scores)
    assert hides_others(scores, causal)
    tiny = causal.copy()
    tiny[0, 3, 0, 0] = 1e-30  # rounds to none
    assert not hides_others(tiny, np.where(tiny < 1e-20, 0, tiny))
