"""Tensors of two files on the same inputs: how far apart, and where the difference comes in.

In: matched tensors with their values, and the float64 values of A. Out: parts of a `PairSignature`, and the first
fault. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.compare.rows import LIMIT, Measured, measure, rows_of
from harness.flatbuffer.reader import Subgraph
from harness.pairs.static import operator_of
from harness.record.pair import PairFault, PairOutput

Array = np.ndarray[Any, Any]
_UNKNOWN = 16.0  # roundings that a tensor may be off by whose float64 value is not known
_WORTHLESS = 1.0  # dB; an output with less signal than that is more than a price


@dataclass(frozen=True)
class Difference:
    """One pair of tensors. problem: what forbids a comparison, in words. row: the worst, whose excess is `worst`."""

    excess: float = 0.0
    relative: float = 0.0
    row: int = 0
    problem: str = ""
    passed: bool = True
    worst: float = 0.0


def difference(a: Array, b: Array, exact: Array | None) -> Difference:
    """exact: A in float64, or None where that is not known."""
    if a.size != b.size:
        return Difference(problem=f"its shape is {list(a.shape)} in A and {list(b.shape)} in B", passed=False)
    if not a.size:
        return Difference(problem="there is no number in it on these inputs: nothing was compared", passed=False)
    b = b.reshape(a.shape)
    if a.dtype.kind != "f" or b.dtype.kind != "f":
        wrong = int((a != b).sum())
        words = f"{wrong} of {a.size} numbers {'differs' if wrong == 1 else 'differ'}" if wrong else ""
        # There is no noise to count whole numbers in: one that differs is past any limit.
        return Difference(math.inf if wrong else 0.0, wrong / max(a.size, 1), 0, words, not wrong)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    odd = ~(np.isfinite(a) & np.isfinite(b)) & ~same
    if odd.any():
        count = int(odd.sum())
        words = f"{count} {'number is' if count == 1 else 'numbers are'} not finite in one file alone"
        return Difference(math.inf, math.inf, 0, words, False)
    if same.all():
        return Difference()
    finite = np.isfinite(a) & np.isfinite(b)
    one, other = (np.where(finite, values, 0).astype(np.float64) for values in (a, b))
    found = _measured(one, other, exact, finite)
    size = float(np.linalg.norm(one))
    relative = float(np.linalg.norm(other - one)) / size if size else math.inf
    return Difference(found.whole, relative, found.row, passed=found.passes(), worst=found.worst)


def _measured(one: Array, other: Array, exact: Array | None, finite: Array) -> Measured:
    if exact is None or exact.size != one.size:
        found = measure(other, one, [])
        return Measured(found.whole / _UNKNOWN, found.worst / _UNKNOWN, found.row, found.floor * _UNKNOWN)
    truth = np.where(finite & np.isfinite(exact.reshape(one.shape)), exact.reshape(one.shape), 0)
    return measure(other, truth, [one], reference=one)


def snr_db(found: Difference) -> float | None:
    """None where the two are equal, or nothing is known of them."""
    return -20 * math.log10(found.relative) if 0 < found.relative < math.inf else None


def output(name: str, stage: str, a: Array, b: Array, exact: Array | None, priced: bool) -> PairOutput:
    """priced: whether a file is quantised, so that a difference is its price."""
    found = difference(a, b, exact)
    floats = a.dtype.kind == b.dtype.kind == "f"
    snr = snr_db(found) if floats else None
    kl = _kl(a, b) if name == "logits" and a.shape == b.shape else None
    verdict: Literal["pass", "fail", "price"] = "pass" if found.passed else "fail"
    problem = found.problem
    if priced and not found.passed and (not problem or (not floats and a.size == b.size > 0)):
        worthless = snr is not None and snr < _WORTHLESS
        verdict = "fail" if worthless else "price"
        problem = f"{snr:.2g} dB of signal over noise is more than a price" if worthless else problem
    return PairOutput(
        name=name,
        stage=stage,
        verdict=verdict,
        problem=problem,
        excess=None if priced else found.excess,
        relative=found.relative,
        snr_db=snr,
        kl_mean=kl,
    )


def _kl(a: Array, b: Array) -> float | None:
    """KL(A || B) in nats over the last axis, the mean over positions."""
    p, q = (_log_softmax(values.astype(np.float64)) for values in (a, b))
    found = float((np.exp(p) * (p - q)).sum(-1).mean())
    return found if math.isfinite(found) else None


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def first_fault(
    signature: str,
    graphs: tuple[Subgraph, Subgraph],
    pairs: Mapping[int, int],
    differences: Mapping[int, Difference],
    values: tuple[Mapping[int, Array], Mapping[int, Array]],
) -> PairFault | None:
    """The first tensor of B that differs though every matched tensor that its operator reads agrees. pairs: b -> a."""
    a, b = graphs
    writers = a.producers()
    for op in b.operators:
        for index in op.outputs:
            found = differences.get(index)
            if found is None or found.passed or any(_differs(differences, read) for read in op.inputs):
                continue
            other = writers.get(pairs[index])
            return PairFault(
                signature=signature,
                excess=found.excess,
                relative=found.relative,
                **worst_number(values[0][pairs[index]], values[1][index], found.row),
                a=operator_of(a, other, pairs[index]),
                b=operator_of(b, op, index),
                why=found.problem,
            )
    return None


def _differs(differences: Mapping[int, Difference], index: int) -> bool:
    return index in differences and not differences[index].passed


def worst_number(a: Array, b: Array, row: int) -> dict[str, Any]:
    """Where the two are furthest apart, in A's shape, and their values there."""
    if a.size != b.size or not a.size:
        return {"position": [], "values": [None, None]}
    rows, columns = rows_of(a.shape)
    wide = [values.reshape(rows, columns)[row].astype(np.float64) for values in (a, b)]
    gap = np.abs(wide[1] - wide[0])
    place = int(np.argmax(np.where(np.isfinite(gap), gap, np.inf)))
    position = [int(i) for i in np.unravel_index(row * columns + place, a.shape)]
    return {"position": position, "values": [float(each[place]) for each in wide]}


__all__ = ["LIMIT", "Difference", "difference", "first_fault", "output", "snr_db"]
