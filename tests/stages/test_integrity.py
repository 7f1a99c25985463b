"""A flatbuffer that a person gives is whole, or one line says what is wrong with it; nothing runs it before."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_file import packed, small, tensor

from harness.bench.graph import rewrite
from harness.bench.workbench import bench
from harness.errors import UsageError
from harness.flatbuffer.integrity import check_integrity
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.signatures import device_shape
from harness.flatbuffer.writing import Rewriting, tensor_map, text
from harness.pipeline.flatbuffers import readable
from harness.pipeline.options import Options, recipe_of_file

pytestmark = pytest.mark.slow


def write(folder: Path, change: Callable[[Any], Any] = lambda model: None) -> Path:
    model = small()
    change(model)
    path = folder / "m.tflite"
    path.write_bytes(packed(model))
    return path


def outside(model: Any, offset: int, size: int) -> None:
    model.buffers[1].data, model.buffers[1].offset, model.buffers[1].size = None, offset, size


def main(model: Any) -> Any:
    return model.subgraphs[0]


DAMAGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no subgraph": (lambda m: (setattr(m, "subgraphs", []), setattr(m, "signatureDefs", [])), "no subgraph"),
    "signature of a subgraph that is not there": (
        lambda m: setattr(m.signatureDefs[0], "subgraphIndex", 7), "signature decode is subgraph 7, and there are 2"),
    "signature of a tensor that is not there": (
        lambda m: setattr(m.signatureDefs[0].inputs[0], "tensorIndex", 99), "'tokens' of signature decode is tensor"),
    "two signatures of one name": (
        lambda m: m.signatureDefs.append(copy.deepcopy(m.signatureDefs[0])), "2 of its signatures are called decode"),
    "signature without operators": (
        lambda m: setattr(main(m), "operators", []), "signature decode is subgraph 0, which has no operators"),
    "negative shape": (lambda m: setattr(main(m).tensors[2], "shape", [2, -4]), "has the shape [2, -4]"),
    "shape of terabytes": (lambda m: setattr(main(m).tensors[2], "shape", [1 << 20, 1 << 20]), "more than 8 GB"),
    "constant shorter than its shape": (
        lambda m: setattr(main(m).tensors[1], "shape", [4, 4]), "has 32 bytes, and its shape [4, 4] takes 64"),
    "tensor of a buffer that is not there": (
        lambda m: setattr(main(m).tensors[1], "buffer", 40), "lies in buffer 40, and there are 2"),
    "buffer after the end of the file": (lambda m: outside(m, 1 << 40, 32), "truncated"),
    "buffer that ends after the end of the file": (lambda m: outside(m, 64, 1 << 40), "truncated"),
    "operator that reads what is not there": (
        lambda m: setattr(main(m).operators[1], "inputs", [2, 50]), "operator 1 (ADD) of subgraph 0 reads a tensor"),
    "operator that writes what is not there": (
        lambda m: setattr(main(m).operators[1], "outputs", [-1]), "writes a tensor that there is not"),
    "operator that writes a constant": (
        lambda m: setattr(main(m).operators[1], "outputs", [1]), "writes a tensor that is an input, a constant"),
    "operators that wait for each other": (
        lambda m: setattr(main(m).operators[0], "inputs", [0, 3]), "reads tensor 3, which is written after it"),
    "operator of no known kind": (
        lambda m: setattr(main(m).operators[1], "opcodeIndex", 9), "lead outside the file"),
    "composite of a subgraph that is not there": (
        lambda m: setattr(main(m).operators[0].builtinOptions2, "decompositionSubgraphIndex", 5), "calls subgraph 5"),
    "composite within itself": (
        lambda m: m.subgraphs[1].operators.__setitem__(0, main(m).operators[0]), "calls itself"),
    "composite that takes other inputs": (
        lambda m: setattr(m.subgraphs[1], "inputs", [0]), "has 2 inputs, and the subgraph that it stands for has 1"),
    "output that is not there": (lambda m: setattr(main(m), "outputs", [9]), "is not a tensor of it"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_tables_are_refused_by_name_and_never_followed(name: str, tmp_path: Path) -> None:
    change, says = DAMAGES[name]
    path = write(tmp_path, change)
    with pytest.raises(UsageError) as raised:
        check_integrity(path)
    line = str(raised.value)
    assert says in line
    assert str(path) in line
    assert "again" in line
    assert "\n" not in line


def test_whole_tables_are_let_through(tmp_path: Path) -> None:
    assert check_integrity(write(tmp_path)).signatures["decode"].inputs == {"tokens": 0}


def cached(model: Any, decode: list[int], prefill: int) -> None:
    """A second signature, and a KV cache that both give."""
    from ai_edge_litert import schema_py_generated as schema

    for index, shape in ((0, [1, 8, 2, 2]), (1, decode)):
        model.subgraphs[index].tensors.append(tensor(schema, "cache", shape))
        model.subgraphs[index].inputs = [*model.subgraphs[index].inputs, len(model.subgraphs[index].tensors) - 1]
    main(model).operators[0].inputs = [0, 1, 4]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = f"prefill_{prefill}", 1
    signature.inputs = [tensor_map("tokens", 0), tensor_map("input_pos", 1), tensor_map("kv_cache_k_0", 3)]
    signature.outputs = [tensor_map("kv_cache_k_0", 3)]
    model.signatureDefs[0].inputs.append(tensor_map("kv_cache_k_0", 4))
    model.signatureDefs.append(signature)


def test_signatures_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    check_integrity(write(tmp_path, lambda model: cached(model, [1, 8, 2, 2], 4)))
    with pytest.raises(UsageError, match=r"'kv_cache_k_0' is \[1, 8, 2, 2\] and, in prefill_4, \[1, 9, 2, 2\]"):
        check_integrity(write(tmp_path, lambda model: cached(model, [1, 9, 2, 2], 4)))
    with pytest.raises(UsageError, match=r"prefill_512 has tokens and positions of \[\(4,\), \(512,\)\]"):
        check_integrity(write(tmp_path, lambda model: cached(model, [1, 8, 2, 2], 512)))


def changed_signature(path: Path, name: str, change: Callable[[Any, Any], Any]) -> Path:
    """A real file whose signature is changed. change: is given the model and the signature."""

    def edit(model: Any) -> None:
        (entry,) = (entry for entry in model.signatureDefs if text(entry.signatureKey) == name)
        change(model, entry)

    shutil.copy(bench("tiny_llama").flatbuffer, path)
    rewrite(path, edit)
    return path


def without(side: str, name: str) -> Callable[[Any, Any], Any]:
    def change(model: Any, entry: Any) -> None:
        setattr(entry, side, [item for item in getattr(entry, side) if text(item.name) != name])

    return change


def smaller(model: Any, entry: Any) -> None:
    """A cache that one step gives on shorter than the next one takes it."""
    (index,) = (item.tensorIndex for item in entry.outputs if text(item.name) == "kv_cache_k_1")
    model.subgraphs[entry.subgraphIndex].tensors[index].shape = np.array([1, 8, 2, 64], np.int32)


@pytest.mark.parametrize("signature", ["decode", "prefill_32"])
@pytest.mark.parametrize(
    ("change", "says"),
    [(without("outputs", "kv_cache_v_1"), "lacks the output 'kv_cache_v_1'"),
     (without("inputs", "kv_cache_v_0"), "lacks the input 'kv_cache_v_0'"),
     (without("inputs", "input_pos"), "lacks the input 'input_pos'"),
     (smaller, "takes 'kv_cache_k_1' as FLOAT32 [1, 256, ")],
    ids=["a cache that is not given on", "a cache that is not taken", "no positions", "a cache of another shape"],
)  # fmt: skip
def test_a_signature_that_does_not_take_and_give_the_whole_kv_cache_is_refused_in_one_line(
    signature: str, change: Callable[[Any, Any], Any], says: str, tmp_path: Path
) -> None:
    path = changed_signature(tmp_path / "m.tflite", signature, change)
    dims = bench("tiny_llama").prepared.dimensions
    with pytest.raises(UsageError) as raised:
        device_shape(FlatbufferModel(path), dims.blocks, dims.kv_heads, dims.head_dim, dims.vocab, "tiny_llama")
    assert f"{path}: {signature} {says}" in str(raised.value)
    assert "\n" not in str(raised.value)


def opened(path: Path) -> str:
    """ "whole", or "refused" by all that reads a user's file before anything runs it.

    Each way in is asked by itself, with nothing before it: `inspect` and `compare`, what takes a file apart, `run`.
    """
    ways = (check_integrity, unpacked, lambda file: recipe_of_file(Options("tiny_llama", Path("out"), tflite=file)))
    said = [refused_by(path, lambda way=way: way(path)) for way in ways]  # type: ignore[misc]
    assert said[0] == said[2]
    return "refused" if "refused" in said else "whole"


def unpacked(path: Path) -> None:
    with readable(path, own=True):
        Rewriting(path)


def refused_by(path: Path, reads: Callable[[], Any]) -> str:
    line = ""
    try:
        reads()
    except UsageError as error:
        line = str(error)
    assert not line or (str(path) in line and "\n" not in line)
    return "refused" if line else "whole"


def test_no_byte_of_the_tables_can_be_changed_so_that_more_than_a_line_comes_of_it(tmp_path: Path) -> None:
    whole = packed(small())
    path = tmp_path / "m.tflite"
    outcomes = []
    for at in (place for place in range(len(whole)) if not 4 <= place < 8):
        for value in {whole[at] ^ 0x80, 0} - {whole[at]}:
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            outcomes.append(opened(path))
    assert outcomes.count("refused") > len(outcomes) / 4
    assert outcomes.count("whole") > 0


def test_no_cut_leaves_more_than_a_line(tmp_path: Path) -> None:
    whole = packed(small())
    path = tmp_path / "m.tflite"
    for size in range(len(whole) - 8):
        path.write_bytes(whole[:size])
        assert opened(path) == "refused"
    path.write_bytes(whole[:4] + b"TFL2" + whole[8:])
    assert opened(path) == "refused"


def test_flipped_bytes_of_a_real_file_are_refused_in_one_line_or_leave_a_file_that_reads_as_one(tmp_path: Path) -> None:
    source = bench("tiny_llama").flatbuffer
    whole, tables = source.read_bytes(), table_bytes(FlatbufferModel(source))
    chance = random.Random(0)
    path = tmp_path / "m.tflite"
    outcomes = []
    for _ in range(25):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 1, 8))):
            content[chance.choice(tables)] = chance.choice((0, 255, chance.randrange(256)))
        path.write_bytes(content)
        outcomes.append(opened(path))
        if outcomes[-1] == "whole":
            refused_by(path, lambda: device_shape(FlatbufferModel(path), 2, 2, 64, 512, "tiny_llama"))
    assert set(outcomes) == {"refused", "whole"}


def table_bytes(file: FlatbufferModel) -> list[int]:
    """Places outside of what constants hold."""
    places, end = [], 0
    held = [np.asarray(file.buffer(index)) for index in range(file.buffer_count)]
    base = np.frombuffer(file._map, np.uint8).__array_interface__["data"][0]
    for start, size in sorted(
        (data.__array_interface__["data"][0] - base, len(data)) for data in held if len(data) > 64
    ):
        places += range(end, start)
        end = start + size
    return places
