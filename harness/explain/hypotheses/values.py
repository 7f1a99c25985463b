"""What can be wrong with any tensor, whatever computes it: scaled, shifted, permuted, rounded, lost."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from harness.explain import functions as f
from harness.explain.evidence import Evidence
from harness.explain.functions import Array
from harness.explain.hypotheses import Proposal, hypothesis

_CHANNELS = 8192  # beyond, looking for a permutation takes too much memory
_COMMON = (2.0, 3.0, 4.0, 8.0, 16.0, 10.0, 100.0, math.sqrt(2))
_POINTS_OF_HEADS = (
    "attn.q", "attn.k", "attn.v", "attn.q_rope", "attn.k_rope", "attn.context",
    "attn.probs", "cache.k", "cache.v",
)  # fmt: skip


def _flat(values: Array) -> Array:
    return values.reshape(len(values), -1)


def _weights(evidence: Evidence) -> Array:
    """Of each position in a fit, so that all count in units of their noise, `[positions, 1]`."""
    return np.asarray(1 / np.maximum(evidence.floor.norms * evidence.floor.floor, 1e-300)[:, None])


def _text(value: float) -> str:
    """Six digits, or as many more as it takes to tell a factor from one."""
    return next(text for digits in range(6, 18) if (text := f"{value:.{digits}g}") != "1" or value == 1 or digits == 17)


@hypothesis("constant_scale", simplicity=1)
def constant_scale(evidence: Evidence) -> Iterator[Proposal]:
    if not evidence.whole:
        return
    weights = _weights(evidence)
    given, made = _flat(evidence.observed) * weights, _flat(evidence.expected) * weights
    size = float(np.square(made).sum())
    if not size:
        return
    factor = float((given * made).sum()) / size
    common = [1 / value for value in _COMMON] + list(_COMMON)
    hidden = evidence.decoder.structure.hidden_size
    common += [math.sqrt(hidden), 1 / math.sqrt(hidden)]
    near = [value for value in common if factor and abs(value / factor - 1) < 1e-3]
    for value in [factor, *near]:
        yield Proposal(
            f"{evidence.tap} of {evidence.candidate} is {_text(value)} times what it should be",
            f"take the factor of {_text(value)} away",
            value * evidence.expected,
            fitted=int(value not in near),
        )


@hypothesis("constant_offset", simplicity=1)
def constant_offset(evidence: Evidence) -> Iterator[Proposal]:
    if not evidence.whole:
        return
    weights = np.broadcast_to(np.square(_weights(evidence)), _flat(evidence.expected).shape)
    gap = _flat(evidence.observed) - _flat(evidence.expected)
    offset = float((gap * weights).sum() / weights.sum())
    yield Proposal(
        f"{evidence.tap} of {evidence.candidate} is larger by {_text(offset)} everywhere",
        f"take the offset of {_text(offset)} away",
        evidence.expected + offset,
        fitted=1,
    )


@hypothesis("bias_extra", simplicity=2)
def bias_extra(evidence: Evidence) -> Iterator[Proposal]:
    """A vector added at every position: a bias that is not the published one."""
    if not evidence.whole or len(evidence.observed) < 4:
        return
    weights = np.square(_weights(evidence))
    gap = _flat(evidence.observed) - _flat(evidence.expected)
    vector = (gap * weights).sum(0) / weights.sum()
    changed = int((np.abs(vector) > 0.1 * np.abs(vector).max(initial=0.0)).sum())
    yield Proposal(
        f"{evidence.candidate} adds the same vector to {evidence.tap} at every position, in {changed} channels, of "
        f"norm {_text(float(np.linalg.norm(vector)))}: a bias is wrong or one too many",
        f"compare the biases of {evidence.tap} with the checkpoint's",
        (_flat(evidence.expected) + vector).reshape(evidence.expected.shape),
        fitted=vector.size,
    )


@hypothesis("channel_scale", simplicity=2)
def channel_scale(evidence: Evidence) -> Iterator[Proposal]:
    """A factor for each channel: per-channel scales of a quantised weight, or those of a norm, that are wrong."""
    if not evidence.whole or len(evidence.observed) < 4:
        return
    weights = _weights(evidence)
    given, made = _flat(evidence.observed) * weights, _flat(evidence.expected) * weights
    size = np.square(made).sum(0)
    factors = np.where(size > 0, (given * made).sum(0) / np.where(size > 0, size, 1), 1.0)
    off = np.abs(factors - 1)
    wrong = np.flatnonzero(off > max(1e-6, 0.1 * float(off.max(initial=0.0))))
    if 0 < len(wrong) <= 8:
        shown = ", ".join(f"{int(i)} ({_text(float(factors[i]))} times)" for i in wrong)
        only = np.ones_like(factors)
        only[wrong] = factors[wrong]
        yield Proposal(
            f"channels of {evidence.tap} are scaled in {evidence.candidate}: {shown}",
            "fix the per-channel scales of these channels",
            (_flat(evidence.expected) * only).reshape(evidence.expected.shape),
            fitted=len(wrong),
        )
    spread = f"{_text(float(factors.min()))} to {_text(float(factors.max()))}"
    yield Proposal(
        f"each channel of {evidence.tap} has a factor of its own in {evidence.candidate}, {spread}",
        "compare per-channel scales (of a norm, or of a quantised weight) with the reference's",
        (_flat(evidence.expected) * factors).reshape(evidence.expected.shape),
        fitted=factors.size,
    )


@hypothesis("zeroed", simplicity=0)
def zeroed(evidence: Evidence) -> Iterator[Proposal]:
    yield Proposal(
        f"{evidence.tap} of {evidence.candidate} is all zeros",
        f"find what empties {evidence.tap}",
        np.zeros_like(evidence.expected),
    )


@hypothesis("clamped", simplicity=0)
def clamped(evidence: Evidence) -> Iterator[Proposal]:
    """A clamp that a converter or a delegate fuses into the operator before it."""
    for kind, lowest, highest in (("ReLU", 0.0, math.inf), ("ReLU6", 0.0, 6.0), ("clamp to -1 and 1", -1.0, 1.0)):
        yield Proposal(
            f"{evidence.tap} of {evidence.candidate} has gone through a {kind}",
            f"take the {kind} of {evidence.tap} away",
            np.clip(evidence.expected, lowest, highest),
        )


@hypothesis("value_rounded", simplicity=1)
def value_rounded(evidence: Evidence) -> Iterator[Proposal]:
    for kind, to_kind in (("bfloat16", f.to_bfloat16), ("float16", f.to_float16)):
        yield Proposal(
            f"{evidence.tap} is rounded to {kind} in {evidence.candidate}",
            f"compute {evidence.tap} in float32",
            to_kind(evidence.expected),
        )


@hypothesis("shifted_by_a_position", simplicity=1)
def shifted(evidence: Evidence) -> Iterator[Proposal]:
    if len(evidence.expected) < 3:
        return
    for shift in (1, -1):
        moved = np.roll(evidence.expected, shift, axis=0)
        edge = slice(0, 1) if shift > 0 else slice(-1, None)
        moved[edge] = evidence.observed[edge]
        side = "before" if shift > 0 else "after"
        yield Proposal(
            f"{evidence.tap} of {evidence.candidate} holds at each position what belongs to the one {side} it",
            "write each position's values at its own place",
            moved,
            fitted=moved[edge].size,
        )


@hypothesis("head_permutation", *_POINTS_OF_HEADS, simplicity=1)
def head_permutation(evidence: Evidence) -> Iterator[Proposal]:
    layer = evidence.decoder.layer(evidence.block)
    made, given = evidence.expected, evidence.observed
    if evidence.point == "attn.context":
        made, given = (values.reshape(len(values), layer.heads, -1) for values in (made, given))
    if made.ndim != 3 or made.shape[1] < 2 or not evidence.whole:
        return
    order = _matched(
        made.transpose(1, 0, 2).reshape(made.shape[1], -1), given.transpose(1, 0, 2).reshape(made.shape[1], -1)
    )
    if order is None:
        return
    yield Proposal(
        f"heads of {evidence.tap} are permuted in {evidence.candidate}: it has {_order_text(order)} in this order",
        "put the heads into the checkpoint's order",
        made[:, order].reshape(evidence.expected.shape),
    )


@hypothesis("channel_permutation", simplicity=2)
def channel_permutation(evidence: Evidence) -> Iterator[Proposal]:
    made, given = _flat(evidence.expected), _flat(evidence.observed)
    if made.shape[1] > _CHANNELS or len(made) < 4 or evidence.point == "attn.probs" or not evidence.whole:
        return
    order = _matched(made.T, given.T)
    if order is None:
        return
    moved = int((order != np.arange(len(order))).sum())
    yield Proposal(
        f"{moved} of {len(order)} channels of {evidence.tap} stand in another place in {evidence.candidate}: "
        f"it has {_order_text(order)} in this order",
        "put the rows of the weight into the checkpoint's order",
        made[:, order].reshape(evidence.expected.shape),
    )


def _matched(made: Array, given: Array) -> Array | None:
    """For each row of `given` the row of `made` that is most like it; None unless that permutes them."""
    one = made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-300)
    other = given / np.maximum(np.linalg.norm(given, axis=1, keepdims=True), 1e-300)
    order = (other @ one.T).argmax(1)
    still = np.arange(len(order))
    return order if len(np.unique(order)) == len(order) and (order != still).any() else None


def _order_text(order: Array, most: int = 8) -> str:
    shown = ", ".join(str(int(i)) for i in order[:most])
    return f"{shown}, ..." if len(order) > most else shown
