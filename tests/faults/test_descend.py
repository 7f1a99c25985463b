"""A wrong tap leads to the operator that makes it wrong, and to whose fault that is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marks import further_but

from harness.bench.breaking import jiggled
from harness.bench.reseed import patch
from harness.bench.workbench import FILE_STAGES, Bench, bench
from harness.flatbuffer.cut import range_between
from harness.flatbuffer.reader import FlatbufferModel, Operator
from harness.flatbuffer.writing import Rewriting
from harness.jobs.reporter import Silent
from harness.operators import job as descend
from harness.operators.checks import check_kernels
from harness.operators.evaluate import Evaluator
from harness.operators.matching import RecordedTaps
from harness.operators.search import Question, find_fault
from harness.stages.litert.ranges import RangeRunner

pytestmark = pytest.mark.slow

Change = Callable[[Rewriting, Operator], None]


def with_operators(model: Bench, stage: str, tap: str, flatbuffer: Path | None = None, plan: Path | None = None) -> Any:
    files = {
        "flatbuffer": flatbuffer or model.flatbuffer,
        "tapped": model.tapped[0],
        "plan": plan or model.tapped[1],
    }
    job = model.job(stage, Path("unused"), None, files).model_copy(update={"search": [tap]})
    found = descend.descend(job, model.model, Silent()).faults.get(tap)
    if found:
        print("\nfault:", stage, tap, found)
    return found


@pytest.mark.parametrize("stage", FILE_STAGES)
@pytest.mark.parametrize("name", further_but(["tiny_llama"], ["tiny_llama", "gemma2"], ["phi3"]))
def test_nothing_is_blamed_in_a_model_without_a_fault(name: str, stage: str) -> None:
    model = bench(name)
    for tap in ("embed", "block.0.attn.q_rope", "block.1.cache.k", "block.1.attn.context", "block.1.out", "logits"):
        assert with_operators(model, stage, tap) is None


# --- the defect of the converter that turns a transpose of K into a reshape ---------------------------------------


@pytest.mark.parametrize(
    ("name", "variant", "stage", "tap"),
    [
        ("gemma1", "default", "tflite-builtin", "block.0.attn.probs"),
        ("gemma1", "default", "tflite-builtin", "block.1.attn.context"),
        pytest.param("gemma3", "default", "tflite-builtin", "block.5.attn.context", marks=pytest.mark.sweep),
        pytest.param("gemma1", "no-hlfb", "tflite-xnnpack", "block.0.attn.probs", marks=pytest.mark.further),
    ],
)
def test_the_reshape_that_should_transpose_k_is_found(name: str, variant: str, stage: str, tap: str) -> None:
    fault = with_operators(bench(name, variant=variant), stage, tap)
    assert (fault.whose, fault.op) == ("converter", "RESHAPE")
    assert "it should transpose axes to (0, 2, 3, 1)" in fault.why
    assert fault.after < 1e-5 < 0.5 < fault.error
    composite = () if variant == "no-hlfb" else ("odml.scaled_dot_product_attention",)
    assert tuple(fault.composites) == composite


def test_where_the_delegate_hides_the_defect_nobody_is_blamed() -> None:
    assert with_operators(bench("gemma1"), "tflite-xnnpack", "block.0.attn.context") is None


# --- operators broken on purpose -----------------------------------------------------------------------------------


def operator_before(model: Bench, signature: str, tap: str, kind: str, occurrence: int = -1) -> Operator:
    """The last operator of a kind before a tap, or an earlier one."""
    from harness.align.plan import AlignmentPlan

    file = FlatbufferModel(model.flatbuffer)
    graph = file.subgraph(file.signatures[signature].subgraph)
    end = graph.producers()[AlignmentPlan.read(model.tapped[1]).sources[signature][tap].tensor].index
    return [op for op in graph.operators[: end + 1] if op.kind == kind][occurrence]


def broken(model: Bench, folder: Path, tap: str, kind: str, change: Change, occurrence: int = -1) -> tuple[Any, Any]:
    """The file with one operator of its prefill changed, its plan, and the operator as it was."""
    op = operator_before(model, "prefill_32", tap, kind, occurrence)
    work = Rewriting(model.flatbuffer)
    change(work, op)
    file = folder / "broken.tflite"
    work.write(file)
    return (file, model.tap(file)[1]), op


def table_of(work: Rewriting, op: Operator) -> Any:
    return work.model.subgraphs[work.signature("prefill_32").subgraphIndex].operators[op.index]


def swap_inputs(work: Rewriting, op: Operator) -> None:
    table_of(work, op).inputs = [op.inputs[1], op.inputs[0]]


def clip(work: Rewriting, op: Operator) -> None:
    table_of(work, op).builtinOptions.fusedActivationFunction = 1


def other_gelu(work: Rewriting, op: Operator) -> None:
    options = table_of(work, op).builtinOptions
    options.approximate = not options.approximate


def sine_for_cosine(work: Rewriting, op: Operator) -> None:
    """Operand 1 of the multiplication becomes that of the one before it."""
    graph = work.model.subgraphs[work.signature("prefill_32").subgraphIndex]
    before = next(
        other
        for other in reversed(graph.operators[: op.index])
        if len(other.inputs) == 2 and int(other.inputs[1]) != op.inputs[1] and work_kind(work, other) == "MUL"
    )
    table_of(work, op).inputs = [op.inputs[0], int(before.inputs[1])]


def work_kind(work: Rewriting, table: Any) -> str:
    from ai_edge_litert import schema_py_generated as schema

    code = work.model.operatorCodes[table.opcodeIndex].builtinCode
    return next(name for name, value in vars(schema.BuiltinOperator).items() if value == code)


def shift_slice(work: Rewriting, op: Operator) -> None:
    """Begin at the start of the last axis instead, from a constant of its own."""
    import copy

    graph = work.model.subgraphs[work.signature("prefill_32").subgraphIndex]
    tensor = copy.copy(graph.tensors[op.inputs[1]])
    buffer = copy.copy(work.model.buffers[tensor.buffer])
    values = np.frombuffer(bytes(buffer.data), "<i4").copy()
    values[-1] = 0
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    tensor.buffer = len(work.model.buffers)
    work.model.buffers.append(buffer)
    graph.tensors.append(tensor)
    table_of(work, op).inputs = [op.inputs[0], len(graph.tensors) - 1, op.inputs[2]]


@pytest.mark.parametrize("stage", FILE_STAGES)
@pytest.mark.parametrize(
    ("name", "tap", "kind", "change", "says"),
    [
        ("tiny_llama", "block.1.attn.q_rope", "SUB", swap_inputs, "order 1, 0"),
        ("tiny_llama", "block.1.attn.q_rope", "CONCATENATION", swap_inputs, "order 1, 0"),
        ("tiny_llama", "block.1.attn.k_rope", "SLICE", shift_slice, "begin at"),
        ("tiny_llama", "block.0.attn.q_rope", "MUL", sine_for_cosine, "should be tensor"),
        ("tiny_llama", "block.1.residual", "ADD", clip, "fusedActivationFunction should be none"),
        ("gemma1", "block.1.mlp.act", "GELU", other_gelu, "approximate should be"),
    ],
)
def test_an_operator_that_was_changed_is_found_with_the_change_that_mends_it(
    name: str, tap: str, kind: str, change: Change, says: str, stage: str, tmp_path: Path
) -> None:
    model = bench(name)
    (file, plan), op = broken(model, tmp_path, tap, kind, change)
    fault = with_operators(model, stage, tap, file, plan)
    assert (fault.whose, fault.op, fault.index) == ("converter", kind, op.index)
    assert says in fault.why
    assert fault.after < 0.05 * fault.error


@pytest.mark.parametrize("stage", FILE_STAGES)
def test_a_weight_that_is_not_the_models_is_named(stage: str, tmp_path: Path) -> None:
    import torch

    llama = bench("tiny_llama")
    work = Rewriting(llama.flatbuffer)
    file = tmp_path / "broken.tflite"
    work.write(file)
    weight = llama.constant("model.layers.1.mlp.down_proj.weight")
    patch(file, weight, jiggled(torch.from_numpy(weight.copy()), 1e-3).numpy())
    fault = with_operators(llama, stage, "block.1.mlp.out", file)
    assert (fault.whose, fault.op) == ("converter", "FULLY_CONNECTED")
    assert f"{weight.size} of {weight.size} numbers differ from transformer_blocks.1.ff.w2.weight" in fault.why


# --- a kernel that does not compute what its operator says ---------------------------------------------------------


def int4_linear(folder: Path) -> tuple[Path, np.ndarray[Any, Any]]:
    """One linear layer with a weight of four bits, a scale per 32 numbers, and an input for it."""
    import litert_torch
    import torch
    from ai_edge_quantizer import qtyping, quantizer

    torch.manual_seed(0)
    given = torch.randn(4, 256)
    litert_torch.convert(torch.nn.Linear(256, 128, bias=False).eval(), (given,)).export(str(folder / "float.tflite"))
    recipe = quantizer.Quantizer(str(folder / "float.tflite"))
    blocks = qtyping.QuantGranularity.BLOCKWISE_32
    name = qtyping.TFLOperationName.FULLY_CONNECTED
    recipe.add_dynamic_config(regex=".*", operation_name=name, num_bits=4, granularity=blocks)
    recipe.quantize().export_model(str(folder / "int4.tflite"))
    return folder / "int4.tflite", given.numpy()


def test_the_reference_kernel_for_int4_in_blocks_is_blamed_and_the_others_are_not(tmp_path: Path) -> None:
    path, given = int4_linear(tmp_path)
    file = FlatbufferModel(path)
    evaluator, graph = Evaluator(file), file.subgraph(0)
    (entry,), (tap,) = file.subgraph_inputs(0), file.subgraph_outputs(0)
    weight = evaluator.constant(0, next(t.index for t in graph.tensors if t.dtype == "INT4"))
    assert weight is not None
    question = Question(
        range_between(file, 0, {entry}, [tap]), {entry: given}, tap, given.astype(np.float64) @ weight.T
    )
    faults = {
        stage: find_fault(evaluator, question, RangeRunner(file, stage), RecordedTaps.of([]), agreed=0.05)
        for stage in ("tflite-xnnpack", "tflite-builtin", "tflite-reference")
    }
    assert faults["tflite-xnnpack"] is None
    assert faults["tflite-builtin"] is None
    fault = faults["tflite-reference"]
    assert fault is not None
    assert (fault.whose, fault.op, fault.index) == ("kernel", "FULLY_CONNECTED", 0)
    assert "times what rounding allows" in fault.why


KERNELS_OF = ("tiny_llama", "gemma2", "tiny_llama:no-hlfb", "phi2", "gemma3:kv=transposed")


@pytest.mark.parametrize("stage", FILE_STAGES)
@pytest.mark.parametrize("name", further_but(KERNELS_OF[:1], KERNELS_OF[:3], KERNELS_OF))
def test_every_kernel_computes_what_its_operator_says(name: str, stage: str) -> None:
    """On random inputs, within composites and out of them; nothing is left out. One model in both signatures."""
    name, _, variant = name.partition(":")
    model = bench(name, variant=variant or "default")
    file, random = FlatbufferModel(model.flatbuffer), np.random.default_rng(0)
    evaluator = Evaluator(file)
    for signature in file.signatures.values() if name == "tiny_llama" else [file.signatures["decode"]]:
        graph = file.subgraph(signature.subgraph)
        inputs = {}
        for key, index in signature.inputs.items():
            shape = graph.tensors[index].shape
            if key == "tokens":
                inputs[index] = random.integers(3, 500, shape).astype(np.int32)
            elif key == "input_pos":
                inputs[index] = np.arange(40, 40 + shape[0], dtype=np.int32)
            else:
                inputs[index] = random.standard_normal(shape).astype(np.float32)
        everything = range(len(graph.operators))
        checked = list(check_kernels(evaluator, graph.index, everything, inputs, RangeRunner(file, stage)))
        assert [(item.operator.kind, item.operator.index, item.ratio) for item in checked if not item.right] == []
        top = {item.operator.index for item in checked if not item.composites}
        assert top == set(everything), "an operator has no definition"
