"""NaN and infinity that the stages were given: found where they stand, and charged to whoever gave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record_factory import make_run
from safetensors.numpy import save_file

from harness.audit.finite import file_findings, is_finite, not_finite_words
from harness.audit.values import differing_parameters
from harness.explain.task import explain_task
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.writing import packed
from harness.locate.owners import is_given, ownership
from harness.pipeline.operators import descent_tasks
from harness.pipeline.owned_faults import owned
from harness.record.record import Fault, Finding
from harness.record.tap_row import TapRow, taps_frame
from harness.render.sentences import headline
from harness.render.words import verdict_words
from harness.store.trace import TraceWriter
from harness.weights.parameters import ParameterSource

FIRST, XNNPACK = "hf->reauthored", "reauthored->tflite-xnnpack"
KERNELS = "tflite-builtin[fp16]->tflite-xnnpack[fp16]"
DOWN, OWN = "model.layers.1.mlp.down_proj.weight", "transformer_blocks.1.ff.w2.weight"
TAP = "block.1.mlp.out"
IN_CHECKPOINT = Finding(kind="weights", severity="error", what=f"{DOWN}[3,5] is NaN", owner="checkpoint")
IN_FILE = Finding(kind="weights", severity="error", what="constant c of the fp16 flatbuffer ...", owner="recipe fp16")


def values(shape: tuple[int, ...] = (8, 6), kind: Any = np.float32, **at: float) -> np.ndarray:
    """at: flat index, as `_21`, -> number."""
    made = np.random.default_rng(5).standard_normal(shape).astype(kind)
    for index, number in at.items():
        made.reshape(-1)[int(index.removeprefix("_"))] = number
    return made


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("at", "says"),
    [
        ({"_23": np.nan}, "[3,5] is NaN"),
        ({"_0": np.inf}, "[0,0] is Inf"),
        ({"_47": -np.inf}, "[7,5] is -Inf"),
        (
            {"_23": -np.inf, "_24": np.nan, "_30": np.inf},
            "[3,5] is -Inf, and 2 more of its 48 numbers are NaN or infinite",
        ),
        ({}, ""),
        ({"_3": 65504.0, "_4": 6e-8}, ""),
    ],
)
def test_the_first_number_that_is_not_finite_is_named(kind: Any, at: dict[str, float], says: str) -> None:
    assert not_finite_words(values(kind=kind, **at)) == says


def test_large_numbers_are_finite_although_their_squares_are_not() -> None:
    assert is_finite(np.full((4, 4), 3e38, np.float32))
    assert is_finite(np.full((4, 4), -65504, np.float16))
    assert is_finite(np.zeros((0, 3), np.float32))


def audited(folder: Path, checkpoint: dict[str, np.ndarray], own: np.ndarray) -> list[Finding]:
    save_file(checkpoint, folder / "model.safetensors")
    return differing_parameters({OWN: own}, [ParameterSource(parameter=OWN, keys=[DOWN])], folder)


def test_a_checkpoint_that_holds_nan_is_named_with_the_place_and_no_module_is(tmp_path: Path) -> None:
    weight = values(_23=np.nan)
    (found,) = audited(tmp_path, {DOWN: weight}, weight)
    assert (found.kind, found.severity, found.owner) == ("weights", "error", "checkpoint")
    assert found.what == f"{DOWN}[3,5] is NaN in the checkpoint"


def test_a_parameter_that_is_nan_where_the_checkpoint_is_not_is_the_loaders(tmp_path: Path) -> None:
    (found,) = audited(tmp_path, {DOWN: values()}, values(_23=np.nan))
    assert found.owner == ""
    assert found.what.startswith(f"{OWN} of the re-authored model is not {DOWN}: 1 of 48 numbers differ")


def test_a_tensor_that_no_parameter_is_made_of_is_a_warning(tmp_path: Path) -> None:
    weight = values()
    rest = {"h.0.attn.masked_bias": np.array([-np.inf], np.float32), "h.0.attn.bias": np.ones(3, np.int32)}
    (found,) = audited(tmp_path, {DOWN: weight, **rest}, weight)
    assert (found.severity, found.what) == ("warning", "h.0.attn.masked_bias[0] is -Inf in the checkpoint")


def test_many_tensors_that_are_not_finite_are_a_few_lines(tmp_path: Path) -> None:
    weight = values(_1=np.inf)
    found = audited(tmp_path, {DOWN: weight, **{f"other.{i}": weight for i in range(300)}}, weight)
    assert [finding.severity for finding in found] == ["error"] + ["warning"] * 9
    assert found[-1].what == "292 more tensors of the checkpoint hold numbers that are not finite"


def fault(hop: str) -> Fault:
    return Fault(hop=hop, tap=TAP, block=1, input="a", modules={"reauthored": "transformer_blocks.1.ff.w2"})


@pytest.mark.parametrize("hop", [FIRST, XNNPACK, KERNELS])
@pytest.mark.parametrize("where", [("oracle", "hf"), ("hf",), ("oracle",)])
def test_what_is_not_finite_in_hugging_face_is_the_checkpoints(hop: str, where: tuple[str, ...]) -> None:
    found = ownership(fault(hop), [fault(hop)], [IN_FILE, IN_CHECKPOINT], {}, where)
    assert (found.owner, found.evidence[1]) == ("checkpoint", IN_CHECKPOINT.what)
    without = ownership(fault(hop), [fault(hop)], [], {}, where)
    assert without.owner == "checkpoint"
    assert "the checkpoint holds none itself" in without.evidence[1]


def test_what_is_not_finite_in_the_candidate_alone_is_its_own() -> None:
    assert ownership(fault(FIRST), [fault(FIRST)], [], {}, ("reauthored",)).owner == "re-authoring"
    # A number that is not finite elsewhere in the checkpoint excuses nothing here.
    assert ownership(fault(FIRST), [fault(FIRST)], [IN_CHECKPOINT], {}, ("reauthored",)).owner == "re-authoring"
    assert ownership(fault(XNNPACK), [fault(XNNPACK)], [IN_FILE], {}, ("tflite-xnnpack",)).owner.endswith("xnnpack")
    # What is finite and wrong is a kernel's, whatever else the file holds.
    assert ownership(fault(KERNELS), [fault(KERNELS)], [IN_FILE], {}, ()).owner == "kernels of tflite-xnnpack[fp16]"


@pytest.mark.parametrize("shown", [("tflite-builtin[fp16]",), ("tflite-xnnpack[fp16]",), tuple(KERNELS.split("->"))])
def test_a_recipes_file_that_holds_infinity_is_the_recipes_and_no_kernels(shown: tuple[str, ...]) -> None:
    found = ownership(fault(KERNELS), [fault(KERNELS)], [IN_FILE], {}, shown)
    assert (found.owner, found.evidence[1]) == ("recipe fp16", IN_FILE.what)
    other = IN_FILE.model_copy(update={"owner": "recipe dynamic_int8"})
    alone = ownership(fault(KERNELS), [fault(KERNELS)], [other], {}, ("tflite-builtin[fp16]",))
    assert alone.owner == "kernels of tflite-xnnpack[fp16]"


def test_the_owner_follows_from_the_traces_and_what_comes_after_is_no_fault_of_its_own(tmp_path: Path) -> None:
    sound, spoiled = values((1, 4, 6)), values((1, 4, 6), _3=np.nan)
    for stage in ("oracle", "hf", "reauthored"):
        with TraceWriter(tmp_path / stage / "a", 4) as trace:
            trace.put("block.0.out", spoiled if stage == "reauthored" else sound)
            trace.put(TAP, spoiled)
            trace.put("final_norm", spoiled)
    taps = ["block.0.out", TAP, "final_norm"]
    at = {"model": "m", "input": "a", "hop": FIRST, "block": -1, "order": 0}
    rows = [TapRow(**at, tap=tap, verdict="fail", nan_count=1, inf_count=0) for tap in taps]
    found = owned([fault(FIRST).model_copy(update={"tap": tap}) for tap in taps], taps_frame(rows), [], {}, tmp_path)
    assert [(one.tap, one.owner) for one in found] == [("block.0.out", "re-authoring"), (TAP, "checkpoint")]


def test_what_no_stage_did_is_neither_explained_nor_searched_in_its_operators() -> None:
    given = [fault(hop).model_copy(update={"owner": "checkpoint"}) for hop in (FIRST, XNNPACK)]
    assert all(is_given(one.owner) for one in given)
    record, frame = make_run("fail")
    record = record.model_copy(update={"faults": given})
    assert explain_task(record, frame, None, ("", ""), Path(), Path(), "", "") is None  # type: ignore[arg-type]
    assert descent_tasks(None, None, record, {}) == {}  # type: ignore[arg-type]
    recipes = fault(KERNELS).model_copy(update={"owner": "recipe fp16"})
    assert descent_tasks(None, None, record.model_copy(update={"faults": [recipes]}), {}) == {}  # type: ignore[arg-type]
    assert not is_given("converter")
    assert not is_given("")


def test_the_verdict_accuses_no_model_of_what_it_was_given() -> None:
    record, _ = make_run("fail")
    evidence = ["oracle and hf give NaN or infinity there too", f"{DOWN}[3,5] is NaN in the checkpoint"]
    given = fault(FIRST).model_copy(update={"owner": "checkpoint", "evidence": evidence})
    record = record.model_copy(update={"faults": [given]})
    assert headline(record) == f"Hop hf->reauthored cannot be judged from {TAP} on: {evidence[1]}."
    assert f"cannot be judged from block 1's MLP output on: {evidence[1]}" in verdict_words(record)
    assert "diverges" not in verdict_words(record)


def flatbuffer(path: Path, **constants: np.ndarray) -> FlatbufferModel:
    from ai_edge_litert import schema_py_generated as schema

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.operatorCodes, model.signatureDefs = 3, [graph], [], []
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
    model.buffers = [schema.BufferT()]
    for name, data in constants.items():
        tensor, buffer = schema.TensorT(), schema.BufferT()
        buffer.data = np.frombuffer(data.tobytes(), np.uint8)
        tensor.name, tensor.shape, tensor.buffer = (
            f"a.b.Llama_module/c.d.Block_1/e.{name};other",
            list(data.shape),
            len(model.buffers),
        )
        kinds = {"float16": schema.TensorType.FLOAT16, "float32": schema.TensorType.FLOAT32}
        tensor.type = kinds.get(data.dtype.name, schema.TensorType.INT8)
        model.buffers.append(buffer)
        graph.tensors.append(tensor)
    path.write_bytes(packed(model))
    return FlatbufferModel(path)


@pytest.mark.miniature
def test_a_constant_that_a_recipe_made_infinite_is_named_with_its_count_and_a_mask_is_not(tmp_path: Path) -> None:
    with np.errstate(over="ignore"):
        weight = values(_5=7e4, _9=-1e5).astype(np.float16)
    mask = np.where(np.tri(4) > 0, 0, -np.inf).astype(np.float16)
    file = flatbuffer(
        tmp_path / "m.tflite",
        w2=weight,
        mask=mask,
        mask32=mask.astype(np.float32),
        fill=np.array([-np.inf], np.float32),
        w1=values(kind=np.float16, _1=65504),
        scales=values((4,), _2=np.nan),
        out_of_bounds=np.array([np.nan], np.float32),
        out_of_bounds16=np.array(np.nan, np.float16),
        packed=np.full((4, 4), -1, np.int8),
    )
    found = file_findings(file, "fp16")
    assert [finding.what for finding in found] == [
        "constant Block_1/w2 of the fp16 flatbuffer holds 2 Inf among its 48 numbers: float16 ends at 65,504",
        "constant Block_1/scales of the fp16 flatbuffer holds 1 NaN among its 4 numbers",
    ]
    assert {(finding.kind, finding.severity) for finding in found} == {("weights", "error")}
    assert {finding.owner for finding in found} == {"recipe fp16"}
