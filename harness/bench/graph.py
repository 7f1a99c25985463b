"""Edits of a flatbuffer's graph, in its object form.

In: a `ModelT`. Out: the same, changed in every signature. An operator is found by its kind and its place among those
of its kind: the n-th `FULLY_CONNECTED`, say.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.flatbuffer.writing import Rewriting, text

Edit = Callable[[Any, Any], None]  # model, subgraph of a signature


def rewrite(file: Path, change: Callable[[Any], Any]) -> None:
    """Change a file's object form in place."""
    work = Rewriting(file)
    change(work.model)
    target = file.with_suffix(".rewritten")
    work.write(target)
    target.replace(file)


def everywhere(*edits: Edit) -> Callable[[Any], None]:
    """Make edits in the subgraph of every signature."""

    def change(model: Any) -> None:
        for index in sorted({entry.subgraphIndex for entry in model.signatureDefs}):
            for edit in edits:
                edit(model, model.subgraphs[index])

    return change


def only(signature: str, *edits: Edit) -> Callable[[Any], None]:
    """Make edits in the subgraph of one signature."""

    def change(model: Any) -> None:
        named = {text(entry.signatureKey): entry.subgraphIndex for entry in model.signatureDefs}
        for edit in edits:
            edit(model, model.subgraphs[named[signature]])

    return change


def operator(model: Any, graph: Any, kind: str, number: int) -> Any:
    """The `number`-th operator of a kind. Raises IndexError where there are fewer."""
    return [op for op in graph.operators if _kind(model, op) == _code(kind)][number]


def turn(kind: str, number: int) -> Edit:
    """The two inputs of an operator in each other's place."""

    def edit(model: Any, graph: Any) -> None:
        op = operator(model, graph, kind, number)
        first, second, *rest = (int(index) for index in op.inputs)
        op.inputs = [second, first, *rest]

    return edit


def rewire(kind: str, number: int, place: int, source: tuple[str, int, str, int]) -> Edit:
    """An input of an operator taken from elsewhere. source: kind, number, "inputs" or "outputs", place."""

    def edit(model: Any, graph: Any) -> None:
        op, (of, nth, side, at) = operator(model, graph, kind, number), source
        inputs = [int(index) for index in op.inputs]
        inputs[place] = int(getattr(operator(model, graph, of, nth), side)[at])
        op.inputs = inputs

    return edit


def exchange(kind: str, one: int, other: int, place: int) -> Edit:
    """An input of two operators of one kind exchanged."""

    def edit(model: Any, graph: Any) -> None:
        pair = [operator(model, graph, kind, number) for number in (one, other)]
        first, second = ([int(index) for index in op.inputs] for op in pair)
        first[place], second[place] = second[place], first[place]
        pair[0].inputs, pair[1].inputs = first, second

    return edit


def option(kind: str, number: int, **values: Any) -> Edit:
    """Builtin options of an operator."""

    def edit(model: Any, graph: Any) -> None:
        options = operator(model, graph, kind, number).builtinOptions
        for name, value in values.items():
            assert hasattr(options, name), name
            setattr(options, name, value)

    return edit


def become(kind: str, number: int, other: str) -> Edit:
    """Another operator in the place of one; both take the same inputs."""

    def edit(model: Any, graph: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        op = operator(model, graph, kind, number)
        code = schema.OperatorCodeT()
        code.builtinCode, code.version = _code(other), 1
        code.deprecatedBuiltinCode = min(_code(other), 127)
        op.opcodeIndex = len(model.operatorCodes)
        model.operatorCodes.append(code)
        op.builtinOptions, op.builtinOptionsType = None, 0

    return edit


def attribute(number: int, old: float, new: float) -> Edit:
    """A float among the attributes of the `number`-th composite: what a delegate reads in place of its inside."""

    def edit(model: Any, graph: Any) -> None:
        options = operator(model, graph, "STABLEHLO_COMPOSITE", number).builtinOptions2
        content = bytes(np.asarray(options.compositeAttributes, np.uint8))
        before, after = (struct.pack("<f", value) for value in (old, new))
        assert content.count(before) == 1, f"the composite has no attribute {old:g}"
        options.compositeAttributes = np.frombuffer(content.replace(before, after), np.uint8)

    return edit


def inside(number: int, *edits: Edit) -> Edit:
    """Edits of what is inside the `number`-th composite: what runs where no delegate takes it whole."""

    def edit(model: Any, graph: Any) -> None:
        options = operator(model, graph, "STABLEHLO_COMPOSITE", number).builtinOptions2
        for change in edits:
            change(model, model.subgraphs[options.decompositionSubgraphIndex])

    return edit


def constant(kind: str, number: int, place: int, change: Callable[[Any], Any]) -> Edit:
    """A float constant that an operator reads, for this operator alone."""

    def edit(model: Any, graph: Any) -> None:
        op = operator(model, graph, kind, number)
        tensor = copy.copy(graph.tensors[int(op.inputs[place])])
        buffer = copy.copy(model.buffers[tensor.buffer])
        values = np.frombuffer(bytes(np.asarray(buffer.data, np.uint8)), np.float32)
        buffer.data = np.frombuffer(np.asarray(change(values), np.float32).tobytes(), np.uint8)
        tensor.buffer = len(model.buffers)
        model.buffers.append(buffer)
        inputs = [int(index) for index in op.inputs]
        inputs[place] = len(graph.tensors)
        graph.tensors.append(tensor)
        op.inputs = inputs

    return edit


def earlier(kind: str, number: int, before: tuple[str, int]) -> Edit:
    """An operator run before another one."""

    def edit(model: Any, graph: Any) -> None:
        moved, fixed = operator(model, graph, kind, number), operator(model, graph, *before)
        operators: Sequence[Any] = [op for op in graph.operators if op is not moved]
        at = next(place for place, op in enumerate(operators) if op is fixed)
        graph.operators = [*operators[:at], moved, *operators[at:]]

    return edit


def _kind(model: Any, op: Any) -> int:
    code = model.operatorCodes[op.opcodeIndex]
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def _code(kind: str) -> int:
    from ai_edge_litert import schema_py_generated as schema

    return int(getattr(schema.BuiltinOperator, kind))
