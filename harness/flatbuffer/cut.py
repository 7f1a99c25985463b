"""Cut a range out of a flatbuffer: as a file of its own that computes what the range computes in place.

In: a .tflite file and tensors of one of its subgraphs. Out: a .tflite file of one signature.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.flatbuffer.reader import FlatbufferModel, Subgraph
from harness.flatbuffer.writing import Rewriting, signature_table, tensor_map


@dataclass(frozen=True)
class Range:
    """Operators of one subgraph, ascending, and the tensors that they read and do not write, constants aside."""

    subgraph: int
    operators: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def range_between(model: FlatbufferModel, subgraph: int, inputs: Collection[int], outputs: Iterable[int]) -> Range:
    """The operators that make `outputs` of `inputs`, found backwards.

    What the way back meets also, up to the subgraph's own inputs, is among the range's inputs too; what of
    `inputs` it does not meet is not. Raises ValueError when an output is made by no operator.
    """
    graph = model.subgraph(subgraph)
    writer = graph.producers()
    wanted = list(outputs)
    unmade = [index for index in wanted if index not in writer]
    if unmade:
        raise ValueError(f"tensor {unmade[0]} ({graph.tensors[unmade[0]].name}) is made by no operator")
    found: set[int] = set()
    met: set[int] = set()
    waiting = [writer[index] for index in wanted]
    while waiting:
        op = waiting.pop()
        if op.index in found:
            continue
        found.add(op.index)
        for index in op.inputs:
            if index in inputs or (index >= 0 and index not in writer and not is_constant(model, graph, index)):
                met.add(index)
            elif index in writer:
                waiting.append(writer[index])
    return Range(subgraph, tuple(sorted(found)), tuple(sorted(met)), tuple(wanted))


def is_constant(model: FlatbufferModel, graph: Subgraph, index: int) -> bool:
    """Whether a tensor that no operator writes has its values in the file, as one without elements has too."""
    return 0 in graph.tensors[index].shape or len(model.buffer(graph.tensors[index].buffer)) > 0


def write_cut(
    source: Path,
    target: Path,
    cut: Range,
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
    name: str = "cut",
) -> None:
    """Write a range as a flatbuffer of one signature called `name`.

    inputs, outputs: names for tensors of the range; every input of the range needs one. Only the tensors, weights
    and composites that the range uses are written. Raises ValueError when an input has no name.
    """
    nameless = set(cut.inputs) - set(inputs.values())
    if nameless:
        raise ValueError(f"the cut's inputs {sorted(nameless)} have no name")
    work = Rewriting(source)
    model = work.model
    graph = _narrowed(model.subgraphs[cut.subgraph], cut, [*inputs.values(), *outputs.values()])
    place = {old: new for new, old in enumerate(graph.kept)}
    table = graph.table
    table.inputs = [place[index] for index in dict.fromkeys(inputs.values())]
    table.outputs = [place[index] for index in dict.fromkeys(outputs.values())]
    model.subgraphs = _with_composites(model, table)
    _drop_unused(model)
    entry = copy.copy(model.signatureDefs[0]) if model.signatureDefs else signature_table()
    entry.signatureKey = name
    entry.subgraphIndex = 0
    entry.inputs = [tensor_map(key, place[index]) for key, index in inputs.items()]
    entry.outputs = [tensor_map(key, place[index]) for key, index in outputs.items()]
    model.signatureDefs = [entry]
    work.write(target)


@dataclass
class _Narrowed:
    table: Any
    kept: list[int]


def _narrowed(graph: Any, cut: Range, named: Iterable[int]) -> _Narrowed:
    """A subgraph's table with the operators of a range alone; `kept`: its tensors, by their old numbers."""
    operators = [copy.copy(graph.operators[index]) for index in cut.operators]
    used = {int(index) for op in operators for index in (*op.inputs, *op.outputs) if index >= 0}
    kept = sorted(_with_scales(graph, used | set(named)))
    place = {old: new for new, old in enumerate(kept)} | {-1: -1}
    for op in operators:
        op.inputs = [place[int(index)] for index in op.inputs]
        op.outputs = [place[int(index)] for index in op.outputs]
        op.intermediates = None
    table = copy.copy(graph)
    table.operators = operators
    table.tensors = [_placed(graph.tensors[index], place) for index in kept]
    return _Narrowed(table, kept)


def _with_scales(graph: Any, tensors: set[int]) -> set[int]:
    """With the tensors that hold the scales and zero points of those which are quantised in blocks."""
    details = [detail for index in tensors if (detail := _block_details(graph.tensors[index])) is not None]
    beside = {int(index) for detail in details for index in (detail.scales, detail.zeroPoints)}
    return tensors | {index for index in beside if 0 <= index < len(graph.tensors)}


def _block_details(tensor: Any) -> Any:
    details = getattr(tensor.quantization, "details", None)
    return details if hasattr(details, "blockSize") else None


def _placed(tensor: Any, place: Mapping[int, int]) -> Any:
    moved = copy.copy(tensor)
    if _block_details(tensor) is not None:
        moved.quantization = copy.copy(tensor.quantization)
        moved.quantization.details = copy.copy(tensor.quantization.details)
        for name in ("scales", "zeroPoints"):
            old = int(getattr(moved.quantization.details, name))
            setattr(moved.quantization.details, name, place.get(old, old))
    return moved


def _with_composites(model: Any, first: Any) -> list[Any]:
    """`first` and every subgraph that a composite in it needs, numbered again."""
    tables = [first]
    number: dict[int, int] = {}
    for table in tables:  # grows while it is walked: composites may hold composites
        table.operators = [copy.copy(op) for op in table.operators]
        for op in table.operators:
            options = op.builtinOptions2
            old = getattr(options, "decompositionSubgraphIndex", None)
            if old is None:
                continue
            if old not in number:
                number[old] = len(tables)
                tables.append(copy.copy(model.subgraphs[old]))
            op.builtinOptions2 = copy.copy(options)
            op.builtinOptions2.decompositionSubgraphIndex = number[old]
    return tables


def _drop_unused(model: Any) -> None:
    """Leave out operator codes and weights that no subgraph uses. Buffer 0 is the empty one by convention."""
    operators = [op for table in model.subgraphs for op in table.operators]
    codes = sorted({op.opcodeIndex for op in operators})
    model.operatorCodes = [model.operatorCodes[index] for index in codes]
    for op in operators:
        op.opcodeIndex = codes.index(op.opcodeIndex)
    for table in model.subgraphs[1:]:
        table.tensors = [copy.copy(tensor) for tensor in table.tensors]
    tensors = [tensor for table in model.subgraphs for tensor in table.tensors]
    kept = sorted({0, *(tensor.buffer for tensor in tensors)})
    place = {old: new for new, old in enumerate(kept)}
    model.buffers = [model.buffers[index] for index in kept]
    for tensor in tensors:
        tensor.buffer = place[tensor.buffer]
    model.metadata = model.metadataBuffer = None
