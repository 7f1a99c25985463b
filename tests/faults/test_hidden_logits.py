"""A flatbuffer that hides its logits cannot pass: renamed or left out, while its head is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bench.workbench import BUILTIN, XNNPACK, bench
from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.signatures import device_shape
from harness.flatbuffer.writing import Rewriting, text

pytestmark = pytest.mark.slow


def without_logits(source: Path, target: Path, signatures: tuple[str, ...], name: str | None) -> FlatbufferModel:
    """The file with a RELU fused into the head, which takes negative logits away, and its logits renamed or gone."""
    from ai_edge_litert import schema_py_generated as schema

    rewriting = Rewriting(source)
    for entry in rewriting.model.signatureDefs:
        output = next(item for item in entry.outputs if text(item.name) == "logits")
        operators = rewriting.model.subgraphs[entry.subgraphIndex].operators
        (head,) = [op for op in operators if output.tensorIndex in op.outputs]
        head.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
        if text(entry.signatureKey) in signatures:
            entry.outputs = [item for item in entry.outputs if item is not output or name is not None]
            output.name = name or "logits"
    rewriting.write(target)
    return FlatbufferModel(target)


def test_a_file_that_hides_its_logits_is_refused_and_one_that_shows_them_fails(tmp_path: Path) -> None:
    llama = bench("tiny_llama")
    dims, path = llama.prepared.dimensions, tmp_path / "m.tflite"
    for signatures, name, says in (
        (("decode", "prefill_32"), "scores", "decode has no output 'logits', and its output 'scores' has one number"),
        (("decode",), "scores", "decode has no output 'logits', and its output 'scores'"),
        (("prefill_32",), "scores", "prefill_32 has no output 'logits', and its output 'scores'"),
        (("decode",), None, "decode has no output 'logits' (it has the KV cache only)"),
    ):
        file = without_logits(llama.flatbuffer, path, signatures, name)
        with pytest.raises(UsageError) as caught:
            device_shape(file, dims.blocks, dims.kv_heads, dims.head_dim, dims.vocab, "tiny_llama")
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
    ships = without_logits(llama.flatbuffer, path, ("prefill_32",), None)
    shape = device_shape(ships, dims.blocks, dims.kv_heads, dims.head_dim, dims.vocab, "tiny_llama")
    assert not shape.prefill_logits
    found = llama.with_flatbuffer(
        lambda file: without_logits(llama.flatbuffer, file, ("decode", "prefill_32"), "scores"), retap=True
    )
    for hop in (BUILTIN, XNNPACK):
        assert found.hops[hop].verdict == "fail"
        assert any("first final_norm: " in reason for reason in found.hops[hop].reasons)
    shown = llama.with_flatbuffer(lambda file: without_logits(llama.flatbuffer, file, (), None), retap=True)
    assert {shown.hops[hop].first_failing_tap for hop in (BUILTIN, XNNPACK)} == {"logits"}
