"""The steps of a decoder between one tap and the next, each a float64 function of arrays.

In: what a step reads, `[time, ...]` without the batch, and its weights and facts. Out: what it gives. Pure NumPy, no
framework, so that a hypothesis can change any part of a step and see what comes of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.audit.structure import Norm, Rope

Array = np.ndarray[Any, Any]
_ERF_STEPS = 60


def norm(x: Array, weight: Array | None, bias: Array | None, fact: Norm) -> Array:
    """RMS or layer norm over the last axis, which weight and bias span."""
    centred = x - x.mean(-1, keepdims=True) if fact.kind == "layer" else x
    scale = np.sqrt(np.square(centred).mean(-1, keepdims=True) + fact.eps)
    made = centred / scale * fact.gain
    if weight is not None:
        made = made * (1 + weight if fact.zero_centred else weight)
    return np.asarray(made if bias is None else made + bias)


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x `[time, in]`, weight `[out, in]`."""
    made = x @ weight.T
    return np.asarray(made if bias is None else made + bias)


def angles(fact: Rope, positions: Array) -> Array:
    """Rotary angles in radians, `[time, dims / 2]`."""
    exponents = -2 * np.arange(fact.dims // 2) / fact.dims
    frequencies = np.power(fact.base, exponents) / np.asarray(fact.scaling)
    return np.asarray(positions[:, None] * frequencies)


def rotate(x: Array, turns: Array, amplitude: float = 1.0, interleaved: bool = False) -> Array:
    """Turn the first numbers of each head; the rest passes through.

    x: `[time, heads, head_dim]`. turns: `[time, pairs]`, radians. Number i is turned together with number
    i + pairs, or, where interleaved, number 2 i with 2 i + 1.
    """
    pairs = turns.shape[1]
    cos, sin = amplitude * np.cos(turns)[:, None], amplitude * np.sin(turns)[:, None]
    one, other = (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)) if interleaved else (
        slice(0, pairs), slice(pairs, 2 * pairs))  # fmt: skip
    made = x.copy()
    made[..., one] = x[..., one] * cos - x[..., other] * sin
    made[..., other] = x[..., other] * cos + x[..., one] * sin
    return made


def softcapped(x: Array, cap: float | None) -> Array:
    return x if cap is None else cap * np.tanh(x / cap)


def causal_mask(time: int, window: int | None = None) -> Array:
    """Which keys each query sees, `[query, key]`: itself and those before it, `window` in all."""
    lag = np.arange(time)[:, None] - np.arange(time)
    seen = lag >= 0
    return seen if window is None else seen & (lag < window)


def repeated(x: Array, heads: int) -> Array:
    """KV heads `[time, kv_heads, head_dim]` as the query heads that share them see them."""
    return x if x.shape[1] == heads else np.repeat(x, heads // x.shape[1], axis=1)


def probabilities(
    q: Array, k: Array, scale: float, mask: Array, softcap: float | None = None, bias: Array | None = None
) -> Array:
    """Attention probabilities `[time, heads, time]`.

    q, k: `[time, heads, head_dim]`, keys repeated already. mask: `[query, key]`, true where a key is seen. bias:
    `[heads, key]`, added before the scale.
    """
    made = np.empty((len(q), q.shape[1], len(k)))
    hidden = ~mask
    for head in range(q.shape[1]):  # one at a time and in place: it stays in the cache of a core
        scores = q[:, head] @ k[:, head].T
        if bias is not None:
            scores += bias[head]
        scores *= scale
        if softcap is not None:
            scores /= softcap
            np.tanh(scores, out=scores)
            scores *= softcap
        np.copyto(scores, -np.inf, where=hidden)
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores, where=mask)  # of minus infinity it takes four times as long
        np.copyto(scores, 0.0, where=hidden)
        np.divide(scores, scores.sum(-1, keepdims=True), out=made[:, head])
    return made


def context(probs: Array, v: Array) -> Array:
    """`[time, heads * head_dim]` of probabilities `[time, heads, keys]` and repeated values."""
    mixed = np.einsum("qhk,khd->qhd", probs, v[: probs.shape[2]], optimize=True)
    return np.asarray(mixed.reshape(len(mixed), -1))


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _erf(x: Array) -> Array:
    """The error function to float64's precision: its Taylor series near zero, a continued fraction beyond."""
    size = np.abs(x)
    near = np.minimum(size, 2.5)
    term, total = near.copy(), near.copy()
    for n in range(1, _ERF_STEPS):
        term = term * -np.square(near) / n
        total += term / (2 * n + 1)
    series = 2 / math.sqrt(math.pi) * total
    far = np.maximum(size, 2.5)
    fraction = far.copy()
    for n in range(_ERF_STEPS, 0, -1):
        fraction = far + 0.5 * n / fraction
    tail = 1 - np.exp(-np.square(far)) / (math.sqrt(math.pi) * fraction)
    return np.asarray(np.sign(x) * np.where(size <= 2.5, series, tail))


def activation(kind: str, x: Array) -> Array:
    """By the names that the audit uses. Raises KeyError for another."""
    kinds: dict[str, Callable[[], Array]] = {
        "silu": lambda: x * _sigmoid(x),
        "gelu": lambda: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
        "gelu_tanh": lambda: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "gelu_quick": lambda: x * _sigmoid(1.702 * x),
        "relu": lambda: np.maximum(x, 0),
        "linear": lambda: x,
    }
    return kinds[kind]()


ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "gelu_quick", "relu", "linear")


def to_bfloat16(x: Array) -> Array:
    """Rounded to nearest, ties to even, and back."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.asarray(rounded.view(np.float32).astype(np.float64))


def to_float16(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(np.float16).astype(np.float64)
