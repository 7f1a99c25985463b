"""The constants that a recipe leaves in float, biases and norms and tables, against those of the float32 file.

In: a recipe's flatbuffer and the float32 one that it was made of. Out: findings. A quantiser keeps the names of
tensors and the order of subgraphs. What it makes narrow, and weights in float16, are for the audit of layers;
what else it rounds to float16 must be the nearest number there, and whatever it leaves in float32 the same bit by bit.

A converter that quantises while it converts keeps neither: there each float constant must be one of the float32 file's
by its numbers, and each of those must be among the float constants, or the weight of a layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.align.views import TapSource
from harness.align.weights import file_weights
from harness.audit.finite import short_name
from harness.flatbuffer.constants import NARROW, whole_numbers
from harness.flatbuffer.quantised import Floats, dequantised
from harness.flatbuffer.reader import FlatbufferModel
from harness.names.codes import FindingCode
from harness.names.owners import RECIPE
from harness.record.record import Finding

_SHOWN = 8
_WHOLE = ("INT8", "INT16", "INT32")
_HALF = 0.505  # of a step: next to a tie a converter that divides in float32 takes the other number
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
    return _told([_finding(recipe, layer, what) for layer, what in differing], recipe)


def _told(found: list[Finding], recipe: str) -> list[Finding]:
    """The first few, and how many more there are."""
    if len(found) > _SHOWN:
        left = len(found) - _SHOWN
        constants = f"float constant{'s' if left > 1 else ''} of the {recipe} flatbuffer"
        more = f"{left} more {constants} {'are' if left > 1 else 'is'} not as in the float32 one"
        found[_SHOWN:] = [_finding(recipe, "", more)]
    return found


def found_findings(
    file: FlatbufferModel, plans: Mapping[str, Mapping[str, TapSource]], plain: FlatbufferModel, recipe: str
) -> list[Finding]:
    """As `kept_findings`, of a file that a converter made by itself: by numbers, and not by names.

    plans: signature -> tap -> where it is in the recipe's file. plain: the float32 file. recipe: its name.
    """
    layers = list(file_weights(file, plans))
    weights = {(graph.index, weight.constant) for graph, weight in layers}
    shapes = {graph.tensors[weight.constant].shape for graph, weight in layers}  # of what is held against the rules
    biases = {(graph.index, weight.bias): weight.layer for graph, weight in layers if weight.bias is not None}
    wanted = {_content(values): name for _, name, values in _floats(plain)}
    halves = {_content(_half(values)): name for _, name, values in _floats(plain)}
    seen: set[tuple[bytes, ...]] = set()
    told: dict[tuple[bytes, ...], tuple[str, str]] = {}
    for place, name, values in _floats(file):
        content = _content(values)
        seen.add(content)
        known = halves if values.dtype == np.float16 else wanted
        if place not in weights and content not in known:
            layer = biases.get(place, "")
            what = f"the bias of {layer}" if layer else f"constant {name}"
            told.setdefault(content, (layer, f"{what} in the {recipe} flatbuffer is not a constant of the float32 one"))
    for _, name, values in _floats(plain):
        content = _content(values)
        held_here = {content, _content(_half(values))} & seen or values.size == 1 or values.shape in shapes
        if not held_here and (wrong := _not_held(file, values)):
            told[content] = ("", f"constant {name} of the float32 flatbuffer {wrong.format(recipe)}")
    return _told([_finding(recipe, layer, what) for layer, what in told.values()], recipe)


def _not_held(file: FlatbufferModel, values: npt.NDArray[Any]) -> str:
    """Why no whole numbers of the file stand for a constant, in words; empty where some do."""
    found = stands_for(file, values)
    if found is None:
        return "is not in the {} one"
    beyond = int((np.abs(found[0] - values) > _HALF * found[1]).sum())
    return f"has {beyond} of {values.size} numbers outside the range that the {{}} one keeps" if beyond else ""


def stands_for(file: FlatbufferModel, wanted: npt.NDArray[Any]) -> tuple[Floats, Floats] | None:
    """What the whole numbers of a constant stand for that is made of some numbers, and the step of each.

    It is the one with most of them within half a step; none where that is less than half of them.
    wanted: of any axes; those of one number do not count. Returns the same shape.
    """
    best, most = None, wanted.size / 2
    shape = tuple(size for size in wanted.shape if size != 1)
    for index in range(file.subgraph_count):
        graph = file.subgraph(index)
        for tensor in graph.tensors:
            if tensor.dtype not in _WHOLE or tuple(size for size in tensor.shape if size != 1) != shape:
                continue
            found = dequantised(file, graph, tensor.index)
            if found is not None and found[1].any():
                values, step = (part.reshape(wanted.shape) for part in found)
                near = int((np.abs(values - wanted) <= _HALF * step).sum())
                if near > most:
                    best, most = (values, step), near
    return best


def _floats(file: FlatbufferModel) -> Iterator[tuple[Place, str, npt.NDArray[np.generic]]]:
    for index in range(file.subgraph_count):
        graph = file.subgraph(index)
        for tensor in graph.tensors:
            if tensor.dtype in ("FLOAT32", "FLOAT16") and len(file.buffer(tensor.buffer)):
                values = whole_numbers(file, graph, tensor.index)
                assert values is not None
                yield (index, tensor.index), short_name(tensor.name), values


def _half(values: npt.NDArray[Any]) -> npt.NDArray[np.generic]:
    """The nearest numbers of float16; TensorFlow's converter keeps the largest one in place of infinity."""
    most = np.finfo(np.float16).max
    nearest: npt.NDArray[np.generic] = np.clip(values, -most, most).astype(np.float16)
    return nearest


def _content(values: npt.NDArray[np.generic]) -> tuple[bytes, ...]:
    """What says that two constants hold the same, whatever axes of one number they have."""
    shape = tuple(size for size in values.shape if size != 1)
    return str(shape).encode(), hashlib.sha256(np.ascontiguousarray(values).data).digest()


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
