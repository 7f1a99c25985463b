"""Which constants each signature reads: in its own subgraph, and in those that its operators call.

In: a file. Out: its constants of one dtype, each once, with the signatures that read it. Two signatures
share a constant or have one each: what only one of them reads is not judged by looking at the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.flatbuffer.reader import FlatbufferModel, Operator, Subgraph

# Operators that run other subgraphs, as composites do: the options that name them.
_CALLS = {
    "WHILE": ("condSubgraphIndex", "bodySubgraphIndex"),
    "IF": ("thenSubgraphIndex", "elseSubgraphIndex"),
    "CALL": ("subgraph",),
    "CALL_ONCE": ("initSubgraphIndex",),
}
_BYTES = {"FLOAT32": 4, "FLOAT16": 2, "BOOL": 1}


@dataclass(frozen=True)
class Use:
    """How an operator of a signature reads a square matrix. rows_out: a row of it gives one output, as in a linear
    layer's weight; else a column does."""

    signature: str
    kind: str
    rows_out: bool


@dataclass
class ReadConstant:
    """name: of its tensor, or of its buffer where it has none. paths: module paths of all tensors that are this one.

    signatures: those that read it, in the file's order. uses: of a square matrix, whose shape does not show which way
    round it is; those of operators that are not known here are left out.
    """

    name: str
    values: npt.NDArray[np.float32]
    paths: list[tuple[str, ...]] = field(default_factory=list)
    signatures: list[str] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)


def read_constants(file: FlatbufferModel, dtype: str = "FLOAT32") -> list[ReadConstant]:
    """Constants that an operator of some signature reads. One buffer under two shapes is two constants.

    dtype: FLOAT32, FLOAT16, or BOOL, whose values are given as 0 and 1.
    """
    found: dict[tuple[int, tuple[int, ...]], ReadConstant] = {}
    graphs: dict[int, Subgraph] = {}
    for name, signature in file.signatures.items():
        for graph in called(file, signature.subgraph, graphs):
            read = {index for op in graph.operators for index in op.inputs if index >= 0}
            for index in sorted(read | set(file.subgraph_outputs(graph.index))):
                tensor = graph.tensors[index]
                key = tensor.buffer, tensor.shape
                if key not in found:
                    values = _values(file, tensor, dtype)
                    if values is None:
                        continue
                    found[key] = ReadConstant(tensor.name or f"buffer {tensor.buffer}", values)
                constant = found[key]
                constant.paths += [path for path in tensor.paths if path not in constant.paths]
                if name not in constant.signatures:
                    constant.signatures.append(name)
                if len(tensor.shape) == 2 and tensor.shape[0] == tensor.shape[1]:
                    constant.uses += [Use(name, *way) for way in _ways(file, graph, index)]
    return list(found.values())


def called(file: FlatbufferModel, subgraph: int, known: dict[int, Subgraph]) -> Iterator[Subgraph]:
    """A subgraph and those that it calls, directly or not, each once. known: those read so far."""
    waiting, seen = [subgraph], {subgraph}
    while waiting:
        index = waiting.pop()
        if index not in known:
            known[index] = file.subgraph(index)
        yield known[index]
        for op in known[index].operators:
            fresh = [callee for callee in callees(file, index, op) if callee not in seen]
            seen.update(fresh)
            waiting += fresh


def callees(file: FlatbufferModel, subgraph: int, op: Operator) -> list[int]:
    """The subgraphs that an operator runs."""
    if op.decomposition is not None:
        return [op.decomposition]
    names = _CALLS.get(op.kind, ())
    options = file.options(subgraph, op.index) if names else {}
    return [int(options[name]) for name in names if name in options]


def _ways(file: FlatbufferModel, graph: Subgraph, matrix: int) -> Iterator[tuple[str, bool]]:
    """Kinds of the operators that multiply with a matrix, and whether each takes its rows for outputs."""
    for op in graph.consumers().get(matrix, []):
        place = op.inputs.index(matrix)
        if (op.kind, place) in (("FULLY_CONNECTED", 1), ("EMBEDDING_LOOKUP", 1)):
            yield op.kind, True
        elif op.kind == "BATCH_MATMUL":
            options = file.options(graph.index, op.index)
            yield op.kind, bool(options.get("adjY")) if place == 1 else not options.get("adjX")
        elif op.kind == "TRANSPOSE" and file.integers(graph.tensors[op.inputs[1]]) == (1, 0):
            yield from ((kind, not rows_out) for kind, rows_out in _ways(file, graph, op.outputs[0]))


def _values(file: FlatbufferModel, tensor: Any, dtype: str) -> npt.NDArray[np.float32] | None:
    if tensor.dtype != dtype:
        return None
    data = file.buffer(tensor.buffer)
    if not len(data) or len(data) != _BYTES[dtype] * int(np.prod(tensor.shape, dtype=np.int64)):
        return None
    # Buffers inside the flatbuffer need not begin at a multiple of four.
    content = np.frombuffer(data, np.uint8)
    if dtype == "BOOL":
        values = (content != 0).astype(np.float32)
    else:
        values = content.view(np.float16).astype(np.float32) if dtype == "FLOAT16" else content.view(np.float32)
    return np.asarray(values.reshape(tensor.shape))
