"""Why: hypotheses are tried on the evidence of a fault, and those that close the gap are ranked.

In: `Evidence`. Out: `Diagnosis` entries of the record, best first. Nothing is claimed where nothing is wrong, or where
no hypothesis explains at least half of the error.
"""

from __future__ import annotations

import math

import numpy as np

from harness.explain.decoder import NotCoveredError
from harness.explain.evidence import CLAIMED, CLAIMED_TO_NOISE, FAITHFUL_EXCESS, Evidence
from harness.explain.functions import Array
from harness.explain.hypotheses import Hypothesis, Proposal, all_hypotheses
from harness.record.record import Diagnosis

AT_MOST = 3
_DONE = 2.0  # an excess below which all that is left is noise
_ALIKE = 1.5  # hypotheses that leave about the same are told apart by how simple they are
_CLAIMED_HELD_OUT = 0.1  # share of the error that must be foretold

Rank = tuple[float, ...]


def diagnose(evidence: Evidence) -> list[Diagnosis]:
    """The hypotheses that explain a fault, best first."""
    if not is_wrong(evidence):
        return []
    found: list[tuple[Rank, Diagnosis]] = []
    for hypothesis in sorted(all_hypotheses(), key=lambda hypothesis: hypothesis.simplicity):
        if found and found[0][0][0] == _left(0.0) and hypothesis.simplicity > found[0][0][1]:
            break  # a simpler one explains all there is
        best = _best(hypothesis, evidence) if hypothesis.applies(evidence) else None
        if best is not None:
            found = sorted([*found, best], key=lambda entry: entry[0])
    if not found:
        return []
    (left, simplicity, *_), _ = found[0]
    # What explains as well and needs more to do so is the same said in other words.
    rivals = [entry for rank, entry in found if rank[0] == left and rank[1] == simplicity]
    return rivals[:AT_MOST]


def is_wrong(evidence: Evidence) -> bool:
    """Whether what the candidate made of its own inputs is further from what the reference makes of them than noise."""
    errors = evidence.errors(evidence.expected)
    within = evidence.excess(evidence.expected) <= FAITHFUL_EXCESS
    return not (within and float(errors.max(initial=0.0)) <= FAITHFUL_EXCESS**2)


def _best(hypothesis: Hypothesis, evidence: Evidence) -> tuple[Rank, Diagnosis] | None:
    """(rank, diagnosis) of the hypothesis at its best, if it explains anything."""
    before = evidence.excess(evidence.expected)
    total = _squared(evidence.errors(evidence.expected))
    best: tuple[Rank, Diagnosis] | None = None
    try:
        for proposal in hypothesis.propose(evidence):
            share, after = _measured(proposal, evidence, total, before)
            if not _is_claimed(proposal, share, after):
                continue
            rank = (_left(after), hypothesis.simplicity, proposal.fitted, after)
            if best is None or rank < best[0]:
                best = (rank, _entry(hypothesis, proposal, evidence, share, after, before))
    except NotCoveredError:
        pass  # what it changes is not computed here
    return best


def _left(after: float) -> int:
    """An excess in steps that tell hypotheses apart."""
    return round(math.log(max(after, _DONE)) / math.log(_ALIKE))


def _entry(
    hypothesis: Hypothesis, proposal: Proposal, evidence: Evidence, share: float, after: float, before: float
) -> Diagnosis:
    return Diagnosis(
        hypothesis=hypothesis.name,
        detail=f"{proposal.detail}; with that the excess falls from {_text(before)} to {_text(after)}",
        explains=share,
        excess_before=before,
        excess_after=after,
        change=proposal.change,
        tap=evidence.tap,
        hop=evidence.hop,
    )


def _is_claimed(proposal: Proposal, share: float, after: float) -> bool:
    if proposal.changes_nothing:
        return False
    if proposal.held_out is not None:
        return share >= _CLAIMED_HELD_OUT
    return share >= (CLAIMED_TO_NOISE if after <= FAITHFUL_EXCESS else CLAIMED)


def _measured(proposal: Proposal, evidence: Evidence, total: float, before: float) -> tuple[float, float]:
    """(share of the error explained, excess that is left). Numbers that were fitted count against the data."""
    if proposal.held_out is not None:
        return proposal.held_out, before * math.sqrt(max(0.0, 1 - proposal.held_out))
    numbers = evidence.observed.size
    free = numbers - proposal.fitted
    if proposal.predicted.shape != evidence.observed.shape or free <= numbers / 2:
        return 0.0, math.inf
    left = _squared(evidence.errors(proposal.predicted)) * numbers / free
    share = 1 - left / total if math.isfinite(total) else float(math.isfinite(left))
    return share, evidence.excess(proposal.predicted) * math.sqrt(numbers / free)


def _squared(errors: Array) -> float:
    total = float(np.square(errors).sum())
    return total if total == total else math.inf


def _text(value: float) -> str:
    if not math.isfinite(value):
        return "no number"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
