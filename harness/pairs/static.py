"""What two files hold otherwise in operators that match, by reading: kinds, options, constants and their scales.

In: a signature of both files, and which tensor is which. Out: `Found`: the differences, and whether types or grids
differ, so that errors have a price. Inputs that are drawn do not reach everything; what is read here needs none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from harness.flatbuffer.constants import NARROW
from harness.flatbuffer.reader import FlatbufferModel, Operator, Signature, Subgraph, enum_names
from harness.pairs.constants import Gap, Place, constant_gap, is_constant, same_bytes, scale_gap
from harness.pairs.matching import match
from harness.plain import tail
from harness.record.pair import PairOperator, PairStatic

_SHAPES = {("RESHAPE", 1), ("BROADCAST_TO", 1)}  # what such a constant says is the shape of the output, as well
_OF_GRIDS = {"asymmetricQuantizeInputs", "quantizedBiasType"}  # options that come with a grid
_NOT_COMPARED = {"newShape"}  # RESHAPE has its shape as an input
_ENUMS = {"fusedActivationFunction": "ActivationFunctionType", "padding": "Padding"}


@dataclass(frozen=True)
class Found:
    """differences: in B's order. priced: whether an error in this signature may be the price of a type or a grid."""

    differences: tuple[PairStatic, ...]
    priced: bool

    def why(self, operator: int) -> str:
        """What differs in an operator of B, in words; empty where nothing does."""
        return "; ".join(each.words for each in self.differences if each.b.index == operator)


@dataclass
class _Walk:
    """Of one subgraph of both files. compared: constants that were laid beside each other, in A and in B."""

    name: str
    graphs: tuple[Subgraph, Subgraph]
    pairs: dict[int, int]
    differences: list[PairStatic] = field(default_factory=list)
    compared: tuple[set[int], set[int]] = field(default_factory=lambda: (set(), set()))
    priced: bool = False

    def __post_init__(self) -> None:
        self.makers = [graph.producers() for graph in self.graphs]

    def partner(self, op: Operator) -> Operator | None:
        """The operator of A that makes what one of B makes."""
        return next((self.makers[0][self.pairs[i]] for i in op.outputs if self.pairs.get(i) in self.makers[0]), None)


class Static:
    """Of two files. narrow: whether one of them holds narrow numbers."""

    def __init__(self, a: FlatbufferModel, b: FlatbufferModel, narrow: bool) -> None:
        self.models = a, b
        self.narrow = narrow
        self._bytes: dict[tuple[int, int], bool] = {}

    def of(self, a: Signature, b: Signature, pairs: Mapping[int, int]) -> Found:
        """pairs: tensors of B -> of A, the signatures' inputs and outputs among them."""
        graphs = self.models[0].subgraph(a.subgraph), self.models[1].subgraph(b.subgraph)
        walk = self._walked(a.name, graphs, dict(pairs))
        # What was not laid beside its partner may be on another grid: the difference may be its price.
        lone = any(self._lone(walk, number) for number in (0, 1))
        return Found(tuple(walk.differences), self.narrow and (walk.priced or lone))

    def _walked(self, name: str, graphs: tuple[Subgraph, Subgraph], pairs: dict[int, int]) -> _Walk:
        walk = _Walk(name, graphs, pairs)
        taken = set(pairs.values())
        for op in reversed(graphs[1].operators):
            other = walk.partner(op)
            if other is not None and other.kind == op.kind:
                _pair_inputs(walk, other, op, taken)
        for op in graphs[1].operators:
            other = walk.partner(op)
            if other is not None and self._same_inputs(walk, other, op):
                self._operators(walk, other, op)
        return walk

    def _same_inputs(self, walk: _Walk, a: Operator, b: Operator) -> bool:
        """Whether two operators read the same tensors, constants aside."""
        for here, there in _inputs(a, b):
            fixed = [self._constant(walk, side, index) for side, index in ((0, here), (1, there))]
            if fixed[0] is None and fixed[1] is None and here >= 0 and there >= 0:
                if walk.pairs.get(there) != here:
                    return False
            elif (fixed[0] is None and here >= 0) or (fixed[1] is None and there >= 0):
                return False
        return True

    def _operators(self, walk: _Walk, a: Operator, b: Operator) -> None:
        kinds = [op.composite or op.kind for op in (a, b)]
        if kinds[0] != kinds[1]:
            self._tell(walk, a, b, "operator", "", f"{kinds[0]} in A is {kinds[1]} in B")
            return
        unlike = False
        for here, there in zip(a.outputs, b.outputs, strict=False):
            gap = scale_gap(self._place(walk, 0, here), self._place(walk, 1, there))
            unlike = unlike or not gap.alike
            walk.priced = walk.priced or not gap.alike or gap.rounded
            if gap.words:
                name = walk.graphs[1].tensors[there].name
                self._tell(walk, a, b, "scale", name, f"what it gives {gap.words}", error=True)
        for place, (here, there) in enumerate(_inputs(a, b)):
            unlike = not self._constants(walk, a, b, place, here, there) or unlike
        options = [self._options(walk, side, op) for side, op in enumerate((a, b))]
        for key in dict.fromkeys([*options[0], *options[1]]):
            values = [_said(key, each.get(key)) for each in options]
            if values[0] != values[1] and not (unlike and key in _OF_GRIDS):
                self._tell(walk, a, b, "option", key, f"its option {key} is {values[0]} in A and {values[1]} in B")
        if a.decomposition is not None and b.decomposition is not None:
            self._inside(walk, a, b)

    def _inside(self, walk: _Walk, a: Operator, b: Operator) -> None:
        """The operators of a composite. They are told at the composite."""
        assert a.decomposition is not None and b.decomposition is not None
        (one, at), (other, there) = zip(self.models, (a.decomposition, b.decomposition), strict=True)
        known = dict(zip(other.subgraph_inputs(there), one.subgraph_inputs(at), strict=False))
        known |= dict(zip(other.subgraph_outputs(there), one.subgraph_outputs(at), strict=False))
        graphs = one.subgraph(at), other.subgraph(there)
        inner = self._walked(walk.name, graphs, match(*graphs, known, {}, {}).pairs)
        for each in inner.differences:
            words = f"in its operator {each.b.index} ({each.b.kind}): {each.words}"
            places = {
                "a": operator_of(walk.graphs[0], a, a.outputs[0]),
                "b": operator_of(walk.graphs[1], b, b.outputs[0]),
            }
            walk.differences.append(each.model_copy(update={**places, "words": words}))
        walk.priced = walk.priced or inner.priced or any(self._lone(inner, number) for number in (0, 1))

    def _constants(self, walk: _Walk, a: Operator, b: Operator, place: int, here: int, there: int) -> bool:
        """Returns whether they are alike, as is what is not a constant."""
        fixed = [self._constant(walk, side, index) for side, index in ((0, here), (1, there))]
        one, other = fixed
        if one is None or other is None:
            if (lone := one or other) is not None and not _is_zero(lone):
                where = "A" if other is None else "B"
                words = f"its constant {place} ({tail(lone.tensor.name, 60)}) is in {where} alone"
                self._tell(walk, a, b, "constant", lone.tensor.name, words)
            return True
        walk.compared[0].add(one.index)
        walk.compared[1].add(other.index)
        what = f"its constant {place} ({tail(other.tensor.name, 60)})"
        if one.tensor.shape != other.tensor.shape:
            if (b.kind, place) not in _SHAPES:
                words = f"{what} is {list(one.tensor.shape)} in A and {list(other.tensor.shape)} in B"
                self._tell(walk, a, b, "constant", other.tensor.name, words)
            return True
        gap = self._gap(one, other)
        walk.priced = walk.priced or not gap.alike or gap.rounded
        if gap.words and (b.kind, place) not in _SHAPES:
            # A whole number without a scale is an axis or a size, which two converters may write in two ways.
            plain = other.tensor.dtype in ("INT32", "INT64", "BOOL") and not other.is_scaled
            self._tell(
                walk, a, b, "constant", other.tensor.name, f"{what} {gap.words}", error=not plain and not gap.rounded
            )
        return gap.alike

    def _gap(self, a: Place, b: Place) -> Gap:
        key = a.tensor.buffer, b.tensor.buffer
        if key not in self._bytes:
            self._bytes[key] = same_bytes(a, b)
        return constant_gap(a, b, self._bytes[key])

    def _place(self, walk: _Walk, side: int, index: int) -> Place:
        return Place(self.models[side], walk.graphs[side], index)

    def _constant(self, walk: _Walk, side: int, index: int) -> Place | None:
        """A constant that an operator reads, by a DEQUANTIZE too; None for a tensor that is computed."""
        if index < 0:
            return None
        place = self._place(walk, side, index)
        if is_constant(place):
            return place
        maker = walk.makers[side].get(index)
        return self._constant(walk, side, maker.inputs[0]) if maker is not None and maker.kind == "DEQUANTIZE" else None

    def _options(self, walk: _Walk, side: int, op: Operator) -> dict[str, Any]:
        options = self.models[side].all_options(walk.graphs[side].index, op.index)
        return {k: v for k, v in options.items() if k not in _NOT_COMPARED and "subgraph" not in k.lower()}

    def _tell(
        self,
        walk: _Walk,
        a: Operator,
        b: Operator,
        what: Literal["operator", "option", "constant", "scale"],
        name: str,
        words: str,
        error: bool = False,
    ) -> None:
        walk.differences.append(
            PairStatic(
                signature=walk.name,
                severity="error" if error and self.narrow else "warning",
                what=what,
                name=name,
                a=operator_of(walk.graphs[0], a, a.outputs[0]),
                b=operator_of(walk.graphs[1], b, b.outputs[0]),
                words=words,
            )
        )

    def _lone(self, walk: _Walk, side: int) -> bool:
        """Whether a narrow constant was not laid beside one of the other file."""
        read = {index for op in walk.graphs[side].operators for index in op.inputs if index >= 0}
        places = (self._place(walk, side, index) for index in sorted(read - walk.compared[side]))
        return any(each.tensor.dtype in NARROW and is_constant(each) and each.is_scaled for each in places)


def operator_of(graph: Subgraph, op: Operator | None, tensor: int) -> PairOperator:
    """op: None for an input."""
    name = graph.tensors[tensor].name
    return PairOperator(kind=(op.composite or op.kind) if op else "input", index=op.index if op else -1, tensor=name)


def _inputs(a: Operator, b: Operator) -> Iterator[tuple[int, int]]:
    """Side by side; -1 where one has none."""
    length = max(len(a.inputs), len(b.inputs))
    for place in range(length):
        yield tuple(op.inputs[place] if place < len(op.inputs) else -1 for op in (a, b))  # type: ignore[misc]


def _pair_inputs(walk: _Walk, a: Operator, b: Operator, taken: set[int]) -> None:
    """What two operators that match read, where nothing else matches it: a tensor that another kind of operator makes
    has no partner by its name."""
    sides = list(zip(a.inputs, b.inputs, strict=False))
    free = [(x, y) for x, y in sides if x in walk.makers[0] and y in walk.makers[1] and walk.pairs.get(y) != x]
    if len(free) == 1:
        here, there = free[0]
        shapes = [graph.tensors[at].shape for graph, at in zip(walk.graphs, free[0], strict=True)]
        if there not in walk.pairs and here not in taken and shapes[0] == shapes[1]:
            walk.pairs[there] = here
            taken.add(here)


def _is_zero(place: Place) -> bool:
    return not np.asarray(place.model.buffer(place.tensor.buffer)).any()


def _said(key: str, value: Any) -> str:
    """An option for people; arrays whole, so that no two are the same in words alone."""
    if key in _ENUMS and isinstance(value, int):
        return enum_names(_ENUMS[key]).get(value, str(value))
    return str(np.asarray(value).tolist()) if isinstance(value, np.ndarray) else str(value)


__all__ = ["Found", "Static", "operator_of"]
