"""A safetensors file whose header lies is refused before anything loads, with one line that says how it lies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from header_files import header_of, write_file

from harness.errors import UsageError
from harness.weights.files import read_header

TENSORS = {"a": ("F32", [4, 2]), "b": ("BF16", [8]), "c": ("BOOL", [3])}


def put(name: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].update(values)


def refused(file: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_header(file)
    message = str(caught.value)
    assert file.name in message
    assert "\n" not in message
    return message


def test_a_header_that_is_right_gives_every_tensor_its_place(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, **header_of({**TENSORS, "none": ("F32", [0, 7]), "one": ("F64", [])})}
    file = write_file(tmp_path / "model.safetensors", header)
    found = read_header(file)
    start = 8 + len(json.dumps(header))
    assert [(name, tensor.offset - start, tensor.bytes) for name, tensor in found.items()] == [
        ("a", 0, 32), ("b", 32, 16), ("c", 48, 3), ("none", 51, 0), ("one", 51, 8),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("b", data_offsets=[28, 44]), ["b overlaps a"]),
        (put("b", data_offsets=[0, 16]), ["overlaps"]),
        (put("b", data_offsets=[40, 56]), ["b leaves a gap to a"]),
        (put("a", data_offsets=[-32, 0]), ["a has a size or an offset"]),
        (put("a", data_offsets=[32, 0]), ["a:", "hold -32"]),
        (put("a", data_offsets=[0, 16]), ["a: F32 of shape [4, 2] takes 32 bytes", "hold 16"]),
        (put("a", data_offsets=[0.0, 32.0]), ["a has a size or an offset"]),
        (put("a", data_offsets=[0]), ["broken"]),
        (put("a", shape=[-4, -2]), ["a has a size or an offset"]),
        (put("a", shape=[10**30, 10**30]), ["a: F32", "takes"]),
        (put("a", shape="42"), ["broken"]),
        (put("a", shape=[True, 8]), ["a has a size or an offset"]),
        (put("a", dtype="F33"), ["a has the unknown dtype 'F33'"]),
        (put("a", dtype=["F32"]), ["unknown dtype"]),
        (put("c", dtype="F4"), ["c:", "takes -1 bytes"]),
        (lambda header: header.pop("b"), ["c leaves a gap to a"]),
        (lambda header: header.update(d=[1, 2]), ["broken"]),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused_with_what_is_wrong(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: list[str]
) -> None:
    header = header_of(TENSORS)
    change(header)
    message = refused(write_file(tmp_path / "model.safetensors", header, 51))
    assert all(part in message for part in said), message
    assert "download it again" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, "a": {"dtype": "U8", "shape": [4], '
         b'"data_offsets": [0, 4]}}', "'a' stands in it twice"),
        (b'{"a": {"dtype": "U8", "dtype": "I8", "shape": [4], "data_offsets": [0, 4]}}', "'dtype' stands in it twice"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"a": {"dtype": "U8", "shape": [' + b"9" * 6000 + b'], "data_offsets": [0, 4]}}', "broken"),
        (b"\xff\xfe{}", "broken"),
    ],
    ids=["name twice", "field twice", "deep", "huge number", "no text"],
)  # fmt: skip
def test_a_header_that_no_reader_agrees_on_is_refused(tmp_path: Path, text: bytes, said: str) -> None:
    assert said in refused(write_file(tmp_path / "model.safetensors", text, 4))


def test_a_file_whose_header_agrees_with_its_size_alone_is_no_way_past(tmp_path: Path) -> None:
    """Only the last tensor's end was looked at once: an inner one may still point anywhere."""
    header = header_of(TENSORS)
    header["a"]["data_offsets"], header["b"]["data_offsets"] = [0, 48], [32, 48]
    assert "takes 32 bytes" in refused(write_file(tmp_path / "model.safetensors", header, 51))
