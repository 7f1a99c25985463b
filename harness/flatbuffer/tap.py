"""Write a tapped flatbuffer: a copy in which chosen tensors are extra signature outputs.

In: a .tflite file and, per signature, names for tensor indices. Out: the copy, with operators,
tensors and weights as they were. Weights go behind the flatbuffer (`Buffer.offset`, `Buffer.size`):
packing them inline takes minutes and fails for files whose buffers already lie outside.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

_ALIGNMENT = 16
_OUTSIDE_IF_LARGER = 1024  # bytes; small constants (shapes, axes) may be read while the graph is built
_IDENTIFIER = b"TFL3"


def write_tapped(source: Path, target: Path, taps: Mapping[str, Mapping[str, int]]) -> None:
    """Copy `source` to `target` with `taps[signature][output name] = tensor index` as extra outputs.

    A tensor that already is an output of its subgraph gets the further name only.
    Raises KeyError when a signature is not in the file.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        model = schema.ModelT.InitFromPackedBuf(mapped, 0)
        signatures = {_text(entry.signatureKey): entry for entry in model.signatureDefs}
        for name, wanted in taps.items():
            _add_outputs(model, signatures[name], wanted, schema)
        outside = _move_weights_out(model, mapped)
        with target.open("wb") as out:
            _write(model, outside, out, flatbuffers.Builder)
        # Views into the map must be gone before it closes.
        outside.clear()
        del model


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _add_outputs(model: Any, signature: Any, wanted: Mapping[str, int], schema: Any) -> None:
    graph = model.subgraphs[signature.subgraphIndex]
    present = {int(index) for index in graph.outputs}
    graph.outputs = [int(index) for index in graph.outputs]
    for name, index in wanted.items():
        if index not in present:
            graph.outputs.append(index)
            present.add(index)
        entry = schema.TensorMapT()
        entry.name = name
        entry.tensorIndex = index
        signature.outputs.append(entry)


def _move_weights_out(model: Any, mapped: mmap.mmap) -> list[tuple[Any, memoryview]]:
    """Buffers to write behind the flatbuffer, with their bytes; offsets are placeholders of full width."""
    outside = []
    for buffer in model.buffers:
        if buffer.offset > 1:
            data = memoryview(mapped)[buffer.offset : buffer.offset + buffer.size]
        elif buffer.data is not None and len(buffer.data) > _OUTSIDE_IF_LARGER:
            data = memoryview(buffer.data)
        else:
            continue
        buffer.data = None
        # Flatbuffers leave a field out when it is 0, so a placeholder keeps the size of the tables.
        buffer.offset, buffer.size = 2, len(data)
        outside.append((buffer, data))
    return outside


def _write(model: Any, outside: list[tuple[Any, memoryview]], out: BinaryIO, make_builder: Any) -> None:
    def packed() -> bytes:
        builder = make_builder(1 << 20)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    # The tables have the same length whatever the offsets are, so pack once to learn it, once for real.
    position = _aligned(len(packed()))
    for buffer, data in outside:
        buffer.offset = position
        position = _aligned(position + len(data))
    out.write(packed())
    for buffer, data in outside:
        out.seek(buffer.offset)
        out.write(data)
    out.truncate(position)


def _aligned(position: int) -> int:
    return (position + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
