"""Compute a range of operators by their definitions, as the graph says, whatever a runtime makes of it.

In: a file, operators of one of its subgraphs and the values of the tensors they read. Out: every tensor of the range,
in float64. Composites are taken apart into the operators of their decompositions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.flatbuffer.constants import NARROW
from harness.flatbuffer.quantised import constant
from harness.flatbuffer.reader import FlatbufferModel, Operator, Subgraph
from harness.operators.definitions import Array, Call, define

_COMPUTED = ("FLOAT32", "INT32", "INT64", "BOOL")
# The composites that a tensor lies in (their operators' numbers, outermost first), its subgraph and its number there.
Key = tuple[tuple[int, ...], int, int]


@dataclass(frozen=True)
class Node:
    """An operator of a range. composites: names of those it lies in. inputs: None where an optional one is absent."""

    path: tuple[int, ...]
    composites: tuple[str, ...]
    subgraph: int
    operator: Operator
    inputs: tuple[Key | None, ...]
    output: Key


@dataclass(frozen=True)
class FlatGraph:
    """A range without composites. alias: what a tensor outside a composite is inside it, or the reverse."""

    subgraph: int
    nodes: list[Node]
    alias: Mapping[Key, Key]

    def key_of(self, tensor: int) -> Key:
        """Where the values of a tensor of the range's own subgraph are: inside a composite if that makes them."""
        own = ((), self.subgraph, tensor)
        return self.alias.get(own, own)


class Evaluator:
    """Definitions of a file's operators. Subgraphs, options and constants are read once."""

    def __init__(self, model: FlatbufferModel) -> None:
        self.model = model
        self._graphs: dict[int, Subgraph] = {}
        self._constants: dict[tuple[int, int], Array | None] = {}
        self._options: dict[tuple[int, int], dict[str, Any]] = {}

    def graph(self, index: int) -> Subgraph:
        if index not in self._graphs:
            self._graphs[index] = self.model.subgraph(index)
        return self._graphs[index]

    def constant(self, subgraph: int, index: int) -> Array | None:
        key = (subgraph, index)
        if key not in self._constants:
            values = constant(self.model, self.graph(subgraph), index)
            self._constants[key] = None if values is None else wide(values)
        return self._constants[key]

    def forget_constants(self) -> None:
        """In float64 the weights of a model take twice their file."""
        self._constants.clear()

    def options(self, subgraph: int, op: Operator) -> dict[str, Any]:
        key = (subgraph, op.index)
        if key not in self._options:
            self._options[key] = self.model.options(*key)
        return self._options[key]

    def flat(self, subgraph: int, operators: Iterable[int]) -> FlatGraph:
        """The operators in execution order, those of composites in the composites' place."""
        alias: dict[Key, Key] = {}
        return FlatGraph(subgraph, list(self._flattened(subgraph, operators, (), (), alias)), alias)

    def _flattened(
        self,
        subgraph: int,
        operators: Iterable[int],
        path: tuple[int, ...],
        names: tuple[str, ...],
        alias: dict[Key, Key],
    ) -> Iterator[Node]:
        graph = self.graph(subgraph)
        for op in (graph.operators[index] for index in operators):
            own = ((path, subgraph, index) for index in op.inputs)
            inputs = tuple(None if key[2] < 0 else alias.get(key, key) for key in own)
            if op.decomposition is None:
                if len(op.outputs) != 1:
                    raise NotImplementedError(f"{op.kind} with {len(op.outputs)} outputs has no definition here")
                yield Node(path, names, subgraph, op, inputs, (path, subgraph, op.outputs[0]))
                continue
            inner = (*path, op.index)
            for index, key in zip(self.model.subgraph_inputs(op.decomposition), inputs, strict=True):
                assert key is not None
                alias[inner, op.decomposition, index] = key
            inside = range(len(self.graph(op.decomposition).operators))
            yield from self._flattened(op.decomposition, inside, inner, (*names, op.composite or op.kind), alias)
            for index, made in zip(op.outputs, self.model.subgraph_outputs(op.decomposition), strict=True):
                result = (inner, op.decomposition, made)
                alias[path, subgraph, index] = alias.get(result, result)

    def value(self, key: Key, values: Mapping[Key, Array]) -> Array:
        """Raises KeyError for a value that nobody has."""
        if key in values:
            return wide(values[key])
        _, subgraph, tensor = key
        found = self.constant(subgraph, tensor)
        if found is None:
            raise KeyError(f"tensor {tensor} ({self.graph(subgraph).tensors[tensor].name}) has no value")
        return found

    def call(self, node: Node, values: Mapping[Key, Array]) -> Call:
        """A node with what it reads, from `values` or the file.

        Raises NotImplementedError where activations are quantised: their definitions are not here.
        """
        graph, op = self.graph(node.subgraph), node.operator
        for key in (node.output, *(key for key in node.inputs if key is not None)):
            kind = self.graph(key[1]).tensors[key[2]].dtype
            if kind not in _COMPUTED and self.constant(key[1], key[2]) is None:
                raise NotImplementedError(f"{op.kind} on {kind} has no definition here")
        inputs = [None if key is None else self.value(key, values) for key in node.inputs]
        narrow = any(graph.tensors[index].dtype in NARROW for index in op.inputs if index >= 0)
        return Call(op.kind, inputs, self.options(node.subgraph, op), graph.tensors[op.outputs[0]].shape, narrow)

    def run(self, nodes: Sequence[Node], values: Mapping[Key, Array]) -> dict[Key, Array]:
        """Tensor -> values, float64, for the inputs and everything that the nodes compute."""
        found = {key: wide(array) for key, array in values.items()}
        for node in nodes:
            found[node.output] = define(self.call(node, found))[0]
        return found


def wide(values: Array) -> Array:
    """Floats as float64; whole numbers as they are."""
    return values.astype(np.float64, copy=False) if np.issubdtype(values.dtype, np.floating) else values
