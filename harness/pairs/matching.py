"""Which tensor of one file is which of another: by name, by structure, by value.

In: the same signature of both, and what their tensors hold on the same inputs. Out: pairs, each with how it was found.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.flatbuffer.reader import Operator, Subgraph

Array = np.ndarray[Any, Any]
NAME, STRUCTURE, VALUE = "name", "structure", "value"
_SAME = 1e-3  # two tensors whose sums are closer than this share of their norms may be one
_FEWEST = 8  # numbers of a tensor that its values can tell from another


@dataclass
class Matched:
    """b -> a, both tensors of the signature's subgraph; how: b -> how it was found."""

    pairs: dict[int, int] = field(default_factory=dict)
    how: dict[int, str] = field(default_factory=dict)

    def add(self, b: int, a: int, how: str) -> None:
        self.pairs[b], self.how[b] = a, how


def match(
    a: Subgraph, b: Subgraph, known: Mapping[int, int], values_a: Mapping[int, Array], values_b: Mapping[int, Array]
) -> Matched:
    """known: b -> a of the signature's inputs and outputs, which are the same by their names there."""
    found = Matched()
    taken: set[int] = set()
    for there, here in known.items():
        found.add(there, here, NAME)
        taken.add(here)
    _by_name(a, b, found, taken)
    _by_structure(a, b, found, taken)
    _by_value(found, taken, values_a, values_b)
    return found


def computed(graph: Subgraph) -> list[int]:
    """What operators write, in the order in which they run."""
    return [index for op in graph.operators for index in op.outputs]


def _by_name(a: Subgraph, b: Subgraph, found: Matched, taken: set[int]) -> None:
    """A name that stands once in each, of a tensor of one shape that one kind of operator writes.

    Converters number names that would be the same, and number others once a pass was left out.
    """
    writers = a.producers(), b.producers()
    named: dict[str, list[int]] = {}
    for index in computed(a):
        named.setdefault(a.tensors[index].name, []).append(index)
    for index in computed(b):
        places = named.get(b.tensors[index].name, [])
        free = [place for place in places if place not in taken]
        if index not in found.pairs and b.tensors[index].name and len(places) == len(free) == 1:
            same = a.tensors[free[0]].shape == b.tensors[index].shape
            if same and _kind(writers[0][free[0]]) == _kind(writers[1][index]):
                found.add(index, free[0], NAME)
                taken.add(free[0])


def _by_structure(a: Subgraph, b: Subgraph, found: Matched, taken: set[int]) -> None:
    """What operators of one kind make of tensors that are matched, where there is one such operator."""
    made_a = set(computed(a)) | set(found.pairs.values())
    readers: dict[tuple[str, tuple[int, ...]], list[Operator]] = {}
    for op in a.operators:
        readers.setdefault((_kind(op), tuple(i for i in op.inputs if i in made_a)), []).append(op)
    made_b = set(computed(b)) | set(found.pairs)
    for op in b.operators:
        inputs = [index for index in op.inputs if index in made_b]
        if not inputs or any(index not in found.pairs for index in inputs):
            continue
        same = readers.get((_kind(op), tuple(found.pairs[index] for index in inputs)), [])
        same = [other for other in same if not taken & set(other.outputs) and len(other.outputs) == len(op.outputs)]
        if len(same) != 1 or any(index in found.pairs for index in op.outputs):
            continue
        for there, here in zip(op.outputs, same[0].outputs, strict=True):
            if a.tensors[here].shape == b.tensors[there].shape:
                found.add(there, here, STRUCTURE)
                taken.add(here)


def _kind(op: Operator) -> str:
    return op.composite or op.kind


def _by_value(found: Matched, taken: set[int], values_a: Mapping[int, Array], values_b: Mapping[int, Array]) -> None:
    """Tensors of as many numbers that hold the same, whatever their shapes: a converter may move a reshape."""
    free: dict[int, list[int]] = {}
    for here, values in values_a.items():
        if here not in taken and _tells(values):
            free.setdefault(values.size, []).append(here)
    for there, values in values_b.items():
        if there in found.pairs or not _tells(values) or values.size not in free:
            continue
        near = [here for here in free[values.size] if _near(values_a[here], values)]
        if len(near) == 1:
            found.add(there, near[0], VALUE)
            free[values.size].remove(near[0])


def _tells(values: Array) -> bool:
    wide = values.dtype.kind == "f" and values.size >= _FEWEST
    return wide and bool(np.isfinite(values).all()) and bool(np.ptp(values) > 0)


def _near(one: Array, other: Array) -> bool:
    left, right = one.reshape(-1).astype(np.float64), other.reshape(-1).astype(np.float64)
    size = float(np.linalg.norm(left))
    return size > 0 and float(np.linalg.norm(left - right)) < _SAME * size
