"""The constants that a recipe leaves in float, biases and norms and tables, against those of the float32 file.

In: a recipe's flatbuffer and the float32 one that it was made of. Out: findings. A quantiser keeps the names of
tensors and the order of subgraphs. What it makes narrow, and weights in float16, are for the audit of layers;
what else it rounds to float16 must be the nearest number there, and whatever it leaves in float32 the same bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import numpy as np
import numpy.typing as npt

from harness.align.views import TapSource
from harness.align.weights import file_weights
from harness.audit.finite import short_name
from harness.flatbuffer.constants import NARROW, whole_numbers
from harness.flatbuffer.reader import FlatbufferModel
from harness.names.codes import FindingCode
from harness.names.owners import RECIPE
from harness.record.record import Finding

_SHOWN = 8
Place = tuple[int, int]  # subgraph, tensor


def kept_findings(
    file: FlatbufferModel, plans: Mapping[str, Mapping[str, TapSource]], plain: FlatbufferModel, recipe: str
) -> list[Finding]:
    """One error for each constant of the float32 file that the recipe's file has in float and otherwise, or has not.

    plans: signature -> tap -> where it is in the recipe's file. plain: the float32 file. recipe: its name.
    """
    layers = list(file_weights(file, plans))
    biases = {(graph.index, weight.bias): weight.layer for graph, weight in layers if weight.bias is not None}
    weights = {(graph.index, weight.constant) for graph, weight in layers}
    differing = dict.fromkeys(_differing(file, plain, recipe, biases, weights))
    found = [_finding(recipe, layer, what) for layer, what in differing]
    if len(found) > _SHOWN:
        left = len(found) - _SHOWN
        constants = f"float constant{'s' if left > 1 else ''} of the {recipe} flatbuffer"
        more = f"{left} more {constants} {'are' if left > 1 else 'is'} not as in the float32 one"
        found[_SHOWN:] = [_finding(recipe, "", more)]
    return found


def _differing(
    file: FlatbufferModel, plain: FlatbufferModel, recipe: str, biases: Mapping[Place, str], weights: Set[Place]
) -> Iterator[tuple[str, str]]:
    """(the layer whose bias it is, or nothing; what is wrong)"""
    seen: set[tuple[int, int | None]] = set()  # signatures share numbers
    for index in range(plain.subgraph_count):
        graph = plain.subgraph(index)
        others = file.subgraph(index) if index < file.subgraph_count else None
        by_name = {tensor.name: tensor for tensor in others.tensors} if others is not None else {}
        for tensor in graph.tensors:
            if tensor.dtype != "FLOAT32" or not len(plain.buffer(tensor.buffer)):
                continue
            other = by_name.get(tensor.name)
            content = tensor.buffer, None if other is None else other.buffer
            if content in seen:
                continue
            seen.add(content)
            wanted = whole_numbers(plain, graph, tensor.index)
            assert wanted is not None
            if others is None or other is None:
                yield "", f"constant {short_name(tensor.name)} of the float32 flatbuffer is not in the {recipe} one"
            elif other.dtype in NARROW or (other.dtype == "FLOAT16" and (index, other.index) in weights):
                continue
            elif wrong := _wrong(wanted, whole_numbers(file, others, other.index)):
                layer = biases.get((index, other.index), "")
                what = f"the bias of {layer}" if layer else f"constant {short_name(tensor.name)}"
                yield layer, f"{what} in the {recipe} flatbuffer {wrong}"


def _wrong(wanted: npt.NDArray[np.float32], held: npt.NDArray[np.generic] | None) -> str:
    """What is wrong with a constant, in words; empty where it is right."""
    if held is None:
        return "holds no numbers, and the float32 one does"
    if held.shape != wanted.shape:
        return f"is {held.shape}, and {wanted.shape} in the float32 one"
    if held.dtype not in (np.float32, np.float16):
        return f"holds {held.dtype}, and the float32 one float32"
    with np.errstate(over="ignore"):
        expected = wanted.astype(held.dtype)
    differing = int((_bits(expected) != _bits(held)).sum())
    return f"differs from the float32 one's in {differing} of its {wanted.size} numbers" if differing else ""


def _bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """By which numbers are equal bit by bit, NaN among them."""
    return np.ascontiguousarray(values).view(np.uint16 if values.dtype == np.float16 else np.uint32)


def _finding(recipe: str, layer: str, what: str) -> Finding:
    code, owner = FindingCode.RECIPE_FLOAT_DIFFERS, f"{RECIPE} {recipe}"
    return Finding(kind="weights", code=code, severity="error", what=what, owner=owner, key=layer)
