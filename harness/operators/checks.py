"""Which operator of a range does not compute what it says: the kernel is wrong, or it is not.

In: a range, the values it reads, and a way to run operators of the file on the runtime in question. Out: for each
operator how far its output is from what its definition allows on the inputs that it was given, within composites too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from harness.flatbuffer.reader import Operator, Subgraph
from harness.operators.definitions import ROUNDOFF, Array, define
from harness.operators.evaluate import Evaluator, Key, wide

# subgraph, operators, values of what they read -> values of all that they write, as the runtime computes them
RunRange = Callable[[int, Sequence[int], Mapping[int, Array]], dict[int, Array]]
# A composite may run as one kernel, which adds in an order of its own.
_COMPOSITE_UNITS = 50
_LARGEST = float(np.finfo(np.float32).max)
_TYPES = {"FLOAT32": np.float32, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}


@dataclass(frozen=True)
class Checked:
    """An operator, and how far its output is from its definition: in units of what is allowed, so up to 1 is right.

    error: the largest difference. composites: the names of those that it lies in, outermost first.
    """

    subgraph: int
    operator: Operator
    ratio: float
    error: float
    composites: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        return self.ratio <= 1 + 1e-6  # a single rounding may be as large as its bound


def check_kernels(
    evaluator: Evaluator,
    subgraph: int,
    operators: Sequence[int],
    inputs: Mapping[int, Array],
    run: RunRange,
    composites: tuple[str, ...] = (),
) -> Iterator[Checked]:
    """Every operator of a range in execution order, those of a composite before the composite itself.

    A composite is right if it gives what its operators come to by their definitions, but for rounding. An operator
    without a definition here is left out.
    """
    graph = evaluator.graph(subgraph)
    values = {**inputs, **run(subgraph, operators, inputs)}
    keyed: dict[Key, Array] = {((), subgraph, index): array for index, array in values.items()}
    for op in (graph.operators[index] for index in operators):
        if op.decomposition is not None:
            inside = evaluator.graph(op.decomposition)
            entries = zip(evaluator.model.subgraph_inputs(inside.index), op.inputs, strict=True)
            given = {
                inner: _typed(inside, inner, evaluator.value(((), subgraph, index), keyed)) for inner, index in entries
            }
            everything = range(len(inside.operators))
            names = (*composites, op.composite or op.kind)
            yield from check_kernels(evaluator, inside.index, everything, given, run, names)
        with suppress(NotImplementedError):
            yield _check(evaluator, graph, op, keyed, composites)


def _check(
    evaluator: Evaluator, graph: Subgraph, op: Operator, values: Mapping[Key, Array], composites: tuple[str, ...]
) -> Checked:
    flat = evaluator.flat(graph.index, [op.index])
    found = values[(), graph.index, op.outputs[0]]
    if op.decomposition is None:
        expected, bound = define(evaluator.call(flat.nodes[0], values))
        return _checked(graph.index, op, found, expected, bound, composites)
    given = {key: values[key] for key in values if key[2] in op.inputs}
    expected = evaluator.run(flat.nodes, given)[flat.key_of(op.outputs[0])].reshape(found.shape)
    size = float(np.abs(expected).max()) if expected.size else 0.0
    return _checked(graph.index, op, found, expected, _COMPOSITE_UNITS * ROUNDOFF * size, composites)


def _typed(graph: Subgraph, index: int, values: Array) -> Array:
    return values.astype(_TYPES[graph.tensors[index].dtype])


def _checked(
    subgraph: int, op: Operator, found: Array, expected: Array, bound: Array | float, composites: tuple[str, ...]
) -> Checked:
    if found.dtype.kind == "f":
        # Builtin kernels clip to the range of float32 even without an activation: minus infinity, as masks have it,
        # becomes the smallest float32.
        one, other = (np.clip(wide(values), -_LARGEST, _LARGEST) for values in (found, expected))
        difference = np.where(np.isnan(one) & np.isnan(other), 0.0, np.abs(one - other))
    else:
        difference = (found != expected).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(difference == 0, 0.0, difference / np.asarray(bound))
    return Checked(subgraph, op, _largest(ratio), _largest(difference), composites)


def _largest(values: Array) -> float:
    return float(np.nan_to_num(values, nan=np.inf, posinf=np.inf).max()) if values.size else 0.0
