"""A copy of a flatbuffer with holes in place of its weights, for a runtime that is only asked what it would do.

In: a file and one of its subgraphs. Out: a sparse file of the same length, in which that subgraph stands first: the
runtimes tell of a file's first subgraph alone. Weights read as zeros, so the copy is not for running.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.reads import callees

_SMALLEST_HOLE = 1 << 16  # bytes; what is smaller may be an axis or a shape, which a runtime reads as it loads
_SUBGRAPHS = 8  # where the table of a model says where its list of subgraphs is
_DATA = 4  # the same of a buffer's bytes


def may_stand_first(file: FlatbufferModel, subgraph: int) -> bool:
    """Whether no operator calls the subgraph or the first one, which change places."""
    called = {
        callee
        for index in range(file.subgraph_count)
        for op in file.subgraph(index).operators
        for callee in callees(file, index, op)
    }
    return subgraph == 0 or not called & {0, subgraph}


def write_hollow(file: FlatbufferModel, subgraph: int, target: Path) -> None:
    """Raises OSError where the copy cannot be written."""
    content = file.mapped
    swapped = dict(_swapped(file, subgraph))
    with target.open("wb") as out:
        for start, stop in _outside(sorted(_holes(file)), len(content)):
            out.seek(start)
            out.write(content[start:stop])
        for position, offset in swapped.items():
            out.seek(position)
            out.write(struct.pack("<I", offset))
        out.truncate(len(content))


def _swapped(file: FlatbufferModel, subgraph: int) -> Iterator[tuple[int, int]]:
    """What to write where, so that two entries of the list of subgraphs change places: offsets are relative."""
    table = file.root._tab
    first = table.Vector(table.Offset(_SUBGRAPHS))
    other = first + 4 * subgraph
    targets = [place + struct.unpack_from("<I", file.mapped, place)[0] for place in (first, other)]
    yield first, (targets[1] - first) % (1 << 32)
    yield other, (targets[0] - other) % (1 << 32)


def _holes(file: FlatbufferModel) -> Iterator[tuple[int, int]]:
    for index in range(file.buffer_count):
        buffer = file.root.Buffers(index)
        if buffer.DataLength() >= _SMALLEST_HOLE:
            start = buffer._tab.Vector(buffer._tab.Offset(_DATA))
            yield start, start + buffer.DataLength()
        elif buffer.Offset() > 1 and buffer.Size() >= _SMALLEST_HOLE:
            yield buffer.Offset(), buffer.Offset() + buffer.Size()


def _outside(holes: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """What is left of `0:size`, page by page of the holes."""
    page = mmap.PAGESIZE
    at = 0
    for start, stop in holes:
        start, stop = -(-start // page) * page, stop // page * page
        if stop > start >= at:
            yield at, start
            at = stop
    yield at, size
