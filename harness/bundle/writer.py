"""Write a bundle: a flatbuffer, a tokenizer and what an engine must know of them, in one file.

In: the parts. Out: a `.litertlm` or a `.task`. The same parts give the same bytes: where the format asks for a random
id and the time, the id is told by the content and the time is a fixed one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from harness.bundle.metadata import LlmMetadata
from harness.bundle.sections import GENERATES, MODEL_TYPE

VERSION = (1, 7, 0)  # as litert-lm-builder 0.18.1 writes it
_MAGIC, _HEADER_BEGIN, _BLOCK = b"LITERTLM", 32, 16 * 1024
_TEXT_VALUE = 9
_FLATBUFFER, _SENTENCEPIECE, _METADATA, _HF_TOKENIZER = 3, 4, 5, 6
_WRITTEN = "1970-01-01T00:00:00+00:00"
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip can say
_ZIP_PADDING = 0xD935  # the id of an extra field that only fills, as Android's zipalign writes it
_ZIP_HEADER, _ZIP_BLOCK, _ZIP_LARGEST = 30, 4096, 0xFFFF_FFFF


@dataclass(frozen=True)
class Part:
    """A section to be: the bytes, or the file that holds them. items: what the header says of it."""

    code: int
    content: bytes | Path
    items: Mapping[str, str] = field(default_factory=dict)

    def write(self, out: BinaryIO) -> None:
        if isinstance(self.content, bytes):
            out.write(self.content)
            return
        with self.content.open("rb") as file:
            shutil.copyfileobj(file, out, 1 << 20)

    def digest(self) -> bytes:
        if isinstance(self.content, bytes):
            return hashlib.sha256(self.content).digest()
        with self.content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def flatbuffer_part(file: Path) -> Part:
    """The model that generates text."""
    return Part(_FLATBUFFER, file, {MODEL_TYPE: GENERATES})


def metadata_part(metadata: LlmMetadata) -> Part:
    return Part(_METADATA, metadata.as_litertlm())


def hf_tokenizer_part(tokenizer_json: bytes) -> Part:
    """Packed, behind its size."""
    return Part(_HF_TOKENIZER, len(tokenizer_json).to_bytes(8, "little") + zlib.compress(tokenizer_json, 9))


def sentencepiece_part(model: bytes) -> Part:
    return Part(_SENTENCEPIECE, model)


def write_litertlm(target: Path, parts: Sequence[Part]) -> None:
    """Write the sections in their order, each on a block of 16 KB, whole or not at all."""
    name = uuid.UUID(bytes=hashlib.sha256(b"".join(part.digest() for part in parts)).digest()[:16], version=4)
    system = {"uuid": str(name), "creation_timestamp": _WRITTEN}
    places, offset = [], _block_after(_HEADER_BEGIN + len(_header(system, parts, [(1, 1)] * len(parts))))
    for part in parts:
        places.append((offset, offset + part.size))
        offset = _block_after(offset + part.size)
    header = _header(system, parts, places)
    with _whole(target) as partial, partial.open("wb") as out:
        out.write(_MAGIC + struct.pack("<III", *VERSION) + bytes(4) + struct.pack("<Q", _HEADER_BEGIN + len(header)))
        out.write(header)
        for part, (begin, _) in zip(parts, places, strict=True):
            out.seek(begin)
            part.write(out)


def write_task(target: Path, flatbuffer: Path, sentencepiece: bytes, metadata: LlmMetadata) -> None:
    """Write an uncompressed zip whose entries begin on blocks of 4 KB, whole or not at all."""
    parts = {
        "TF_LITE_PREFILL_DECODE": Part(_FLATBUFFER, flatbuffer),
        "TOKENIZER_MODEL": Part(_SENTENCEPIECE, sentencepiece),
        "METADATA": Part(_METADATA, metadata.as_task()),
    }
    with _whole(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, part in parts.items():
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.file_size = part.size
            entry.extra = _filling(archive, name) if part.size < _ZIP_LARGEST else b""
            with archive.open(entry, "w") as out:
                part.write(out)  # type: ignore[arg-type]


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A file beside the target, which takes its place once it is written."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _filling(archive: zipfile.ZipFile, name: str) -> bytes:
    """An extra field after which the content begins on a block."""
    content = archive.start_dir + _ZIP_HEADER + len(name.encode()) + 4
    return struct.pack("<HH", _ZIP_PADDING, -content % _ZIP_BLOCK) + bytes(-content % _ZIP_BLOCK)


def _block_after(offset: int) -> int:
    return -(-offset // _BLOCK) * _BLOCK


def _header(system: Mapping[str, str], parts: Sequence[Part], places: Sequence[tuple[int, int]]) -> bytes:
    """The tables of LiteRT-LM's header schema, fields by number."""
    import flatbuffers

    builder: Any = flatbuffers.Builder(1024)
    sections = []
    for part, (begin, end) in zip(parts, places, strict=True):
        items = _pairs(builder, part.items)
        builder.StartObject(4)
        builder.PrependUOffsetTRelativeSlot(0, items, 0)
        builder.PrependUint64Slot(1, begin, 0)
        builder.PrependUint64Slot(2, end, 0)
        builder.PrependUint8Slot(3, part.code, 0)
        sections.append(builder.EndObject())
    listed = _holding(builder, _list(builder, sections))
    about = _holding(builder, _pairs(builder, system))
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, about, 0)
    builder.PrependUOffsetTRelativeSlot(1, listed, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def _pairs(builder: Any, items: Mapping[str, str]) -> int:
    """A list of pairs of a key and a text."""
    made = []
    for key, value in items.items():
        name, text = builder.CreateString(key), builder.CreateString(value)
        held = _holding(builder, text)
        builder.StartObject(3)
        builder.PrependUOffsetTRelativeSlot(0, name, 0)
        builder.PrependUint8Slot(1, _TEXT_VALUE, 0)
        builder.PrependUOffsetTRelativeSlot(2, held, 0)
        made.append(builder.EndObject())
    return _list(builder, made)


def _holding(builder: Any, field: int) -> int:
    """A table of one field."""
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, field, 0)
    made: int = builder.EndObject()
    return made


def _list(builder: Any, tables: Sequence[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    made: int = builder.EndVector()
    return made
