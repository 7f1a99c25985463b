"""What can be wrong where keys and values are written into the KV cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.explain.evidence import Evidence
from harness.explain.hypotheses import Proposal, hypothesis

_POINTS = ("cache.k", "cache.v")


@hypothesis("decode_slot", *_POINTS)
def decode_slot(evidence: Evidence) -> Iterator[Proposal]:
    """Prefill writes its slots, and each decode one beside its own."""
    decoded = evidence.decoded
    if evidence.point not in _POINTS or len(evidence.rows) != len(decoded) or not decoded.any() or decoded.all():
        return
    slots, first = np.arange(len(decoded)), int(np.flatnonzero(decoded)[0])
    for shift in (1, -1):
        predicted, written = evidence.expected.copy(), ~decoded
        source = np.flatnonzero(decoded)  # ascending: the later decode is the one that stays
        at = source + shift
        held = (at >= 0) & (at < len(slots))
        predicted[at[held]] = evidence.expected[source[held]]
        written[at[held]] = True
        # What no step of the input has written holds padding, or what was there before.
        predicted[~written] = evidence.observed[~written]
        side = "after" if shift > 0 else "before"
        yield Proposal(
            f"in decode {evidence.candidate} writes the KV cache one slot {side} its own: the "
            f"{'keys' if evidence.point == 'cache.k' else 'values'} of token {first} lie in slot {first + shift}",
            "in decode write each token to the slot of its own position",
            predicted,
            fitted=int(predicted[~written].size),
        )
