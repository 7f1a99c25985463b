"""Whose a fault is follows from the hops that show it and from what the audits found at the same place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.judge.rules import Judgement, judge, judge_local, load_rules
from harness.locate.beyond_float32 import beyond_float32
from harness.locate.faults import locate, summarise_hop
from harness.locate.owners import ownership
from harness.names.codes import FindingCode
from harness.names.sample import Sample
from harness.names.stages import Hop
from harness.pipeline.owned_faults import owned
from harness.record.faults import BrokenFloor
from harness.record.record import Fault, Finding
from harness.record.tap_row import TapRow, taps_frame
from harness.store.trace import TraceWriter

FIRST, XNNPACK, BUILTIN = "hf->reauthored", "reauthored->tflite-xnnpack", "reauthored->tflite-builtin"
BOTH: dict[str, list[str]] = {"tflite-xnnpack": [], "tflite-builtin": []}


def fault(hop: str = FIRST, tap: str = "block.1.attn.norm", module: str = "transformer_blocks.1.pre_atten_norm"):
    block = int(tap.split(".")[1]) if tap.startswith("block") else None
    return Fault(hop=hop, tap=tap, block=block, modules={"reauthored": module}, local_excess=90.0)


def config(field: str, blocks: list[int], severity: str = "error") -> Finding:
    return Finding(
        kind="config", severity=severity, what=f"{field}: published 1, re-authored 2", field=field, blocks=blocks
    )


def weights(code: FindingCode, parameter: str) -> Finding:
    return Finding(kind="weights", code=code, severity="error", what="in words", parameter=parameter)


NORM = "transformer_blocks.1.pre_atten_norm.weight"
WRONG_NORM = weights(FindingCode.PARAMETER_DIFFERS, NORM)
WRONG_CONSTANT = weights(FindingCode.CONSTANT_DIFFERS, NORM)


def test_a_first_hop_that_no_audit_explains_is_the_reauthoring():
    assert ownership(fault(), [fault()], [], {}).owner == "re-authoring"


def test_a_config_finding_owns_the_fault_where_its_field_acts_and_nowhere_else():
    eps = config("pre_attention.eps", [0, 1])
    found = ownership(fault(), [fault()], [eps], {})
    assert found.owner == "config"
    assert eps.what in found.evidence
    assert ownership(fault(), [fault()], [config("pre_attention.eps", [0])], {}).owner == "re-authoring"
    assert ownership(fault(), [fault()], [config("rope.base", [1])], {}).owner == "re-authoring"
    assert ownership(fault(), [fault()], [config("pre_attention.eps", [1], "warning")], {}).owner == "re-authoring"


def test_a_field_that_the_class_ignores_is_a_config_too():
    last = fault(tap="logits", module="lm_head")
    assert ownership(last, [last], [config("final_logit_softcap", [])], {}).owner == "config"


def test_weights_that_differ_by_value_own_the_fault_of_their_module():
    assert ownership(fault(), [fault()], [config("pre_attention.eps", [1]), WRONG_NORM], {}).owner == "weights"
    assert ownership(fault(), [fault()], [WRONG_CONSTANT], {}).owner == "re-authoring", "the file is not run here"
    elsewhere = fault(tap="block.1.mlp.norm", module="transformer_blocks.1.post_atten_norm")
    assert ownership(elsewhere, [elsewhere], [WRONG_NORM], {}).owner == "re-authoring"


def test_a_constant_that_decode_alone_reads_is_not_held_against_the_re_authored_model():
    decode = weights(FindingCode.CONSTANT_DIFFERS_IN_PART, NORM)
    assert ownership(fault(), [fault()], [decode], {}).owner == "re-authoring"


def test_tied_and_unnamed_modules_are_found_by_what_they_hold():
    embed = fault(tap="embed", module="transformer_blocks.0")
    found = weights(FindingCode.PARAMETER_DIFFERS, "tok_embedding.weight")
    assert ownership(embed, [embed], [found], {}).owner == "weights"


def test_what_both_runtimes_show_at_one_tap_is_the_converters():
    faults = [fault(XNNPACK), fault(BUILTIN)]
    found = ownership(faults[0], faults, [], BOTH)
    assert found.owner == "converter"
    assert "tflite-builtin" in found.evidence[0]


def test_what_one_runtime_shows_alone_is_its_kernels():
    faults = [fault(BUILTIN), fault(XNNPACK, tap="block.1.out")]
    assert ownership(faults[0], faults, [], BOTH).owner == "kernels of tflite-builtin"


def test_with_one_runtime_nobody_can_tell_converter_from_kernels():
    alone = fault(XNNPACK)
    assert ownership(alone, [alone], [], {"tflite-xnnpack": []}).owner == "converter or kernels of tflite-xnnpack"


def test_a_constant_of_the_file_that_is_not_the_checkpoints_is_a_matter_of_weights():
    faults = [fault(XNNPACK), fault(BUILTIN)]
    assert ownership(faults[0], faults, [WRONG_CONSTANT], BOTH).owner == "weights"


def test_outputs_that_change_when_tensors_are_kept_are_the_memory_planners():
    observers = {**BOTH, "tflite-builtin": ["short: decode at position 5"]}
    found = ownership(fault(BUILTIN), [fault(BUILTIN)], [WRONG_CONSTANT], observers)
    assert found.owner == "memory planner"
    assert "decode at position 5" in found.evidence[0]


def of_recipe(key: str, recipe: str = "fp16") -> Finding:
    code = FindingCode.RECIPE_WEIGHT_WRONG
    return Finding(kind="weights", code=code, severity="error", what="is wrong", owner=f"recipe {recipe}", key=key)


RUNTIME = "fakequant[fp16]->tflite-xnnpack[fp16]"


def test_a_runtime_is_not_charged_with_a_weight_that_is_wrong_by_reading_it():
    """It need not take what no recipe would write."""
    found = fault(RUNTIME, "block.1.attn.k")
    assert ownership(found, [found], [of_recipe("block.1.attn.q")], {}).owner == "recipe fp16"
    up = fault(RUNTIME, "block.1.mlp.up")
    assert ownership(up, [up], [of_recipe("block.1.mlp.gate")], {}).evidence == ("is wrong",)


def test_a_runtime_is_charged_where_another_weight_or_another_recipes_is_wrong():
    found = fault(RUNTIME, "block.1.attn.k")
    for other in (of_recipe("block.0.attn.q"), of_recipe("block.1.mlp.gate"), of_recipe("block.1.attn.q", "int8"),
                  of_recipe("")):  # fmt: skip
        assert ownership(found, [found], [other], {}).owner == "kernels of tflite-xnnpack[fp16]"


def test_what_both_runtimes_show_of_one_file_is_the_files():
    """A file that somebody gives may have norms of another checkpoint, which nothing compares."""
    found = fault("fakequant[file]->tflite-xnnpack[file]")
    other = fault("fakequant-builtin[file]->tflite-builtin[file]")
    assert ownership(found, [found, other], [], {}).owner == "recipe file"
    for no_partner in (
        fault("fakequant-builtin[fp16]->tflite-builtin[fp16]"),
        fault("fakequant-builtin[file]->tflite-builtin[file]", "block.1.attn.q"),
        fault("reauthored->fakequant[file]"),
    ):
        assert ownership(found, [found, no_partner], [], {}).owner == "kernels of tflite-xnnpack[file]"


def test_infinity_out_of_a_file_that_holds_it_is_the_recipes():
    found = fault(RUNTIME, "block.1.mlp.out")
    spoiled = of_recipe("")
    assert ownership(found, [found], [spoiled], {}, not_finite=["tflite-xnnpack[fp16]"]).owner == "recipe fp16"
    assert ownership(found, [found], [], {}, not_finite=["tflite-xnnpack[fp16]"]).owner.startswith("kernels")


def test_attention_as_one_kernel_shows_its_probabilities_at_its_output():
    inner, outer = fault(BUILTIN, tap="block.0.attn.probs"), fault(XNNPACK, tap="block.0.attn.context")
    assert ownership(outer, [outer, inner], [], BOTH).owner == "converter"
    assert ownership(inner, [outer, inner], [], BOTH).owner == "converter"
    # One runs it as a kernel, the other as the graph that the converter wrote: their difference is not a proof.
    assert ownership(inner, [inner], [], BOTH).owner == "converter or kernels of tflite-builtin"


FLOOR = "noise_floor"
WITHIN = {"excess": 1.0, "position_excess": 1.0, "noise_floor": 1.0, "nan_count": 0, "inf_count": 0}


def row_of(*judgements: Judgement, hop: str = FIRST, tap: str = "block.1.attn.norm", **more: Any) -> TapRow:
    """A row that fails by these judgements, as a run makes it."""
    return TapRow(
        model="m",
        input="a",
        hop=hop,
        tap=tap,
        block=1,
        order=0,
        verdict="fail",
        noise_floor=1.0,
        broken=", ".join(one.codes for one in judgements),
        noise_floor_limit=judgements[0].limits[FLOOR],
        why="; ".join(one.why for one in judgements),
        **more,
    )


def judged(hop: str = FIRST, **figures: float) -> Judgement:
    return judge(load_rules(), "m", hop, "block.1.attn.norm", 9, WITHIN | figures)


def beyond(reach: float, *judgements: Judgement, hop: str = FIRST) -> str:
    given = judgements or (judged(hop),)
    frame = taps_frame([row_of(*given, hop=hop, value_min=-reach, value_max=reach / 2)])
    failing = summarise_hop(Hop.parse(hop), frame, ["block.1.attn.norm"], None, 0.0)
    (at,) = locate([failing], frame, {}, {})
    return beyond_float32(at, frame)


@pytest.mark.parametrize("hop", [FIRST, XNNPACK, BUILTIN])
def test_what_float32_cannot_compute_is_the_checkpoints_and_no_candidates(hop: str):
    assert judged(hop).broken == (FLOOR,)
    said = beyond(1e-59, hop=hop)
    found = ownership(fault(hop), [fault(hop)], [WRONG_NORM, WRONG_CONSTANT], BOTH, beyond_float32=said)
    assert found.owner == "checkpoint"
    assert hop.split("->")[1] in found.evidence[0]
    assert "differ there by 1 relative (limit 0.001)" in found.evidence[1]
    assert "float32 cannot compute this tap" in found.evidence[1]


def test_denormals_are_named_where_the_tap_has_nothing_larger():
    assert "at most 5e-59, and below 1.18e-38 float32 has denormals alone" in beyond(5e-59)
    for reach in (1e-37, 0.0, 3.0, float("nan")):
        assert beyond(reach)
        assert "denormals" not in beyond(reach)


@pytest.mark.parametrize("figure", ["excess", "position_excess", "nan_count"])
def test_a_candidate_that_breaks_a_limit_of_its_own_is_not_excused_by_the_floor(figure: str):
    whole = judged(**{figure: 99.0})
    assert set(whole.broken) == {FLOOR, figure}
    assert beyond(1e-59, whole) == ""
    introduced = {"local_excess": 99.0, "local_position_excess": 1.0}
    local = judge_local(load_rules(), "m", FIRST, "block.1.attn.norm", 9, introduced)
    assert beyond(1e-59, judged(), local) == ""
    assert beyond(1e-59, judged(noise_floor=1e-9, excess=99.0)) == ""
    assert ownership(fault(), [fault()], [], {}, beyond_float32=beyond(1e-59, whole)).owner == "re-authoring"


def test_a_run_charges_the_noise_floor_to_the_checkpoint_once_per_hop(tmp_path):
    taps = ["block.0.attn.out", "block.0.mlp.act"]
    rows = [row_of(judged(), tap=tap, value_max=1e-59) for tap in taps]
    floor = BrokenFloor(value=1.0, limit=1e-3)
    faults = [Fault(hop=FIRST, tap=tap, block=0, input="a", modules={}, floor=floor) for tap in taps]
    (found,) = owned(faults, taps_frame(rows), [], {}, tmp_path)
    assert (found.tap, found.owner) == (taps[0], "checkpoint")


def test_a_spec_that_replaces_code_of_torch_owns_every_fault_of_its_run():
    replaced = Finding(kind="runtime", severity="error", what="own.py replaces torch.nn.functional.silu", owner="spec")
    eps = config("pre_attention.eps", [0, 1])
    for hop in (FIRST, XNNPACK, BUILTIN):
        found = ownership(fault(hop), [fault(hop)], [eps, replaced], BOTH)
        assert found.owner == "spec"
        assert replaced.what in found.evidence
    of_transformers = replaced.model_copy(update={"owner": ""})
    assert ownership(fault(), [fault()], [of_transformers], {}).owner == "re-authoring", "the reference runs without it"


def test_a_constant_that_differs_owns_the_fault_of_a_runtime_and_its_kernels_do_not():
    hops = "fakequant[file]->tflite-xnnpack[file]", "fakequant-builtin[file]->tflite-builtin[file]"
    faults = [fault(hop) for hop in hops]
    in_part = weights(FindingCode.CONSTANT_DIFFERS_IN_PART, NORM)
    for finding in (WRONG_CONSTANT, in_part):
        for shown in (faults, faults[:1]):  # on one runtime alone as well
            found = ownership(faults[0], shown, [finding], {})
            assert (found.owner, found.evidence[-1]) == ("recipe file", "in words")
    elsewhere = weights(FindingCode.CONSTANT_DIFFERS, "transformer_blocks.0.pre_atten_norm.weight")
    assert ownership(faults[0], faults[:1], [elsewhere], {}).owner == "kernels of tflite-xnnpack[file]"


@pytest.mark.parametrize(
    ("broken", "at", "says"),
    [
        (["position_excess"], 5, "of block.0.residual before it 2 of 8 positions were compared, and position 5"),
        (["position_excess"], 1, "what goes into block.0.out is"),  # there the taps before it were compared
        (["local_position_excess"], 5, "what goes into block.0.out is"),  # the local pass decides
    ],
)
def test_taps_that_were_not_compared_where_the_fault_is_are_not_said_to_agree(
    broken: list[str], at: int, says: str, tmp_path: Path
) -> None:
    values = np.ones((1, 8, 4), np.float32)
    with TraceWriter(tmp_path / "reauthored" / "a", 8, sample=Sample((0, 1))) as trace:
        trace.put("block.0.residual", values)
        trace.put("block.0.out", values)
    row = {"model": "m", "input": "a", "hop": FIRST, "block": 0, "nan_count": 0, "inf_count": 0}
    rows = [
        TapRow(**row, tap="block.0.residual", order=0, verdict="pass"),
        TapRow(**row, tap="block.0.out", order=1, verdict="fail", worst_position=at),
    ]
    one = fault(FIRST, "block.0.out", "transformer_blocks.0").model_copy(update={"input": "a", "broken": broken})
    (found,) = owned([one], taps_frame(rows), [], {}, tmp_path)
    assert found.evidence[0].find(says) >= 0, found.evidence
