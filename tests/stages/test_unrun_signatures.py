"""A signature that no input of a run takes is named, and its square weights are the right way round all the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_file import graph, operator, packed, tensor

from harness.audit.constants import audit_constants
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.signatures import can_run, prefill_length
from harness.flatbuffer.writing import tensor_map
from harness.jobs.job import JobInput
from harness.pipeline.flatbuffers import not_run_findings
from harness.weights.parameters import ParameterSource

pytestmark = pytest.mark.slow

WEIGHT = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
PARAMETER = "transformer_blocks.0.ff.w1.weight"
# How an operator may read the weight: its kind, `adjY`, and whether a TRANSPOSE stands before it.
DENSE, MATMUL, ADJOINT, AFTER = (
    ("FULLY_CONNECTED", False, False),
    ("BATCH_MATMUL", False, False),
    ("BATCH_MATMUL", True, False),
    ("BATCH_MATMUL", False, True),
)
KINDS = ("FULLY_CONNECTED", "BATCH_MATMUL", "TRANSPOSE")


def subgraph(model: Any, weight: Any, way: tuple[str, bool, bool]) -> int:
    """One more subgraph, which multiplies its input by a constant of its own. Its number."""
    from ai_edge_litert import schema_py_generated as schema

    kind, adjoint, turned = way
    for values in (np.ascontiguousarray(weight), np.array([1, 0], np.int32)):
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = values.reshape(-1).view(np.uint8)
    last = len(model.buffers) - 1
    tensors = [tensor(schema, "x", [1, 8]), tensor(schema, "w", [8, 8], last - 1), tensor(schema, "y", [1, 8]),
               tensor(schema, "order", [2], last, "INT32"), tensor(schema, "w turned", [8, 8])]  # fmt: skip
    product = operator(schema, KINDS.index(kind), [0, 4 if turned else 1], [2])
    if kind == "BATCH_MATMUL":
        product.builtinOptionsType = schema.BuiltinOptions.BatchMatMulOptions
        product.builtinOptions = schema.BatchMatMulOptionsT()
        product.builtinOptions.adjY = adjoint
    before = [operator(schema, KINDS.index("TRANSPOSE"), [1, 3], [4])] if turned else []
    model.subgraphs.append(graph(tensors, [*before, product], [0], [2]))
    return len(model.subgraphs) - 1


def audited(folder: Path, **signatures: tuple[Any, tuple[str, bool, bool]]) -> list[tuple[str, str]]:
    """Severity and words of what is found in a file whose signatures read a weight each in their own way."""
    from ai_edge_litert import schema_py_generated as schema
    from safetensors.numpy import save_file

    model = schema.ModelT()
    model.version, model.description = 3, "small"
    model.buffers, model.subgraphs, model.signatureDefs, model.operatorCodes = [schema.BufferT()], [], [], []
    for kind in KINDS:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = code.builtinCode
        model.operatorCodes.append(code)
    for name, (weight, way) in signatures.items():
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = name, subgraph(model, weight, way)
        signature.inputs, signature.outputs = [tensor_map("tokens", 0)], [tensor_map("logits", 2)]
        model.signatureDefs.append(signature)
    file = folder / "m.tflite"
    file.write_bytes(packed(model))
    save_file({"up.weight": WEIGHT}, folder / "model.safetensors")
    source = ParameterSource(parameter=PARAMETER, keys=["up.weight"])
    return [
        (finding.severity, finding.what)
        for finding in audit_constants(FlatbufferModel(file), [source], folder).findings
    ]


RIGHT: dict[str, tuple[Any, tuple[str, bool, bool]]] = {
    "as it is in a linear layer": (WEIGHT, DENSE),
    "transposed in a product": (WEIGHT.T, MATMUL),
    "as it is in a product that takes its adjoint": (WEIGHT, ADJOINT),
    "as it is before a TRANSPOSE": (WEIGHT, AFTER),
}
WRONG: dict[str, tuple[Any, tuple[str, bool, bool]]] = {
    "transposed in a linear layer": (WEIGHT.T, DENSE),
    "as it is in a product": (WEIGHT, MATMUL),
    "transposed in a product that takes its adjoint": (WEIGHT.T, ADJOINT),
    "transposed before a TRANSPOSE": (WEIGHT.T, AFTER),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("decode", RIGHT)
def test_a_square_weight_that_an_operator_takes_as_it_is_stored_is_right(
    name: str, decode: str, tmp_path: Path
) -> None:
    assert audited(tmp_path, decode=RIGHT[decode], verify=RIGHT[name]) == []


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("decode", RIGHT)
def test_a_square_weight_that_is_the_wrong_way_round_in_a_signature_that_is_not_run_is_an_error(
    name: str, decode: str, tmp_path: Path
) -> None:
    ((severity, what),) = audited(tmp_path, decode=RIGHT[decode], verify=WRONG[name])
    assert severity == "error"
    assert PARAMETER in what
    assert f"{WRONG[name][1][0]} of signature verify takes it the other way round" in what


def test_where_a_signature_is_run_its_numbers_tell_which_way_round_is_right(tmp_path: Path) -> None:
    """A model of its user's own may keep its weights the other way round than a linear layer does."""
    turned = WRONG["transposed in a linear layer"]
    assert audited(tmp_path, decode=turned, prefill_8=turned, verify=turned) == []
    assert audited(tmp_path, decode=turned, verify=RIGHT["as it is in a linear layer"])


def test_a_weight_that_is_not_a_parameter_is_an_error_in_a_signature_that_is_not_run(tmp_path: Path) -> None:
    ((severity, what),) = audited(tmp_path, decode=(WEIGHT, DENSE), verify=(WEIGHT * np.float32(1.001), DENSE))
    assert severity == "error"
    assert "verify alone reads, is not transformer_blocks.0.ff.w1.weight" in what


def not_run(names: list[str], *inputs: tuple[int, int]) -> list[str]:
    """inputs: length and decode tail of each."""
    items = [JobInput(id=str(i), tokens=[1] * length, decode_tail=tail) for i, (length, tail) in enumerate(inputs)]
    lengths = sorted(length for name in names if (length := prefill_length(name)) is not None)
    prepared: Any = SimpleNamespace(inputs=items, prefill=lengths, kv_cache_len=64)
    file: Any = SimpleNamespace(signatures=dict.fromkeys(names))
    found = not_run_findings(file, prepared)
    assert {(finding.kind, finding.severity) for finding in found} <= {("runtime", "warning")}
    return [finding.what for finding in found]


def test_signatures_that_no_input_takes_are_named() -> None:
    usual = ["decode", "prefill_8", "prefill_32"]
    assert not_run(usual, (40, 1)) == []
    (one,) = not_run([*usual, "verify"], (40, 1))
    assert one.startswith("signature verify of the flatbuffer was not run: Edge Parity runs decode and prefill_N alone")
    (two,) = not_run([*usual, "verify", "prefill_32_pixel"], (40, 1))
    assert two.startswith("signatures verify and prefill_32_pixel of the flatbuffer were not run: ")
    (short,) = not_run(usual, (6, 1))
    assert short.startswith("signature prefill_32 of the flatbuffer was not run: no input takes it")
    (prefilled,) = not_run(usual, (6, 0), (20, 0))
    assert prefilled.startswith("signature decode of the flatbuffer was not run: no input takes it")
    assert len(not_run([*usual, "verify"], (6, 1))) == 2


@pytest.mark.parametrize("name", ["decode", "prefill_1", "prefill_1024"])
def test_what_takes_a_text_through_the_model_has_one_of_two_names(name: str) -> None:
    assert can_run(name)


@pytest.mark.parametrize(
    "name",
    ["verify", "prefill", "prefill_", "prefill_0", "prefill_08", "prefill_8_lora", "prefill_²", "Decode", "decode_"],
)
def test_other_names_are_of_signatures_that_are_not_run(name: str) -> None:
    assert not can_run(name)
