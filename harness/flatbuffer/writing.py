"""Write a flatbuffer from its object form, with the weights after it.

In: a .tflite file and what to change of its tables. Out: another .tflite file, or its head alone. Weights go outside
the flatbuffer (`Buffer.offset`, `Buffer.size`): packing them inline takes minutes and fails for files whose buffers
already lie outside.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

_ALIGNMENT = 16
_OUTSIDE_IF_LARGER = 1024  # bytes; small constants (shapes, axes) may be read while the graph is built
_IDENTIFIER = b"TFL3"


class Rewriting:
    """A file being rewritten: change `model`, its object form, and write it as often as wanted.

    What is changed after the first write may concern tables only: weights have their places then.
    """

    def __init__(self, source: Path) -> None:
        from ai_edge_litert import schema_py_generated as schema

        # Not closed by hand: arrays of the object form are views into the map, which goes when the last of them does.
        with source.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.model: Any = schema.ModelT.InitFromPackedBuf(self._map, 0)
        self._outside: list[tuple[Any, memoryview]] | None = None

    def signature(self, name: str) -> Any:
        """Raises KeyError when the file has no such signature."""
        return {text(entry.signatureKey): entry for entry in self.model.signatureDefs}[name]

    def write(self, target: Path) -> None:
        head = self._head()
        assert self._outside is not None
        with target.open("wb") as out:
            out.write(head)
            for buffer, data in self._outside:
                out.seek(buffer.offset)
                out.write(data)
            out.truncate(max([len(head), *(_aligned(buffer.offset + len(data)) for buffer, data in self._outside)]))

    def write_head(self, target: Path) -> None:
        """What comes before the weights. `graft` makes a file of it and of another file of the same weights."""
        target.write_bytes(self._head())

    def _head(self) -> bytes:
        if self._outside is None:
            self._outside = _move_weights_out(self.model, self._map)
        # The tables have the same length whatever the offsets are, so pack once to learn it, once for real.
        position = _aligned(len(packed(self.model)))
        for buffer, data in self._outside:
            buffer.offset = position
            position = _aligned(position + len(data))
        head = packed(self.model)
        return head.ljust(_aligned(len(head)), b"\0")


def graft(head: Path, donor: Path, target: Path) -> None:
    """Write `head` to `target` and after it the weights of `donor`, a file that the same `Rewriting` wrote."""
    from ai_edge_litert import schema_py_generated as schema

    with donor.open("rb") as file, target.open("wb") as out:
        out.write(head.read_bytes())
        out.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            root = schema.Model.GetRootAs(mapped, 0)
            offsets = [root.Buffers(i).Offset() for i in range(root.BuffersLength())]
            del root
        size = os.fstat(file.fileno()).st_size
        position = min((offset for offset in offsets if offset > 1), default=size)
        while position < size:
            position += os.sendfile(out.fileno(), file.fileno(), position, size - position)


def text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def tensor_map(name: str, index: int) -> Any:
    """An entry of a signature's inputs or outputs."""
    from ai_edge_litert import schema_py_generated as schema

    entry = schema.TensorMapT()
    entry.name = name
    entry.tensorIndex = index
    return entry


def signature_table() -> Any:
    """An empty signature."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.SignatureDefT()


def packed(model: Any) -> bytes:
    """The bytes of a flatbuffer's object form, without weights that stand outside of it."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def _move_weights_out(model: Any, mapped: mmap.mmap) -> list[tuple[Any, memoryview]]:
    """Buffers to write after the flatbuffer, with their bytes; offsets are placeholders of full width."""
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


def _aligned(position: int) -> int:
    return (position + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
