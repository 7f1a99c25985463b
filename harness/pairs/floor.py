"""What float32 costs at each tensor of a file, where there is no oracle: its operators by their float64 definitions.

In: a file, a signature's subgraph and what its tensors hold on some inputs. Out: every tensor in float64 that has a
definition all the way from the inputs; kinds of operators that have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.flatbuffer.quantised import constant
from harness.flatbuffer.reader import FlatbufferModel, Operator, Subgraph
from harness.operators.definitions import define
from harness.operators.evaluate import Evaluator, Key, wide

Array = np.ndarray[Any, Any]
_PIECE = 1 << 20  # numbers of a weight that are wide at once


def in_float64(
    model: FlatbufferModel, subgraph: int, inputs: Mapping[int, Array], computed: Mapping[int, Array]
) -> tuple[dict[int, Array], list[str]]:
    """Tensor -> float64 values, and the kinds without a definition.

    inputs, computed: tensor -> values, of the signature's inputs and as a runtime computed the others. What an operator
    without a definition gives is taken as the runtime has it, and is not among those returned, nor is what rests on it
    alone told as exact: its own error is then missing from the floor, which is so much lower.
    """
    evaluator = Evaluator(model)
    graph = model.subgraph(subgraph)
    found: dict[Key, Array] = {((), subgraph, index): wide(values) for index, values in inputs.items()}
    exact: dict[int, Array] = {}
    undefined: dict[str, None] = {}
    for op in graph.operators:
        try:
            if op.kind == "FULLY_CONNECTED":
                found[((), subgraph, op.outputs[0])] = exact[op.outputs[0]] = _linear(evaluator, graph, op, found)
                continue
            flat = evaluator.flat(subgraph, [op.index])
            for node in flat.nodes:
                found[node.output] = define(evaluator.call(node, found))[0]
            for index in op.outputs:
                key = flat.key_of(index)
                exact[index] = found[((), subgraph, index)] = (
                    found[key] if key in found else evaluator.value(key, found)
                )
        except (NotImplementedError, KeyError, ValueError, IndexError, TypeError, AssertionError):
            undefined[op.composite or op.kind] = None
            for index in op.outputs:
                if index in computed:
                    found[((), subgraph, index)] = wide(computed[index])
        evaluator.forget_constants()
        for key in [key for key in found if key[0]]:  # within a composite: nobody reads it any more
            del found[key]
    return {index: np.asarray(values) for index, values in exact.items()}, list(undefined)


def _linear(evaluator: Evaluator, graph: Subgraph, op: Operator, found: Mapping[Key, Array]) -> Array:
    """FULLY_CONNECTED with its weight made wide a piece at a time, and without a bound on its error: most of a model's
    time is in these. Raises NotImplementedError as `define` does."""
    held = constant(evaluator.model, graph, op.inputs[1])
    fused = int(evaluator.options(graph.index, op).get("fusedActivationFunction", 0))
    if held is None or held.dtype != np.float32 or fused:
        flat = evaluator.flat(graph.index, [op.index])
        return define(evaluator.call(flat.nodes[0], found))[0]
    rows = evaluator.value(((), graph.index, op.inputs[0]), found).reshape(-1, held.shape[1])
    made = np.empty((len(rows), len(held)))
    step = max(1, _PIECE // held.shape[1])
    for start in range(0, len(held), step):
        np.matmul(rows, held[start : start + step].astype(np.float64).T, out=made[:, start : start + step])
    if len(op.inputs) > 2 and op.inputs[2] >= 0:
        made += evaluator.value(((), graph.index, op.inputs[2]), found)
    return made.reshape(graph.tensors[op.outputs[0]].shape)
