"""Coverage: no tap is absent without a listed reason, whatever share of taps a spec asks for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.align.plan import PlanFacts
from harness.errors import UsageError
from harness.locate.faults import cases, summarise_hop
from harness.names.codes import ReasonCode
from harness.names.coverage import (
    FOLDED_NORM,
    FUSED_ATTENTION,
    LISTED,
    NO_PREFILL_LOGITS,
    STANDARD_COVERAGE,
    UNDECLARED_POINT,
    Absence,
    check_coverage,
    checked,
    coverage_of,
    listed,
)
from harness.names.stages import Hop
from harness.names.variant import Variant
from harness.record.record import HopResult
from harness.record.tap_row import TAP_COLUMNS

XNNPACK = "reauthored->tflite-xnnpack"
TAPS = ["embed", "block.0.attn.norm", "block.0.attn.probs", "final_norm", "logits"]


def frame_of(missing: dict[tuple[str, str], str], inputs: tuple[str, ...] = ("a", "b")) -> pd.DataFrame:
    """Rows of a hop that passes. missing: (input, tap) -> the listed reason, or none."""
    rows = []
    for item in inputs:
        for order, tap in enumerate(TAPS):
            row: dict[str, Any] = {"input": item, "hop": XNNPACK, "tap": tap, "order": order, "verdict": "pass"}
            row |= {
                "block": -1,
                "excess": 1.0,
                "position_excess": 1.0,
                "excess_limit": 4.0,
                "position_excess_limit": 16.0,
                "why": "",
            }
            if (item, tap) in missing:
                row |= {"verdict": "missing", "why": "the reason in words", "absence": missing[item, tap]}
            rows.append(row)
    return pd.DataFrame(rows, columns=list(TAP_COLUMNS))


def hop_of(missing: dict[tuple[str, str], str], required: float = 0.0) -> HopResult:
    return summarise_hop(Hop.parse(XNNPACK), frame_of(missing), TAPS, None, required)


def on_both(tap: str, reason: str) -> dict[tuple[str, str], str]:
    return {("a", tap): reason, ("b", tap): reason}


@pytest.mark.parametrize("tap", TAPS)
def test_no_share_lets_a_tap_be_absent_without_a_listed_reason(tap: str) -> None:
    hop = hop_of({("b", tap): ""})
    assert hop.verdict == "fail"
    assert hop.reason_codes == [ReasonCode.TAPS_MISSING]
    assert hop.reasons == [f"1 tap is missing for no listed reason, first {tap}: the reason in words"]
    one, other = cases([hop], frame_of({("b", tap): ""}), ["a", "b"])
    assert (one.verdict, other.verdict) == ("pass", "fail")
    assert other.message == f"{XNNPACK} on b: {tap} is missing: the reason in words"


def test_a_reason_that_is_not_in_the_table_is_none() -> None:
    assert hop_of(on_both("block.0.attn.probs", "the-kernel-was-tired")).verdict == "fail"


def test_a_listed_reason_lets_a_tap_be_absent_and_the_share_still_holds() -> None:
    missing = on_both("block.0.attn.probs", FUSED_ATTENTION)
    hop = hop_of(missing, 0.8)
    assert (hop.verdict, hop.coverage, hop.missing[0].reason) == ("pass", 0.8, FUSED_ATTENTION)
    stricter = hop_of(missing, 0.81)
    assert stricter.reason_codes == [ReasonCode.COVERAGE_LOW]
    assert stricter.reasons == ["coverage 0.800 is below the 0.81 that the model declares"]


def test_logits_that_only_decode_gives_must_be_compared_on_some_input() -> None:
    assert hop_of({("a", "logits"): NO_PREFILL_LOGITS}).verdict == "pass"
    nowhere = hop_of(on_both("logits", NO_PREFILL_LOGITS))
    assert nowhere.verdict == "fail"
    assert "first logits" in nowhere.reasons[0]
    assert nowhere.missing[0].reason == ""


@pytest.mark.parametrize(
    ("reason", "stage", "tap", "holds"),
    [
        (FUSED_ATTENTION, "tflite-xnnpack", "block.3.attn.probs", True),
        (FUSED_ATTENTION, "tflite-xnnpack[dynamic_int8]", "block.3.attn.probs", True),
        (FUSED_ATTENTION, "tflite-builtin", "block.3.attn.probs", False),
        (FUSED_ATTENTION, "tflite-xnnpack", "block.3.attn.context", False),
        (FUSED_ATTENTION, "tflite-xnnpack", "logits", False),
        (FUSED_ATTENTION, "reauthored", "block.3.attn.probs", False),
        (FOLDED_NORM, "tflite-builtin", "final_norm", True),
        (FOLDED_NORM, "tflite-builtin", "block.0.attn.q", False),
        (FOLDED_NORM, "reauthored", "final_norm", False),
        (UNDECLARED_POINT, "reauthored", "block.0.mlp.gate", True),
        (UNDECLARED_POINT, "hf", "block.0.mlp.gate", False),
        (UNDECLARED_POINT, "reauthored", "block.0.cache.k", False),
        ("", "tflite-xnnpack", "block.3.attn.probs", False),
    ],
)
def test_a_listed_reason_holds_at_its_own_place_alone(reason: str, stage: str, tap: str, holds: bool) -> None:
    assert checked(Absence("why", reason), stage, tap) == Absence("why", reason if holds else "")


def test_no_reason_excuses_logits_everywhere() -> None:
    assert [name for name, reason in LISTED.items() if "logits" in reason.points and reason.everywhere] == []


def test_of_a_tap_that_several_signatures_lack_a_reason_that_is_not_listed_counts(tmp_path: Path) -> None:
    good, bad = [*listed(NO_PREFILL_LOGITS)], ["decode gives no logits", ""]
    for number, (first, second) in enumerate(((good, bad), (bad, good))):
        plan = tmp_path / f"{number}.json"
        missing = f'{{"one": {{"logits": {first}}}, "two": {{"logits": {second}}}}}'.replace("'", '"')
        plan.write_text(f'{{"sources": {{}}, "missing": {missing}}}')
        assert PlanFacts.read(plan).why_missing("tflite-builtin", "logits") == Absence(*bad)


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"reauthored->tflite": 0.9}, "'reauthored->tflite', which there is not"),
        ({"oracle->tflite-xnnpack": 0.9}, "the hops are hf->reauthored"),
        ({"hf->reauthored ": 0.9}, "which there is not"),
        ({XNNPACK: 1.01}, "a share from 0 to 1"),
        ({XNNPACK: -0.5}, "a share from 0 to 1"),
        ({XNNPACK: 94}, "is 94; give a share"),
        ({XNNPACK: math.nan}, "is nan; give a share"),
        ({XNNPACK: math.inf}, "is inf; give a share"),
        ({XNNPACK: "0.9"}, "is '0.9'; give a share"),
        ({XNNPACK: True}, "is True; give a share"),
        ({XNNPACK: None}, "is None; give a share"),
        ({f"{XNNPACK} [no-hlbf]": 0.9}, "has no meaning at 'no-hlbf'"),
        ({f"{XNNPACK} [no-hlfb": 0.9}, "in brackets"),
        ({f"{XNNPACK} []": 0.9}, "in brackets"),
        ({3: 0.9}, "3, which there is not"),
        (0.9, "give a dict"),
        (None, "give a dict"),
    ],
)
def test_a_coverage_that_no_hop_can_have_is_refused_in_one_line(declared: object, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_coverage(declared, "spec.py: MY_MODEL")
    assert str(caught.value).startswith("spec.py: MY_MODEL: coverage ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hop_that_a_spec_leaves_out_has_the_standard() -> None:
    check_coverage({}, "")
    assert coverage_of({}, Variant()) == STANDARD_COVERAGE
    assert coverage_of({"hf->reauthored": 0, XNNPACK: 1}, Variant()) == {
        **STANDARD_COVERAGE,
        "hf->reauthored": 0,
        XNNPACK: 1,
    }


def test_a_variant_may_need_another_coverage() -> None:
    declared = {XNNPACK: 0.95, f"{XNNPACK} [no-hlfb]": 0.8, f"{XNNPACK} [no-hlfb,kv=transposed]": 0.7}
    check_coverage(declared, "")
    assert coverage_of(declared, Variant())[XNNPACK] == 0.95
    assert coverage_of(declared, Variant(hlfb=False, mask_as_input=True))[XNNPACK] == 0.8
    assert coverage_of(declared, Variant(hlfb=False, kv_layout="transposed"))[XNNPACK] == 0.7
    assert coverage_of({f"{XNNPACK} [no-hlfb]": 0.8}, Variant())[XNNPACK] == STANDARD_COVERAGE[XNNPACK]
