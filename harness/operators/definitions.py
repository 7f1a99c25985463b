"""What each operator computes by its definition, in float64, and how far a kernel in float32 may be from that.

In: the values an operator reads, its options and the shape of its output. Out: its output and a bound on the error
of a kernel that is right. Pure. A kernel outside the bound does not compute what its operator says.

The bounds follow from the standard model of rounding (Higham, Accuracy and Stability of Numerical Algorithms, ch. 3
and 4): one operation is within a unit roundoff, and a sum of n products is within some multiple of sqrt(n) of it, times
the sum of their sizes, where errors do not conspire. Functions such as exp are taken to be within a few units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.operators import images

Array = np.ndarray[Any, Any]
Result = tuple[Array, Array | float]
ROUNDOFF = 2.0**-24
_TINY = 2.0**-126  # below it a kernel may flush to zero
_OVERFLOW = 2.0**128 - 2.0**103  # half a unit beyond the largest float32
_FUNCTION = 8  # roundoffs that a kernel's exp, tanh or sine may be off by


@dataclass(frozen=True)
class Call:
    """One operator with what it reads. inputs: float64 or whole numbers, None where an optional input is absent.

    shape: of its output. narrow: whether a weight among its inputs is quantised, so that activations may be as well.
    """

    kind: str
    inputs: Sequence[Array | None]
    options: Mapping[str, Any]
    shape: tuple[int, ...]
    narrow: bool = False

    def __getitem__(self, index: int) -> Array:
        value = self.inputs[index]
        assert value is not None
        return value

    def whole(self, index: int) -> tuple[int, ...]:
        """An input that holds axes, sizes or an order."""
        return tuple(int(value) for value in np.ravel(self[index]))


def define(call: Call) -> Result:
    """An operator's output by its definition, and the bound on a kernel's error there (0: it must be exact).

    Raises NotImplementedError for a kind that has no definition here.
    """
    rule = _RULES.get(call.kind)
    if rule is None:
        raise NotImplementedError(f"{call.kind} has no definition here")
    values, bound = rule(call)
    values, bound = _activated(call, values), np.asarray(bound)
    if not np.issubdtype(values.dtype, np.floating):
        return values.reshape(call.shape), 0.0
    # Masks of nearly the largest float32, added up, are infinite for a kernel.
    values = np.where(np.abs(values) >= _OVERFLOW, np.copysign(np.inf, values), values)
    if bound.ndim:
        bound = bound.reshape(call.shape)
    return values.reshape(call.shape), bound


def is_defined(kind: str) -> bool:
    return kind in _RULES


_ACTIVATIONS: dict[int, tuple[float, float]] = {1: (0, math.inf), 2: (-1, 1), 3: (0, 6)}


def _activated(call: Call, values: Array) -> Array:
    """RELU, RELU_N1_TO_1 and RELU6 only clip, so they need no bound of their own."""
    fused = int(call.options.get("fusedActivationFunction", 0))
    if fused == 0:
        return values
    if fused not in _ACTIVATIONS:
        raise NotImplementedError(f"{call.kind} with fused activation {fused} has no definition here")
    return np.clip(values, *_ACTIVATIONS[fused])


def _rounded(values: Array, units: float = 1.0) -> Result:
    return values, units * ROUNDOFF * np.abs(values) + _TINY


def _exact(compute: Callable[[Call], Array]) -> Callable[[Call], Result]:
    return lambda call: (compute(call), 0.0)


def _binary(compute: Callable[[Array, Array], Array], units: float = 1.0) -> Callable[[Call], Result]:
    return lambda call: _rounded(compute(call[0], call[1]), units)


def _function(compute: Callable[[Array], Array], units: float = _FUNCTION) -> Callable[[Call], Result]:
    return lambda call: _rounded(compute(call[0]), units)


def _sum_units(count: int) -> float:
    return 4 + 2 * math.sqrt(count)


def _products(left: Array, right: Array, narrow: bool) -> Result:
    """left: `[..., m, k]`. right: `[..., k, n]`."""
    sizes = np.abs(left) @ np.abs(right)
    bound = _sum_units(left.shape[-1]) * ROUNDOFF * sizes + _TINY
    if narrow:
        # A hybrid kernel rounds each row of activations to whole numbers up to 127.
        step = np.abs(left).max(-1, keepdims=True) / 127
        bound = bound + 0.51 * step * np.abs(right).sum(-2, keepdims=True)
    return left @ right, bound


def _fully_connected(call: Call) -> Result:
    weight = call[1]
    values, bound = _products(call[0].reshape(-1, weight.shape[1]), weight.T, call.narrow)
    bias = call.inputs[2] if len(call.inputs) > 2 else None
    if bias is not None:
        values = values + bias
        bound = bound + 2 * ROUNDOFF * (np.abs(values) + np.abs(bias))
    return values, bound


def _batch_matmul(call: Call) -> Result:
    left, right = call[0], call[1]
    if call.options.get("adjX"):
        left = left.swapaxes(-1, -2)
    if call.options.get("adjY"):
        right = right.swapaxes(-1, -2)
    return _products(left, right, call.narrow)


def _softmax(call: Call) -> Result:
    beta = float(call.options.get("beta", 1.0))
    shifted = beta * (call[0] - call[0].max(-1, keepdims=True))
    weights = np.exp(shifted)
    values = weights / weights.sum(-1, keepdims=True)
    # An error of the exponent is relative in the result, and the sum adds its own.
    units = _FUNCTION + _sum_units(values.shape[-1]) + 2 * np.where(values > 0, np.abs(shifted), 0)
    return values, units * ROUNDOFF * values + _TINY


def _mean(call: Call) -> Result:
    axes = call.whole(1)
    values = call[0].mean(axes, keepdims=True)
    count = call[0].size // values.size
    return values, _sum_units(count) * ROUNDOFF * np.abs(call[0]).mean(axes, keepdims=True) + _TINY


def _sum(call: Call) -> Result:
    axes = call.whole(1)
    values = call[0].sum(axes, keepdims=True)
    count = call[0].size // values.size
    return values, _sum_units(count) * ROUNDOFF * np.abs(call[0]).sum(axes, keepdims=True) + _TINY


_ERF = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(call: Call) -> Result:
    x = call[0]
    if call.options.get("approximate"):
        inner = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    else:
        inner = _ERF(x / math.sqrt(2))
    # 1 + inner cancels where x is negative, so the error is one of x.
    return 0.5 * x * (1 + inner), _FUNCTION * ROUNDOFF * np.abs(x) + _TINY


def _circular(compute: Callable[[Array], Array]) -> Callable[[Call], Result]:
    """Sine and cosine: values up to 1, so the bound is one of 1."""
    return lambda call: (compute(call[0]), _FUNCTION * ROUNDOFF)


def _squared_difference(call: Call) -> Result:
    difference = call[0] - call[1]
    return difference**2, 4 * ROUNDOFF * difference**2 + _TINY


def _slice(call: Call) -> Array:
    begin, size = call.whole(1), call.whole(2)
    stop = [None if n < 0 else b + n for b, n in zip(begin, size, strict=True)]
    return call[0][tuple(slice(b, e) for b, e in zip(begin, stop, strict=True))]


def _strided_slice(call: Call) -> Array:
    if any(call.options.get(name) for name in ("ellipsisMask", "newAxisMask", "shrinkAxisMask", "offset")):
        raise NotImplementedError("STRIDED_SLICE with a mask for axes has no definition here")
    first, last = (int(call.options.get(name, 0)) for name in ("beginMask", "endMask"))
    cuts = zip(*(call.whole(index) for index in (1, 2, 3)), strict=True)
    return call[0][
        tuple(
            slice(None if first >> axis & 1 else begin, None if last >> axis & 1 else end, step)
            for axis, (begin, end, step) in enumerate(cuts)
        )
    ]


def _update(call: Call) -> Array:
    """The start is moved back where the update would not fit, as the definition of DYNAMIC_UPDATE_SLICE has it."""
    values, update = call[0].copy(), call[1]
    start = [
        min(max(at, 0), size - part) for at, size, part in zip(call.whole(2), values.shape, update.shape, strict=True)
    ]
    values[tuple(slice(at, at + part) for at, part in zip(start, update.shape, strict=True))] = update
    return values


def _gather_nd(call: Call) -> Array:
    index = call[1].astype(np.int64)
    return call[0][tuple(np.moveaxis(index, -1, 0))]  # type: ignore[no-any-return]


def _concatenation(call: Call) -> Array:
    return np.concatenate([call[index] for index in range(len(call.inputs))], int(call.options["axis"]))


def _pack(call: Call) -> Array:
    return np.stack([call[index] for index in range(len(call.inputs))], int(call.options["axis"]))


def _gather(call: Call) -> Array:
    return np.take(call[0], call[1].astype(np.int64), int(call.options.get("axis", 0)))


def _cast(call: Call) -> Result:
    out = int(call.options.get("outDataType", -1))
    if out in _WHOLE:
        return np.trunc(call[0]).astype(_WHOLE[out]), 0.0
    if out == _BOOL:
        return call[0] != 0, 0.0
    return _rounded(call[0].astype(np.float64))


_WHOLE = {2: np.int32, 4: np.int64}
_BOOL = 6


def _divide(left: Array, right: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(left / right)


def _of_image(compute: Callable[[Call], tuple[Array, Array, int]]) -> Callable[[Call], Result]:
    """Sums of products, and a bias. compute: values, the sizes of their terms, how many each has."""

    def rule(call: Call) -> Result:
        values, sizes, terms = compute(call)
        bound = _sum_units(terms) * ROUNDOFF * sizes + _TINY
        bias = call.inputs[2] if len(call.inputs) > 2 else None
        if bias is None:
            return values, bound
        return values + bias, bound + 2 * ROUNDOFF * (np.abs(values) + np.abs(bias))

    return rule


_RULES: dict[str, Callable[[Call], Result]] = {
    # Values are moved, not computed.
    "RESHAPE": _exact(lambda call: call[0].reshape(call.shape)),
    "SQUEEZE": _exact(lambda call: call[0].reshape(call.shape)),
    "EXPAND_DIMS": _exact(lambda call: call[0].reshape(call.shape)),
    "TRANSPOSE": _exact(lambda call: call[0].transpose(call.whole(1))),
    "BROADCAST_TO": _exact(lambda call: np.broadcast_to(call[0], call.shape)),
    "CONCATENATION": _exact(_concatenation),
    "PACK": _exact(_pack),
    "SLICE": _exact(_slice),
    "STRIDED_SLICE": _exact(_strided_slice),
    "GATHER": _exact(_gather),
    "GATHER_ND": _exact(_gather_nd),
    "EMBEDDING_LOOKUP": _exact(lambda call: call[1][call[0].astype(np.int64)]),
    "DYNAMIC_UPDATE_SLICE": _exact(_update),
    "SELECT": _exact(lambda call: np.where(call[0], call[1], call[2])),
    "SELECT_V2": _exact(lambda call: np.where(call[0], call[1], call[2])),
    # Comparisons and logic.
    "EQUAL": _exact(lambda call: call[0] == call[1]),
    "NOT_EQUAL": _exact(lambda call: call[0] != call[1]),
    "GREATER": _exact(lambda call: call[0] > call[1]),
    "GREATER_EQUAL": _exact(lambda call: call[0] >= call[1]),
    "LESS": _exact(lambda call: call[0] < call[1]),
    "LESS_EQUAL": _exact(lambda call: call[0] <= call[1]),
    "LOGICAL_AND": _exact(lambda call: np.logical_and(call[0], call[1])),
    "LOGICAL_OR": _exact(lambda call: np.logical_or(call[0], call[1])),
    "LOGICAL_NOT": _exact(lambda call: np.logical_not(call[0])),
    "REDUCE_ALL": _exact(lambda call: np.asarray(call[0].all(call.whole(1)))),
    "REDUCE_ANY": _exact(lambda call: np.asarray(call[0].any(call.whole(1)))),
    "MINIMUM": _exact(lambda call: np.minimum(call[0], call[1])),
    "MAXIMUM": _exact(lambda call: np.maximum(call[0], call[1])),
    "ABS": _exact(lambda call: np.abs(call[0])),
    "NEG": _exact(lambda call: -call[0]),
    "RELU": _exact(lambda call: np.maximum(call[0], 0)),
    "RELU6": _exact(lambda call: np.clip(call[0], 0, 6)),
    "RELU_N1_TO_1": _exact(lambda call: np.clip(call[0], -1, 1)),
    "PAD": _exact(images.padded),
    "PADV2": _exact(images.padded),
    "MAX_POOL_2D": _exact(images.max_pool),
    "REDUCE_MAX": _exact(lambda call: call[0].max(call.whole(1), keepdims=True)),
    "CAST": _cast,
    # Narrow constants are read as what they stand for.
    "DEQUANTIZE": lambda call: _rounded(call[0]),
    # One rounding.
    "ADD": _binary(np.add),
    "SUB": _binary(np.subtract),
    "MUL": _binary(np.multiply),
    "DIV": _binary(_divide, 2),
    "SQUARE": lambda call: _rounded(call[0] ** 2),
    "SQUARED_DIFFERENCE": _squared_difference,
    "SQRT": _function(np.sqrt, 2),
    "RSQRT": _function(lambda x: 1 / np.sqrt(x), 4),
    # Functions.
    "HARD_SWISH": _function(lambda x: x * np.clip(x + 3, 0, 6) / 6, 4),
    "LEAKY_RELU": lambda call: _rounded(np.where(call[0] > 0, call[0], call[0] * float(call.options["alpha"]))),
    "ELU": _function(lambda x: np.where(x > 0, x, np.expm1(x))),
    "LOG": _function(np.log),
    "EXP": lambda call: _rounded(np.exp(call[0]), _FUNCTION),
    "POW": _binary(np.power, _FUNCTION),
    "TANH": _function(np.tanh),
    "LOGISTIC": _function(lambda x: 1 / (1 + np.exp(-x))),
    "SIN": _circular(np.sin),
    "COS": _circular(np.cos),
    "GELU": _gelu,
    "SOFTMAX": _softmax,
    # Sums.
    "MEAN": _mean,
    "SUM": _sum,
    "FULLY_CONNECTED": _fully_connected,
    "CONV_2D": _of_image(images.convolution),
    "DEPTHWISE_CONV_2D": _of_image(images.depthwise_convolution),
    "AVERAGE_POOL_2D": _of_image(images.average_pool),
    "BATCH_MATMUL": _batch_matmul,
}
