"""Bundles made by hand: whole ones of small parts, and what is damaged of them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from harness.bundle import wire
from harness.bundle.metadata import LlmMetadata, Token
from harness.bundle.reader import read_bundle
from harness.bundle.writer import (
    Part,
    flatbuffer_part,
    hf_tokenizer_part,
    metadata_part,
    write_litertlm,
    write_task,
)

METADATA = LlmMetadata(
    start=Token((1,)),
    stop=(Token((2,)), Token(text="</s>")),
    most_tokens=256,
    template="{{ messages }}",
    model_type="generic_model",
)
TOKENIZER = json.dumps({"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}}, "added_tokens": []}).encode()
PIECES = wire.message([(1, wire.message([(1, piece)])) for piece in ("a", "b")])
TASK_METADATA = LlmMetadata(start=Token((1,)), stop=(Token(text="</s>"),), affixes={"user": ("<u>", "</u>")})
MODEL = b"\x08\0\0\0TFL3" + bytes(900)
_HEADER_END = 24


def flatbuffer(folder: Path) -> Path:
    """What stands for one: whoever reads a bundle does not look into it."""
    file = folder / "model.tflite"
    file.write_bytes(MODEL)
    return file


def parts_of(folder: Path) -> list[Part]:
    """Metadata, tokenizer, flatbuffer."""
    return [metadata_part(METADATA), hf_tokenizer_part(TOKENIZER), flatbuffer_part(flatbuffer(folder))]


def litertlm(folder: Path, parts: list[Part] | None = None) -> Path:
    target = folder / "model.litertlm"
    write_litertlm(target, parts_of(folder) if parts is None else parts)
    return target


def task(folder: Path, tokenizer: bytes = PIECES) -> Path:
    target = folder / "model.task"
    write_task(target, flatbuffer(folder), tokenizer, TASK_METADATA)
    return target


def with_bytes(file: Path, at: int, content: bytes) -> Path:
    """The same file with other bytes at a place."""
    held = bytearray(file.read_bytes())
    held[at : at + len(content)] = content
    file.write_bytes(held)
    return file


def with_place(file: Path, section: int, *, begin: int | None = None, end: int | None = None) -> Path:
    """The same file, whose header has a section elsewhere."""
    one = read_bundle(file).sections[section]
    held = bytearray(file.read_bytes())
    header = bytes(held[: int.from_bytes(held[_HEADER_END : _HEADER_END + 8], "little")])
    for is_at, goes_to in ((one.begin, begin), (one.end, end)):
        if goes_to is not None:
            place = header.index(struct.pack("<Q", is_at))
            held[place : place + 8] = struct.pack("<Q", goes_to)
    file.write_bytes(held)
    return file
