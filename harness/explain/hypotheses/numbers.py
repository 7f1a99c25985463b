"""Single numbers of a weight that are off: what the error itself says when no common mistake explains it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from harness.explain.decoder import WHOLE, NotCoveredError, Walk
from harness.explain.evidence import Evidence
from harness.explain.functions import Array
from harness.explain.hypotheses import Proposal, hypothesis
from harness.explain.hypotheses.projections import ROLES, roles

_ALL = 0.999  # share of the error that counts as all of it
_FEW = 8


def _inputs(evidence: Evidence, role: str) -> Array:
    """What a linear layer reads, `[positions, in]`."""
    seen: list[Array] = []
    walk = Walk(evidence.decoder, evidence.known)
    original = walk.projected

    def projected(name: str, block: int, x: Array) -> Array:
        if name == role:
            seen.append(x)
        return original(name, block, x)

    walk.projected = projected  # type: ignore[method-assign, assignment]
    walk.compute(evidence.tap)
    if not seen:
        raise NotCoveredError(f"{role} is not computed here")
    return seen[0][evidence.rows]


def _error(evidence: Evidence) -> Array:
    """`[positions, channels]`"""
    gap = evidence.observed - evidence.expected
    return np.asarray(gap.reshape(len(gap), -1))


def _direct(evidence: Evidence) -> str | None:
    """The role whose output the faulty tap is, if it is one's."""
    return ROLES.get(evidence.point) if roles(evidence) else None


def _flipped_bit(before: float, after: float) -> int | None:
    """The bit that must be turned over to get from one float32 to about the other."""
    bits = np.float32(before).view(np.uint32)
    for bit in range(31, 8, -1):
        value = float((bits ^ np.uint32(1 << bit)).view(np.float32))
        if np.isfinite(value) and abs(value - after) <= 1e-4 * max(abs(value), abs(after)):
            return bit
    return None


@hypothesis("single_weight", *ROLES, simplicity=1)
def single_weight(evidence: Evidence) -> Iterator[Proposal]:
    role = _direct(evidence)
    if role is None or not evidence.whole or (evidence.decoder.structure.final_softcap and role == "lm_head"):
        return
    error = _error(evidence)
    energy = np.square(error).sum(0)
    row = int(energy.argmax())
    x = _inputs(evidence, role)
    along = x.T @ error[:, row] / np.maximum(np.square(x).sum(0), 1e-300)
    left = [float(np.square(error[:, row] - x[:, i] * along[i]).sum()) for i in range(x.shape[1])]
    column = int(np.argmin(left))
    weight = _matrix(evidence, role)
    before = float(weight[row, column])
    after = before + float(along[column])
    predicted = evidence.expected.reshape(error.shape).copy()
    predicted[:, row] += x[:, column] * along[column]
    bit = _flipped_bit(before, after)
    flipped = f": bit {bit} of it is turned over" if bit is not None else ""
    name = f"{evidence.module(role)}.weight"
    yield Proposal(
        f"one number of {name} is off: [{row}, {column}] is {before:.6g} and acts as {after:.6g}{flipped}",
        f"restore {name}[{row}, {column}]",
        predicted.reshape(evidence.expected.shape),
        fitted=1,
    )


@hypothesis("weight_column", *ROLES, simplicity=2)
def weight_column(evidence: Evidence) -> Iterator[Proposal]:
    role = _direct(evidence)
    if role is None or not evidence.whole:
        return
    error, x = _error(evidence), _inputs(evidence, role)
    sizes = np.maximum(np.square(x).sum(0), 1e-300)
    along = x.T @ error  # [in, out]
    column = int((np.square(along).sum(1) / sizes).argmax())
    predicted = evidence.expected.reshape(error.shape) + np.outer(x[:, column], along[column] / sizes[column])
    name = f"{evidence.module(role)}.weight"
    yield Proposal(
        f"column {column} of {name} is off: what it adds for input channel {column} is wrong",
        f"restore {name}[:, {column}]",
        predicted.reshape(evidence.expected.shape),
        fitted=error.shape[1],
    )


@hypothesis("weight_rows", *ROLES, simplicity=3)
def weight_rows(evidence: Evidence) -> Iterator[Proposal]:
    role = _direct(evidence)
    if role is None:
        return
    error = _error(evidence)
    name = f"{evidence.module(role)}.weight"
    broken = ~np.isfinite(evidence.observed.reshape(error.shape)).all(0)
    energy = np.square(np.where(np.isfinite(error), error, 0.0)).sum(0)
    if broken.any():
        few = np.flatnonzero(broken)
        words = "makes no number"
    else:
        order = np.argsort(energy)[::-1]
        few = np.sort(order[: 1 + int(np.searchsorted(np.cumsum(energy[order]), _ALL * energy.sum()))])
        words = "is off"
    if len(few) > min(_FEW, error.shape[1] // 4):
        return
    predicted = evidence.expected.reshape(error.shape).copy()
    predicted[:, few] = evidence.observed.reshape(error.shape)[:, few]
    shown = ", ".join(str(int(i)) for i in few)
    yield Proposal(
        f"{'row' if len(few) == 1 else 'rows'} {shown} of {name} {words}: all other output channels are right",
        f"restore {name}[{shown}]",
        predicted.reshape(evidence.expected.shape),
        fitted=len(few) * len(error),
    )


@hypothesis("weight_differs", *ROLES, simplicity=5)
def weight_differs(evidence: Evidence) -> Iterator[Proposal]:
    """A change all over the matrix makes an error that is linear in what the layer reads.

    There are fewer positions than columns as a rule, so that some change fits whatever is observed. What counts is
    how much of the error at each position the others foretell: kernel ridge regression, left-one-out.
    """
    role = _direct(evidence)
    if role is None or not evidence.whole or len(evidence.rows) < _FEW:
        return
    weights = 1 / np.maximum(evidence.floor.norms * evidence.floor.floor, 1e-300)[:, None]
    error, x = _error(evidence) * weights, _inputs(evidence, role) * weights
    kernel = x @ x.T
    total = float(np.square(error).sum())
    shares = []
    for share in (1e-6, 1e-4, 1e-2, 1e-1):
        inverse = np.linalg.inv(kernel + share * np.trace(kernel) / len(kernel) * np.eye(len(kernel)))
        missed = inverse @ error / np.diag(inverse)[:, None]
        shares.append(1 - float(np.square(missed).sum()) / total)
    size = math.sqrt(total / float(np.square(evidence.expected.reshape(error.shape) * weights).sum()))
    name = f"{evidence.module(role)}.weight"
    yield Proposal(
        f"{name} as a whole is off, its outputs by {size:.2g} of their size: the error is linear in what the layer "
        f"reads, {max(shares):.0%} of it at each position is foretold by the others",
        f"compare {name} with the checkpoint's number by number",
        evidence.expected,
        held_out=max(shares),
    )


def _matrix(evidence: Evidence, role: str) -> Array:
    return evidence.decoder.weights.need(role, WHOLE if role == "lm_head" else evidence.block)
