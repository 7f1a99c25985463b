"""What a flatbuffer's bytes are for.

In: a file and the subgraphs of each signature. Out: the bytes of its constants by purpose and type; those that stand
outside, those that several signatures read, and those that the file holds twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.flatbuffer.reader import FlatbufferModel, Operator, Subgraph
from harness.record.contents import SizeOf

WEIGHTS, EMBEDDINGS, OTHERS = "weights", "embeddings", "other constants"
_MULTIPLY = {
    "FULLY_CONNECTED": (1, 2), "CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "TRANSPOSE_CONV": (1, 3),
    "CONV_3D": (1, 2), "BATCH_MATMUL": (0, 1), "MUL": (0, 1), "ADD": (0, 1),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": range(1, 24),
}  # fmt: skip
_LOOK_UP = {"EMBEDDING_LOOKUP": 1, "GATHER": 0, "GATHER_ND": 0}
_INDICES = frozenset({"INT64", "BOOL", "STRING"})
_ARITHMETIC = frozenset({"MUL", "ADD"})  # on int32 they work on positions; elsewhere int32 is a bias
_PASS_ON = frozenset({"DEQUANTIZE", "TRANSPOSE", "RESHAPE", "CAST"})
_SMALLEST_TWIN = 1024  # bytes; below it a twin says nothing


@dataclass
class Sizes:
    """rows: largest first. The others are bytes, as `FileContents` has them."""

    rows: list[SizeOf]
    outside: int = 0
    shared: int = 0
    doubled: int = 0


@dataclass
class _Held:
    """A buffer: how many bytes, of which type, what it is for, which signatures read it."""

    size: int
    dtype: str
    purpose: str = OTHERS
    readers: set[str] = field(default_factory=set)


def sizes_of(file: FlatbufferModel, called: Mapping[str, Sequence[Subgraph]]) -> Sizes:
    """called: signature -> the subgraphs that it runs."""
    held: dict[int, _Held] = {}
    for index in range(file.subgraph_count):
        for tensor in file.subgraph(index).tensors:
            if tensor.buffer not in held and (size := len(file.buffer(tensor.buffer))):
                held[tensor.buffer] = _Held(size, tensor.dtype)
    for name, graphs in called.items():
        for graph in graphs:
            _read(graph, name, held)
    sums: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for entry in held.values():
        sums[entry.purpose, entry.dtype] += entry.size
        counts[entry.purpose, entry.dtype] += 1
    rows = [
        SizeOf(what=what, dtype=dtype, tensors=counts[what, dtype], size=size)
        for (what, dtype), size in sums.most_common()
    ]
    outside = sum(entry.size for index, entry in held.items() if file.root.Buffers(index).Offset() > 1)
    shared = sum(entry.size for entry in held.values() if len(entry.readers) > 1)
    return Sizes(rows, outside, shared, _doubled(file, held))


def _read(graph: Subgraph, signature: str, held: dict[int, _Held]) -> None:
    consumers = graph.consumers()
    for index, readers in consumers.items():
        entry = held.get(graph.tensors[index].buffer) if index >= 0 else None
        if entry is None:
            continue
        entry.readers.add(signature)
        for op in readers:
            purpose = _purpose(graph, op, index, consumers)
            if purpose == EMBEDDINGS or entry.purpose == OTHERS:
                entry.purpose = purpose


def _purpose(graph: Subgraph, op: Operator, index: int, consumers: Mapping[int, list[Operator]], depth: int = 0) -> str:
    place = op.inputs.index(index)
    if _LOOK_UP.get(op.kind) == place and len(graph.tensors[index].shape) == 2:
        return EMBEDDINGS
    dtype = graph.tensors[index].dtype
    if dtype in _INDICES or (dtype == "INT32" and (op.kind in _ARITHMETIC or op.composite)):
        return OTHERS
    if place in _MULTIPLY.get(op.kind, ()) or op.composite:
        return WEIGHTS
    if op.kind in _PASS_ON and place == 0 and depth < 4:
        made = op.outputs[0]
        found = [_purpose(graph, reader, made, consumers, depth + 1) for reader in consumers.get(made, [])]
        return next((purpose for purpose in (EMBEDDINGS, WEIGHTS) if purpose in found), OTHERS)
    return OTHERS


def _doubled(file: FlatbufferModel, held: Mapping[int, _Held]) -> int:
    """Bytes of buffers that are the same as an earlier one. Only those of one size and one beginning are read."""
    alike: dict[tuple[int, bytes], list[int]] = {}
    for index, entry in held.items():
        if entry.size >= _SMALLEST_TWIN:
            start = hashlib.blake2b(np.asarray(file.buffer(index)[:4096]).tobytes(), digest_size=16).digest()
            alike.setdefault((entry.size, start), []).append(index)
    doubled = 0
    for indices in alike.values():
        kept: list[int] = []
        for index in indices:
            if any(np.array_equal(file.buffer(index), file.buffer(other)) for other in kept):
                doubled += held[index].size
            else:
                kept.append(index)
    return doubled
