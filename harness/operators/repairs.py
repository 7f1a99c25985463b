"""What an operator could have been: single changes to a graph, each with what the operator would give then.

In: an operator with what it reads. Out: `Repair`s. Whether one is right is found by computing the rest of the range
with it: if the faulty tap becomes the reference's, the repair names the fault. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.operators.definitions import Array, Call, define

_MOST = 200  # of one kind at one operator
_SWAPPABLE = ("ADD", "SUB", "MUL", "DIV", "MINIMUM", "MAXIMUM", "SQUARED_DIFFERENCE")
_UNARY = ("LOGISTIC", "TANH", "GELU", "SIN", "COS", "RSQRT", "SQRT", "EXP", "RELU", "NEG", "ABS")
_COMPARISONS = ("LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "EQUAL", "NOT_EQUAL")
_FAMILIES = (_SWAPPABLE, _UNARY, _COMPARISONS, ("LOGICAL_AND", "LOGICAL_OR"), ("MEAN", "SUM"))


@dataclass(frozen=True)
class Repair:
    """change: what would have to be so, in words. values: what the operator gives then."""

    change: str
    values: Array


def repairs(call: Call) -> Iterator[Repair]:
    """Single changes to an operator itself: its options, its kind, the order of what it reads."""
    for make in (_moves, _slices, _order_of_inputs, _options, _kinds, _axes):
        for change, changed in itertools.islice(make(call), _MOST):
            values = _computed(changed)
            if values is not None:
                yield Repair(change, values)


def rewired(call: Call, others: Mapping[str, Array]) -> Iterator[Repair]:
    """An operator that reads another tensor instead of one of its own. others: name -> candidates of any shape."""
    for place, own in enumerate(call.inputs):
        if own is None or own.size < 2:
            continue
        for name, other in others.items():
            if other.shape != own.shape or other is own or np.array_equal(other, own):
                continue
            inputs = [*call.inputs[:place], other, *call.inputs[place + 1 :]]
            values = _computed(lambda inputs=inputs: define(replace(call, inputs=inputs))[0])  # type: ignore[misc]
            if values is not None:
                yield Repair(f"input {place} should be {name}", values)


_Change = tuple[str, Callable[[], Array]]


def _computed(compute: Callable[[], Array]) -> Array | None:
    try:
        with np.errstate(all="ignore"):
            return compute()
    except (ValueError, IndexError, NotImplementedError):
        return None  # the change does not fit these shapes


def _with(call: Call, change: str, **changes: Any) -> _Change:
    return change, lambda: define(replace(call, **changes))[0]


def _moves(call: Call) -> Iterator[_Change]:
    """A TRANSPOSE where a RESHAPE stands, one of another order, or none."""
    if call.kind not in ("RESHAPE", "TRANSPOSE"):
        return
    source = call[0]
    own = call.whole(1) if call.kind == "TRANSPOSE" else tuple(range(source.ndim))
    seen = {_significant(own, source.shape)}
    for order in itertools.permutations(range(source.ndim)):
        if _significant(order, source.shape) in seen:
            continue
        seen.add(_significant(order, source.shape))
        what = "leave the axes in their order" if order == tuple(range(source.ndim)) else f"transpose axes to {order}"
        yield f"it should {what}", lambda order=order: source.transpose(order).reshape(call.shape)  # type: ignore[misc]


def _significant(order: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of size 1 may stand anywhere."""
    return tuple(axis for axis in order if shape[axis] > 1)


def _slices(call: Call) -> Iterator[_Change]:
    if call.kind != "SLICE":
        return
    source, begin = call[0], call.whole(1)
    free = [axis for axis, size in enumerate(call.shape) if size < source.shape[axis]]
    starts = [range(source.shape[axis] - call.shape[axis] + 1) for axis in free]
    # Cuts that fall on whole parts come first.
    places = sorted(
        itertools.islice(itertools.product(*starts), 5000),
        key=lambda place: sum(at % call.shape[axis] != 0 for at, axis in zip(place, free, strict=True)),
    )
    for place in places:
        other = np.array(begin)
        other[free] = place
        if tuple(other) != begin:
            inputs = [source, other, *call.inputs[2:]]
            yield _with(call, f"it should begin at {tuple(int(at) for at in other)}, not {begin}", inputs=inputs)


def _order_of_inputs(call: Call) -> Iterator[_Change]:
    if call.kind in ("CONCATENATION", "PACK"):
        many = list(range(len(call.inputs)))
    elif call.kind in _SWAPPABLE or call.kind == "BATCH_MATMUL":
        many = [0, 1]
    elif call.kind in ("SELECT", "SELECT_V2"):
        many = [1, 2]
    else:
        return
    for order in itertools.islice(itertools.permutations(many), 1, 24):
        inputs = list(call.inputs)
        for place, source in zip(many, order, strict=True):
            inputs[place] = call.inputs[source]
        yield _with(call, f"its inputs should come in the order {', '.join(map(str, order))}", inputs=inputs)


_CHOICES: dict[str, tuple[Any, ...]] = {
    "fusedActivationFunction": (0, 1, 2, 3),
    "adjX": (False, True),
    "adjY": (False, True),
    "approximate": (False, True),
    "beta": (1.0,),
}
_ACTIVATIONS = ("none", "RELU", "RELU_N1_TO_1", "RELU6")


def _options(call: Call) -> Iterator[_Change]:
    choices = {name: values for name, values in _CHOICES.items() if name in call.options}
    if call.kind in ("CONCATENATION", "PACK", "GATHER"):
        choices["axis"] = tuple(range(len(call.shape)))
    for name, values in choices.items():
        for value in values:
            if value != call.options[name]:
                shown = _ACTIVATIONS[value] if name == "fusedActivationFunction" else value
                yield _with(call, f"{name} should be {shown}", options={**call.options, name: value})


def _kinds(call: Call) -> Iterator[_Change]:
    for family in _FAMILIES:
        for kind in family if call.kind in family else ():
            if kind != call.kind:
                yield _with(call, f"it should be {kind}", kind=kind)


def _axes(call: Call) -> Iterator[_Change]:
    """Other axes of a sum or a softmax."""
    if call.kind == "SOFTMAX":
        for axis in range(len(call.shape) - 1):
            yield f"it should go over axis {axis}", lambda axis=axis: _softmax_over(call, axis)  # type: ignore[misc]
    elif call.kind in ("MEAN", "SUM"):
        for axis in range(call[0].ndim):
            if (axis,) != call.whole(1):
                yield _with(call, f"it should go over axis {axis}", inputs=[call[0], np.array([axis])])


def _softmax_over(call: Call, axis: int) -> Array:
    turned = call[0].swapaxes(axis, -1)
    return define(replace(call, inputs=[turned], shape=turned.shape))[0].swapaxes(axis, -1)
