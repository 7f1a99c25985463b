"""What can be wrong in a rotary embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from harness.audit.structure import Rope
from harness.explain import functions as f
from harness.explain.decoder import Decoder, Step, Walk
from harness.explain.evidence import Evidence
from harness.explain.fit import best_number
from harness.explain.functions import Array
from harness.explain.hypotheses import Proposal, hypothesis

_POINTS = ("attn.q_rope", "attn.k_rope")
_BASES = (1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1.6e5, 2.5e5, 5e5, 1e6, 2e6, 5e6, 1e7)
_STEPS_NEAR = tuple(float(2**power) for power in np.linspace(-0.5, 0.5, 41))


def _rope(evidence: Evidence) -> Rope | None:
    return evidence.decoder.layer(evidence.block).rope


def _changed(evidence: Evidence, **changes: object) -> Decoder:
    rope = _rope(evidence)
    assert rope is not None
    return evidence.decoder.with_layer(evidence.block, rope=dataclasses.replace(rope, **changes))  # type: ignore[arg-type]


def _turning(
    evidence: Evidence, rope: Rope, interleaved: bool = False, shift: float | Array = 0.0, sign: int = 1
) -> Decoder:
    """Queries and keys turned in another way. shift: of all positions, or of each, `[time]`."""

    def step(source: str, slot: str) -> Step:
        def turn(walk: Walk, block: int) -> Array:
            x = walk.normed(slot, block, walk.at(block, source))
            turns = sign * f.angles(rope, np.arange(len(x)) + shift)
            return f.rotate(x, turns, rope.amplitude, interleaved)

        return turn

    decoder = evidence.decoder.with_step("attn.q_rope", step("attn.q", "query_norm"))
    return decoder.with_step("attn.k_rope", step("attn.k", "key_norm"))


@hypothesis("rope_base", *_POINTS)
def base(evidence: Evidence) -> Iterator[Proposal]:
    rope = _rope(evidence)
    if rope is None:
        return

    def loss(value: float) -> float:
        return evidence.loss(evidence.predict(_changed(evidence, base=value)))

    # Turns repeat, so the loss has many valleys: far ones are looked at where bases are common, near ones closely.
    start = [*_BASES, *(rope.base * factor for factor in _STEPS_NEAR)]
    found = best_number(loss, start, _BASES)
    yield Proposal(
        f"rotary base: {rope.base:g} published, {evidence.candidate} turns as with {found:g}",
        f"set the rotary base to {rope.base:g}",
        evidence.predict(_changed(evidence, base=found)),
        fitted=1,
        numbers=(rope.base, found),
    )


@hypothesis("rope_base_of_another_layer", *_POINTS)
def rope_of_another_layer(evidence: Evidence) -> Iterator[Proposal]:
    rope = _rope(evidence)
    others = {layer.rope for layer in evidence.decoder.structure.layers if layer.rope not in (None, rope)}
    for other in others:
        assert other is not None
        number = next(i for i, layer in enumerate(evidence.decoder.structure.layers) if layer.rope == other)
        yield Proposal(
            f"{evidence.candidate} turns as block {number} does, with base {other.base:g}",
            "give each kind of layer its own rotary embedding",
            evidence.predict(evidence.decoder.with_layer(evidence.block, rope=other)),
        )


@hypothesis("rope_scaling", *_POINTS)
def scaling(evidence: Evidence) -> Iterator[Proposal]:
    rope = _rope(evidence)
    if rope is None:
        return
    published = np.asarray(rope.scaling)
    plain = (1.0,) * len(published)
    scales = bool(np.any(np.abs(published - 1) > 1e-5)) or abs(rope.amplitude - 1) > 1e-6
    if scales:
        without = dataclasses.replace(rope, scaling=plain, amplitude=1.0)
        cases = {"without the published scaling of rotary frequencies": without}
        cases["without the published factor of cosine and sine"] = dataclasses.replace(rope, amplitude=1.0)
        cases["with the factor of cosine and sine alone"] = dataclasses.replace(rope, scaling=plain)
        for words, other in cases.items():
            yield Proposal(
                f"{evidence.candidate} turns {words}",
                "apply the published rope_scaling",
                evidence.predict(_changed(evidence, scaling=other.scaling, amplitude=other.amplitude)),
            )

    def loss(factor: float) -> float:
        return evidence.loss(evidence.predict(_changed(evidence, scaling=tuple(published * factor))))

    common = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    found = best_number(loss, [*common, *_STEPS_NEAR], common)
    yield Proposal(
        f"{evidence.candidate} turns as with every rotary frequency divided by {found:g} more than is published",
        "apply the published rope_scaling, and no other",
        evidence.predict(_changed(evidence, scaling=tuple(published * found))),
        fitted=1,
        numbers=(1.0, found),
    )


@hypothesis("rope_percentage", *_POINTS)
def percentage(evidence: Evidence) -> Iterator[Proposal]:
    rope = _rope(evidence)
    if rope is None:
        return
    width = evidence.decoder.layer(evidence.block).head_dim
    for share in (0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0):
        dims = int(share * width) // 2 * 2
        if dims == rope.dims or not dims:
            continue
        other = Rope(rope.base, dims, (1.0,) * (dims // 2), rope.amplitude)
        yield Proposal(
            f"{rope.dims} of the {width} numbers of a head are turned as published, {evidence.candidate} turns {dims}",
            f"set the rotary percentage to {rope.dims / width:g}",
            evidence.predict(evidence.decoder.with_layer(evidence.block, rope=other)),
        )


@hypothesis("rope_interleaved", *_POINTS)
def interleaved(evidence: Evidence) -> Iterator[Proposal]:
    rope = _rope(evidence)
    if rope is not None:
        yield Proposal(
            f"{evidence.candidate} turns neighbouring numbers together (interleaved), the published model halves",
            "turn number i of a head together with number i + half",
            evidence.predict(_turning(evidence, rope, interleaved=True)),
        )


@hypothesis("rope_direction", *_POINTS)
def direction(evidence: Evidence) -> Iterator[Proposal]:
    rope = _rope(evidence)
    if rope is not None:
        yield Proposal(
            f"{evidence.candidate} turns the other way round: the sign of the sine is wrong",
            "turn by +position * frequency",
            evidence.predict(_turning(evidence, rope, sign=-1)),
        )


@hypothesis("rope_missing", *_POINTS)
def missing(evidence: Evidence) -> Iterator[Proposal]:
    rope = _rope(evidence)
    if rope is not None:
        yield Proposal(
            f"{evidence.candidate} does not turn at all",
            "apply the rotary embedding",
            evidence.predict(evidence.decoder.with_layer(evidence.block, rope=None)),
        )


@hypothesis("position_offset", *_POINTS)
def position_offset(evidence: Evidence) -> Iterator[Proposal]:
    rope = _rope(evidence)
    if rope is None:
        return
    for shift in (1, -1, 2, -2, 3, -3, 4, -4):
        yield Proposal(
            f"positions are off by {shift:+d}: {evidence.candidate} turns token 0 as position {shift}",
            "number positions from 0",
            evidence.predict(_turning(evidence, rope, shift=shift)),
        )


@hypothesis("decode_position_offset", *_POINTS)
def decode_position_offset(evidence: Evidence) -> Iterator[Proposal]:
    """Prefill numbers its positions right, and decode does not."""
    rope = _rope(evidence)
    if rope is None or not evidence.decoded.any() or evidence.decoded.all():
        return
    first = int(np.flatnonzero(evidence.decoded)[0])
    for shift in (1, -1, 2, -2):
        yield Proposal(
            f"in decode positions are off by {shift:+d}: {evidence.candidate} turns token {first} as position "
            f"{first + shift}, and what is prefilled as it should",
            "give decode the position of its own token",
            evidence.predict(_turning(evidence, rope, shift=shift * evidence.decoded)),
        )
