"""Whether the tables of a .tflite file that a person gives are whole and fit together, before anything runs it.

In: a path. Out: nothing, or a UsageError that names the file, what is wrong in it, and the remedy. The runtime reads
such a file without a second look: an index that leads nowhere ends its process, a size that is wrong takes all memory.
Weights are never read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel, Operator, Subgraph
from harness.flatbuffer.reads import callees
from harness.flatbuffer.signatures import prefill_length

_REMEDY = "convert it again, or copy it again from where it is whole"
_LARGEST = 1 << 33  # bytes of one tensor
_BYTES = {"FLOAT32": 4, "INT32": 4, "UINT32": 4, "FLOAT16": 2, "BFLOAT16": 2, "INT8": 1, "UINT8": 1, "BOOL": 1,
          "INT64": 8, "UINT64": 8, "FLOAT64": 8, "INT16": 2, "UINT16": 2}  # fmt: skip
_DEEPEST = 64  # calls of subgraphs within each other


def check_integrity(path: Path) -> FlatbufferModel:
    """The file, if its tables are whole. Raises UsageError."""
    file = FlatbufferModel(path)
    try:
        wrong = next(_faults(file), "")
    except Exception as error:  # the generated reader raises whatever garbage leads it to
        wrong = reading_failed(error)
    if wrong:
        raise UsageError(f"{path} is damaged: {wrong}; {_REMEDY}")
    return file


def reading_failed(error: Exception) -> str:
    """What came of reading garbage, in words."""
    if isinstance(error, (struct.error, IndexError)):
        return "its tables lead outside the file"
    return f"its tables cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:80]})"


def _faults(file: FlatbufferModel) -> Iterator[str]:
    """What is wrong, one after the other; what comes later takes for granted that what came before is right."""
    if file.subgraph_count == 0:
        yield "it has no subgraph"
    graphs: list[Subgraph] = []
    for index in range(file.subgraph_count):
        graphs.append(file.subgraph(index))
        yield from _graph_faults(file, graphs[-1])
    for graph in graphs:
        yield from _call_faults(file, graph, graphs)
    yield from _cycles(file, graphs)
    names = file.signature_names()
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"{names.count(name)} of its signatures are called {name}, and only one of them would run"
    for signature in file.signatures.values():
        if signature.subgraph >= len(graphs):
            yield f"signature {signature.name} is subgraph {signature.subgraph}, and there are {len(graphs)}"
        if not graphs[signature.subgraph].operators:
            yield f"signature {signature.name} is subgraph {signature.subgraph}, which has no operators"
        count = len(graphs[signature.subgraph].tensors)
        for name, tensor in (*signature.inputs.items(), *signature.outputs.items()):
            if tensor >= count:
                yield f"'{name}' of signature {signature.name} is tensor {tensor}, and there are {count}"
    yield from _disagreements(file, graphs)


def _graph_faults(file: FlatbufferModel, graph: Subgraph) -> Iterator[str]:
    where = f"of subgraph {graph.index}"
    count = len(graph.tensors)
    for tensor in graph.tensors:
        what = f"tensor {tensor.index} {where}"
        if any(size < 0 for size in tensor.shape):
            yield f"{what} has the shape {list(tensor.shape)}"
        size = _BYTES.get(tensor.dtype, 1)
        for extent in tensor.shape:
            size *= extent
        if size > _LARGEST:
            yield f"{what} has the shape {list(tensor.shape)}, more than {_LARGEST >> 30} GB"
        if tensor.buffer >= file.buffer_count:
            yield f"{what} lies in buffer {tensor.buffer}, and there are {file.buffer_count}"
        held = len(file.buffer(tensor.buffer))
        if held and tensor.dtype in _BYTES and held != size:
            yield f"{what} has {held} bytes, and its shape {list(tensor.shape)} takes {size}"
    ends = [*file.subgraph_inputs(graph.index), *file.subgraph_outputs(graph.index)]
    if any(not 0 <= index < count for index in ends):
        yield f"an input or output {where} is not a tensor of it"
    yield from _order_faults(file, graph, where)


def _order_faults(file: FlatbufferModel, graph: Subgraph, where: str) -> Iterator[str]:
    """Operators stand in the order in which they run, so what one reads was written before."""
    written = set(file.subgraph_inputs(graph.index))
    written |= {tensor.index for tensor in graph.tensors if len(file.buffer(tensor.buffer)) or 0 in tensor.shape}
    made = {index for op in graph.operators for index in op.outputs}
    for op in graph.operators:
        what = f"operator {op.index} ({op.kind}) {where}"
        if any(not -1 <= index < len(graph.tensors) for index in op.inputs):
            yield f"{what} reads a tensor that there is not"
        if any(not 0 <= index < len(graph.tensors) for index in op.outputs):
            yield f"{what} writes a tensor that there is not"
        early = [index for index in op.inputs if index >= 0 and index in made and index not in written]
        if early:
            yield f"{what} reads tensor {early[0]}, which is written after it"
        if any(index in written for index in op.outputs):
            yield f"{what} writes a tensor that is an input, a constant, or written by another operator"
        written |= set(op.outputs)


def _call_faults(file: FlatbufferModel, graph: Subgraph, graphs: list[Subgraph]) -> Iterator[str]:
    for op in graph.operators:
        what = f"operator {op.index} ({op.kind}) of subgraph {graph.index}"
        for callee in callees(file, graph.index, op):
            if not 0 <= callee < len(graphs):
                yield f"{what} calls subgraph {callee}, and there are {len(graphs)}"
            if op.decomposition is not None:
                yield from _composite_faults(file, op, callee, what)


def _composite_faults(file: FlatbufferModel, op: Operator, callee: int, what: str) -> Iterator[str]:
    for side, own, inner in (
        ("inputs", op.inputs, file.subgraph_inputs(callee)),
        ("outputs", op.outputs, file.subgraph_outputs(callee)),
    ):
        if len(own) != len(inner):
            yield f"{what} has {len(own)} {side}, and the subgraph that it stands for has {len(inner)}"


def _cycles(file: FlatbufferModel, graphs: list[Subgraph]) -> Iterator[str]:
    """A subgraph that calls itself, directly or not, would run for ever."""
    calls = {graph.index: {c for op in graph.operators for c in callees(file, graph.index, op)} for graph in graphs}
    left = dict(calls)
    for _ in range(_DEEPEST):
        left = {index: inner & left.keys() for index, inner in left.items() if inner & left.keys()}
        if not left:
            return
    yield f"subgraph {min(left)} calls itself through a composite"


def _disagreements(file: FlatbufferModel, graphs: list[Subgraph]) -> Iterator[str]:
    """Signatures of a language model share the KV cache, and read as many tokens as positions."""
    caches: dict[str, tuple[int, ...]] = {}
    for signature in file.signatures.values():
        tensors = graphs[signature.subgraph].tensors
        for name, index in (*signature.inputs.items(), *signature.outputs.items()):
            if name.startswith("kv_cache_"):
                shape = caches.setdefault(name, tensors[index].shape)
                if shape != tensors[index].shape:
                    yield f"'{name}' is {list(shape)} and, in {signature.name}, {list(tensors[index].shape)}"
        sizes = {
            tensors[signature.inputs[name]].shape[-1:] for name in ("tokens", "input_pos") if name in signature.inputs
        }
        named = prefill_length(signature.name)
        if named is not None:
            sizes.add((named,))
        if len(sizes) > 1:
            yield f"signature {signature.name} has tokens and positions of {sorted(sizes)} in one step"
