"""What can be wrong in a norm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from harness.audit.structure import Norm
from harness.explain.decoder import Decoder
from harness.explain.evidence import Evidence
from harness.explain.fit import best_number
from harness.explain.hypotheses import Proposal, hypothesis

_POINTS = ("attn.norm", "attn.q_rope", "attn.k_rope", "residual", "mlp.norm", "out", "final_norm")
_COMMON = (1e-12, 1e-8, 1e-7, 1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 1e-3)


def _with(evidence: Evidence, slot: str, **changes: object) -> Decoder:
    fact = evidence.decoder.norm(slot, evidence.block)
    assert fact is not None
    return evidence.decoder.with_norm(slot, evidence.block, dataclasses.replace(fact, **changes))  # type: ignore[arg-type]


def _fact(evidence: Evidence, slot: str) -> Norm:
    fact = evidence.decoder.norm(slot, evidence.block)
    assert fact is not None
    return fact


@hypothesis("norm_eps", *_POINTS)
def eps(evidence: Evidence) -> Iterator[Proposal]:
    for slot in evidence.norm_slots():
        published = _fact(evidence, slot).eps

        def loss(value: float, slot: str = slot) -> float:
            return evidence.loss(evidence.predict(_with(evidence, slot, eps=value)))

        found = best_number(loss, _COMMON, _COMMON, evidence.useful)
        name = evidence.module(slot)
        yield Proposal(
            f"{name} eps: {published:g} published, {evidence.candidate} computes as with {found:g}",
            f"set the epsilon of {name} to {published:g}",
            evidence.predict(_with(evidence, slot, eps=found)),
            fitted=1,
            # The error of a mean of squares acts like a slightly other epsilon, and nobody sets one so little off.
            numbers=(published, published if math.isclose(found, published, rel_tol=0.02) else found),
        )


@hypothesis("norm_zero_centred", *_POINTS)
def zero_centred(evidence: Evidence) -> Iterator[Proposal]:
    for slot in evidence.norm_slots():
        published = _fact(evidence, slot).zero_centred
        theirs, ours = ("1 + weight", "weight") if published else ("weight", "1 + weight")
        name = evidence.module(slot)
        yield Proposal(
            f"{name} multiplies by {theirs}, {evidence.candidate} by {ours}",
            f"set zero_centered of {name} to {published}",
            evidence.predict(_with(evidence, slot, zero_centred=not published)),
        )


@hypothesis("norm_kind", *_POINTS)
def kind(evidence: Evidence) -> Iterator[Proposal]:
    names = {"rms": "an RMS norm", "layer": "a layer norm"}
    for slot in evidence.norm_slots():
        published = _fact(evidence, slot).kind
        other = "layer" if published == "rms" else "rms"
        name = evidence.module(slot)
        yield Proposal(
            f"{name} is {names[published]}, {evidence.candidate} computes {names[other]}",
            f"make {name} {names[published]}",
            evidence.predict(_with(evidence, slot, kind=other)),
        )


@hypothesis("norm_missing", *_POINTS)
def missing(evidence: Evidence) -> Iterator[Proposal]:
    for slot in evidence.norm_slots():
        name = evidence.module(slot)
        yield Proposal(
            f"{evidence.candidate} does not apply {name}",
            f"apply {name}",
            evidence.predict(evidence.decoder.with_norm(slot, evidence.block, None)),
        )


@hypothesis("norm_weight_default", *_POINTS)
def weight_left_as_built(evidence: Evidence) -> Iterator[Proposal]:
    for slot in evidence.norm_slots():
        weight = evidence.decoder.weights.get(slot, evidence.block)
        if weight is None:
            continue
        for value in (0.0, 1.0):
            name = evidence.module(slot)
            yield Proposal(
                f"{evidence.candidate} has {value:g} in place of the weights of {name}: they were not loaded",
                f"load {name}.weight",
                evidence.predict(evidence.decoder.with_weight(slot, evidence.block, np.full_like(weight, value))),
            )
