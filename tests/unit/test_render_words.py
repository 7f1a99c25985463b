"""What the verdict in words promises: who diverges, where and why, who is faithful, and nothing that is not so."""

from __future__ import annotations

from typing import Any

import pytest
from record_factory import FAULTY_TAP, make_run

from harness.record.record import Diagnosis, EarlierLikelihood, Fault, Finding, HopResult, KnownDefect, Record
from harness.render.sentences import breach_words, headline
from harness.render.words import model_words, reach_words, tap_words, text_words, verdict_words

FAITHFUL = "TFLite is faithful to the re-authored model"


def changed(kind: str, **update: Any) -> Record:
    return make_run(kind)[0].model_copy(update=update)


def failing(hop: HopResult, tap: str) -> HopResult:
    return hop.model_copy(update={"verdict": "fail", "first_failing_tap": tap, "reasons": [f"first {tap}"]})


def fault(hop: HopResult, tap: str, **more: Any) -> Fault:
    return Fault(hop=hop.name, tap=tap, block=3, modules={}, **more)


def test_a_fault_of_the_model_leaves_the_flatbuffer_faithful_to_it() -> None:
    said = verdict_words(make_run("fail")[0])
    assert said.startswith("The re-authored model diverges from block 2's MLP output: weight bfloat16. ")
    assert FAITHFUL in said


def test_both_runtimes_that_fail_alike_are_one_sentence_and_each_its_own_otherwise() -> None:
    record = make_run("pass")[0]
    first, xnnpack, builtin = record.hops
    alike = [first, failing(xnnpack, "logits"), failing(builtin, "logits")]
    assert "TFLite on XNNPACK and TFLite on builtin kernels diverge from the logits." in verdict_words(
        changed("pass", verdict="fail", hops=alike)
    )
    unlike = [first, failing(xnnpack, "logits"), failing(builtin, "embed")]
    said = verdict_words(changed("pass", verdict="fail", hops=unlike))
    assert "TFLite on XNNPACK diverges from the logits." in said
    assert "TFLite on builtin kernels diverges from the embedding." in said
    assert FAITHFUL not in said


def test_each_hop_has_the_cause_that_was_found_for_it_and_no_other() -> None:
    record = make_run("pass")[0]
    first, _, builtin = record.hops
    faults = [fault(first, "block.3.attn.norm"), fault(builtin, "block.3.mlp.act")]
    cause = Diagnosis(hypothesis="norm_eps", detail="", explains=1.0, hop=first.name, tap="block.3.attn.norm")
    said = verdict_words(
        changed(
            "pass",
            verdict="fail",
            hops=[failing(first, "block.3.attn.norm"), record.hops[1], failing(builtin, "block.3.mlp.act")],
            faults=faults,
            diagnosis=[cause],
        )
    )
    assert "The re-authored model diverges from block 3's attention norm: norm eps." in said
    assert "TFLite on builtin kernels diverges from block 3's MLP activation." in said
    assert "TFLite on XNNPACK is faithful to the re-authored model" in said


def test_a_known_defect_is_named_at_the_hop_that_shows_it() -> None:
    record = make_run("nan")[0]
    known = KnownDefect(
        id="one-kv-head",
        title="",
        state="seen",
        hop="reauthored->tflite-builtin",
        place="in words",
        measured="",
        found="",
        cause="",
        command="",
    )
    said = verdict_words(record.model_copy(update={"known_defects": [known]}))
    assert "TFLite on builtin kernels diverges from block 3's attention (known upstream defect one-kv-head)." in said
    gone = known.model_copy(update={"state": "elsewhere"})
    assert "known upstream defect" not in verdict_words(record.model_copy(update={"known_defects": [gone]}))


def test_what_an_audit_finds_is_the_verdict_where_every_number_agrees() -> None:
    finding = Finding(kind="config", severity="error", what="rope base differs.")
    said = verdict_words(changed("pass", verdict="fail", findings=[finding, finding]))
    assert said.startswith("An audit of the config fails: rope base differs, and 1 more.")
    assert FAITHFUL in said


@pytest.mark.parametrize(
    ("what", "begins"),
    [
        ("tied_embeddings: published yes, re-authored no", "tied_embeddings: published yes, re-authored no."),
        ("bias: published yes, re-authored no", "bias: published"),
        ("rope.base is not audited", "rope.base is"),
        ("model.layers.0.q.bias of the checkpoint is loaded nowhere", "model.layers.0.q.bias of"),
        ("the weights lack one key", "The weights lack one key."),
        ("weights, all of them, are zero", "Weights, all"),
        ("é", "é"),
    ],
)
def test_a_sentence_begins_with_a_capital_and_a_name_as_it_is_written(what: str, begins: str) -> None:
    finding = Finding(kind="config", severity="error", what=what)
    record = changed("pass", verdict="fail", findings=[finding])
    assert headline(record).startswith(begins)


def test_a_hop_that_could_not_be_compared_is_never_called_faithful() -> None:
    said = verdict_words(make_run("crash")[0])
    assert "Stage tflite-xnnpack crashed. TFLite on XNNPACK could not be compared." in said
    assert "TFLite on builtin kernels is faithful" in said
    assert "TFLite is faithful" not in said


def test_a_run_without_a_hop_says_that_nothing_was_compared() -> None:
    assert verdict_words(changed("crash", hops=[])).endswith("Nothing was compared.")


@pytest.mark.parametrize(
    ("tap", "said"),
    [("embed", "the embedding"), (FAULTY_TAP, "block 2's MLP output"), ("block.0.new", "block 0's new")],
)
def test_a_tap_is_said_in_words(tap: str, said: str) -> None:
    assert tap_words(tap) == said


def test_how_well_the_reference_predicts_text_and_how_far_it_reaches_is_said_in_words() -> None:
    record, frame = make_run("pass")
    said = text_words(record)
    assert "NLL is 3.58 nats per token (perplexity 35.9, 5 tokens); guessing comes to 10.8" in said
    assert text_words(record.model_copy(update={"likelihood": None})) == ""
    earlier = EarlierLikelihood(run_id="20261101-000000-aaaa", nll=3.4, nll_now=3.58, inputs=["prompt"])
    known = record.likelihood.model_copy(update={"earlier": earlier})  # type: ignore[union-attr]
    said = text_words(record.model_copy(update={"likelihood": known}))
    assert said.endswith("guessing comes to 10.8; run 20261101-000000-aaaa had 3.40 on the same text.")
    lost = record.likelihood.model_copy(update={"nll": None, "perplexity": None})  # type: ignore[union-attr]
    assert "NLL is NaN nats" in text_words(record.model_copy(update={"likelihood": lost}))
    assert "reach 5.48e3 (logits, " in reach_words(frame)
    deep = frame.assign(value_min=frame["value_min"].where(frame["tap"] != "embed", -7.1e4))
    assert "reach 7.1e4 (embed, input one-token); float16 ends at 65,504" in reach_words(deep)
    fine, few = frame.assign(subnormal_share=0.0), frame.assign(subnormal_share=0.0)
    few.loc[few.index[2], "subnormal_share"] = 0.034
    said = f" At most 3.4 % of a tap's values are subnormal there, below 6.1e-5 ({few.iloc[2].tap}, input "
    assert said in reach_words(few)
    assert "subnormal" not in reach_words(fine) + reach_words(frame.drop(columns=["subnormal_share"]))
    assert reach_words(frame.drop(columns=["value_min", "value_max"])) == ""
    assert reach_words(frame.assign(value_min=float("nan"), value_max=float("nan"))) == ""


def test_a_quantised_stage_keeps_its_recipe() -> None:
    assert model_words("tflite-xnnpack[dynamic_int8]") == "TFLite on XNNPACK (dynamic_int8)"


def test_a_hop_that_fails_in_its_local_pass_alone_does_not_show_a_figure_within_its_limit() -> None:
    """`FAIL excess 0.512 of 4` looks like a mistake of the report."""
    record, _ = make_run("fail")
    hop = next(hop for hop in record.hops if hop.verdict == "fail")
    fault = next(fault for fault in record.faults if fault.hop == hop.name)
    assert hop.worst is not None
    within = hop.model_copy(update={"worst": hop.worst.model_copy(update={"excess": 0.5})})
    local = fault.model_copy(update={"reason": "local_excess 2.67e+04 > 4; local_position_excess 3.04e+05 > 16"})
    assert breach_words(within, local) == "local excess 2.67e+04 > 4"
    assert breach_words(hop, local) == ""  # the worst excess is past its limit and says so itself
    assert breach_words(within.model_copy(update={"verdict": "pass"}), local) == ""
    assert breach_words(within, None) == ""
