"""What `inspect` says of a file, on a file made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_file import operator, packed, small, tensor

from harness.bundle.naming import ending_word
from harness.commands.main import app
from harness.errors import UsageError
from harness.flatbuffer.hollow import may_stand_first, write_hollow
from harness.flatbuffer.reader import FlatbufferModel
from harness.inspection.inspect import read_contents
from harness.stages.litert.delegation import DelegationRequest, between

pytestmark = pytest.mark.miniature  # the schema is LiteRT's


def written(folder: Path, model: object) -> Path:
    path = folder / "m.tflite"
    path.write_bytes(packed(model))
    return path


def test_it_counts_composites_by_name_and_what_is_in_them_apart(tmp_path: Path) -> None:
    _, found = read_contents(written(tmp_path, small()))
    (signature,) = found.signatures
    assert signature.operators == {"own.add": 1, "ADD": 1}
    assert signature.inside == {"ADD": 1}
    assert [(one.name, one.dtype, one.shape) for one in signature.inputs] == [("tokens", "FLOAT32", [2, 4])]
    assert {(row.kind, tuple(row.reads), row.count) for row in found.forms} == {
        ("own.add", ("FLOAT32", "const FLOAT32"), 1),
        ("ADD", ("FLOAT32", "const FLOAT32"), 1),
        ("ADD", ("FLOAT32",), 1),
    }


def test_every_byte_of_the_file_is_told_once(tmp_path: Path) -> None:
    _, found = read_contents(written(tmp_path, small()))
    assert [(row.what, row.dtype, row.tensors, row.size) for row in found.sizes] == [("weights", "FLOAT32", 1, 32)]
    assert found.rest + 32 == found.size


def test_a_constant_that_is_there_twice_is_told(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = small()
    weight = np.arange(512, dtype=np.float32).view(np.uint8)
    for index in (4, 5):
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = weight
        model.subgraphs[0].tensors.append(tensor(schema, f"w{index}", [2, 256], buffer=index - 2))
    _, found = read_contents(written(tmp_path, model))
    assert found.doubled == 2048
    model.buffers[-1].data = weight[::-1].copy()
    assert read_contents(written(tmp_path, model))[1].doubled == 0


def test_an_operator_that_is_none_of_tflite_s_own_is_named(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = small()
    code = schema.OperatorCodeT()
    code.builtinCode, code.customCode = schema.BuiltinOperator.CUSTOM, "FlexArgMax"
    code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes.append(code)
    model.subgraphs[0].tensors.append(tensor(schema, "t4", [2, 4]))
    model.subgraphs[0].operators.append(operator(schema, 2, [3], [4]))
    _, found = read_contents(written(tmp_path, model))
    assert (found.custom, found.flex) == ({"FlexArgMax": 1}, ["FlexArgMax"])
    assert found.signatures[0].operators["FlexArgMax"] == 1


def test_a_file_without_signatures_has_its_first_subgraph_told(tmp_path: Path) -> None:
    model = small()
    model.signatureDefs = []
    _, found = read_contents(written(tmp_path, model))
    assert [(one.name, [tensor.name for tensor in one.outputs]) for one in found.signatures] == [("", ["t3"])]


@pytest.mark.parametrize(("start", "kind"), [(b"LITERTLM", ".litertlm"), (b"PK\x03\x04", ".task")])
def test_a_bundle_is_told_from_a_damaged_file(start: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(start + bytes(64))
    with pytest.raises(UsageError, match=rf"is a bundle \({kind}\)"):
        read_contents(tmp_path / "b")


def test_a_file_is_held_against_what_it_is_called(tmp_path: Path) -> None:
    for name, start in (("a.tflite", b"\x08\0\0\0TFL3"), ("a.litertlm", b"LITERTLM"), ("a.task", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(start + bytes(64))
        assert ending_word(tmp_path / name) == ""
    (tmp_path / "b.litertlm").write_bytes(b"\x08\0\0\0TFL3" + bytes(64))
    assert "flatbuffer and not a bundle, though it is called .litertlm" in ending_word(tmp_path / "b.litertlm")
    refused = {"c.task": b"", "c.litertlm": b"junk" * 8, "c.tflite": b"junk" * 8}
    said = (
        "is empty, though it is called .task",
        "is not a bundle, though it is called .litertlm",
        "no TFL3 identifier",
    )
    for (name, content), words in zip(refused.items(), said, strict=True):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=words):
            ending_word(tmp_path / name)


def test_a_hollow_copy_has_the_length_and_the_tables_and_another_subgraph_first(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = small()
    model.buffers[1].data = np.ones(1 << 17, np.uint8)
    model.subgraphs[0].tensors[1].shape = model.subgraphs[1].tensors[1].shape = [1 << 15]
    model.subgraphs.append(model.subgraphs[1])
    model.subgraphs[2].name = "other"
    assert schema is not None
    file = FlatbufferModel(written(tmp_path, model))
    write_hollow(file, 2, tmp_path / "h.tflite")
    copy = FlatbufferModel(tmp_path / "h.tflite")
    assert len(copy.mapped) == len(file.mapped)
    assert [copy.subgraph(index).name for index in (0, 2)] == ["other", "graph"]
    assert not np.all(copy.buffer(1)), "most of the weight is a hole"
    assert may_stand_first(file, 2)
    assert not may_stand_first(file, 1), "a composite calls it"


def test_what_a_delegate_s_node_stands_for_is_what_makes_its_outputs_of_its_inputs() -> None:
    """0 -> 1 -> 2 -> 3, and 4 beside them."""
    request = DelegationRequest(file="", stage="", reads=[[0], [1], [2], [0]], writes=[[1], [2], [3], [4]])
    assert between(request, {1}, [3]) == {1, 2}
    assert between(request, {0}, [4]) == {3}
    assert between(request, {0}, [3, 4]) == {0, 1, 2, 3}


def plain() -> Any:
    """One signature that adds twice, without a composite."""
    from ai_edge_litert import schema_py_generated as schema

    model = small()
    model.subgraphs, first = model.subgraphs[:1], model.subgraphs[0]
    for op in first.operators:
        op.opcodeIndex, op.builtinOptions2, op.builtinOptions2Type = 0, None, 0
        op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    return model


@pytest.mark.process
def test_the_runtimes_say_what_they_delegate(tmp_path: Path) -> None:
    import json

    from typer.testing import CliRunner

    done = CliRunner().invoke(app, ["inspect", str(written(tmp_path, plain())), "--json"])
    assert done.exit_code == 0, done.output
    xnnpack, builtin = json.loads(done.stdout)["signatures"][0]["delegated"]
    assert xnnpack["operators"] == {"ADD": 2}
    assert (xnnpack["error"], builtin["error"], builtin["operators"]) == ("", "", {})


@pytest.mark.process
def test_a_runtime_that_does_not_know_an_operator_is_quoted(tmp_path: Path) -> None:
    import json

    from ai_edge_litert import schema_py_generated as schema
    from typer.testing import CliRunner

    model = plain()
    code = schema.OperatorCodeT()
    code.builtinCode, code.customCode = schema.BuiltinOperator.CUSTOM, "FlexArgMax"
    code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0] = code
    for op in model.subgraphs[0].operators:
        op.builtinOptions, op.builtinOptionsType = None, 0
    done = CliRunner().invoke(app, ["inspect", str(written(tmp_path, model)), "--json"])
    assert "FlexArgMax" in json.loads(done.stdout)["signatures"][0]["delegated"][0]["error"]
