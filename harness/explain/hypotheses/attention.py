"""What can be wrong between queries, keys and values and the context: scale, softcap, mask, window, heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from harness.explain import functions as f
from harness.explain.decoder import TOKENS, Decoder, Walk, alibi, turned
from harness.explain.evidence import Evidence
from harness.explain.fit import best_number
from harness.explain.functions import Array
from harness.explain.hypotheses import Proposal, hypothesis

_CAPS = (5.0, 10.0, 20.0, 30.0, 50.0, 100.0)
_WIDE = tuple(float(2**power) for power in np.linspace(-4, 4, 33))
Mask = Callable[[int], Array]


def _with_mask(evidence: Evidence, mask: Mask) -> Decoder:
    """Attention under another mask. A device's cache is empty after what was written: keys there are zeros, and
    where a mask lets them be seen, they take their share."""

    def probs(walk: Walk, block: int) -> Array:
        layer = walk.layer(block)
        q, k = turned(walk, block, "q"), turned(walk, block, "k")
        seen = mask(len(q))
        made = np.zeros((len(q), q.shape[1], len(q)))
        for end in np.unique(evidence.written):
            rows = evidence.written == end
            keys = k.copy()
            keys[end:] = 0
            padding = evidence.cache - len(q) if seen[rows][:, -1].all() and layer.alibi is None else 0
            keys = np.concatenate([keys, np.zeros((padding, *k.shape[1:]))])
            shown = np.concatenate([seen[rows], np.ones((rows.sum(), padding), bool)], axis=1)
            made[rows] = f.probabilities(
                q[rows], f.repeated(keys, q.shape[1]), layer.query_scale, shown, layer.softcap, alibi(layer, len(keys))
            )[..., : len(q)]
        return made

    return evidence.decoder.with_step("attn.probs", probs)


def _beside_padding(evidence: Evidence, made: Array) -> tuple[Array, int]:
    """(probabilities where padding had been written to the cache, how many numbers are taken from the observed ones)

    Keys of padding are in no trace: what they take is read off the sums of the other probabilities.
    """
    if evidence.point != "attn.probs" or len(evidence.rows) != len(evidence.written):
        return made, 0
    key = np.arange(made.shape[2])
    beside = evidence.padded > evidence.written
    padding = (key >= evidence.written[:, None]) & (key < evidence.padded[:, None])
    known = np.where(padding[:, None], 0.0, 1.0)
    there, own = (evidence.observed * known).sum(-1, keepdims=True), (made * known).sum(-1, keepdims=True)
    factor = np.where(beside[:, None, None] & (own > 0), there / np.where(own > 0, own, 1.0), 1.0)
    filled = np.where(padding[:, None], evidence.observed, made * factor)
    return filled, int((padding.sum() + beside.sum()) * made.shape[1])


@hypothesis("attention_scale", "attn.probs")
def scale(evidence: Evidence) -> Iterator[Proposal]:
    layer = evidence.decoder.layer(evidence.block)
    published, width = layer.query_scale, layer.head_dim
    hidden = evidence.decoder.structure.hidden_size
    common = [1 / math.sqrt(width), 1.0, 1 / width, 1 / math.sqrt(hidden), 1 / math.sqrt(hidden / layer.heads)]
    common += [published**2, math.sqrt(published)]

    def loss(value: float) -> float:
        return evidence.loss(evidence.predict(evidence.decoder.with_layer(evidence.block, query_scale=value)))

    found = best_number(loss, [*common, *(published * factor for factor in _WIDE)], common, evidence.useful)
    yield Proposal(
        f"attention scale: {published:.6g} published, {evidence.candidate} computes as with {found:.6g}",
        f"scale the scores by {published:.6g}",
        evidence.predict(evidence.decoder.with_layer(evidence.block, query_scale=found)),
        fitted=1,
        numbers=(published, found),
    )


@hypothesis("attention_softcap", "attn.probs")
def softcap(evidence: Evidence) -> Iterator[Proposal]:
    published = evidence.decoder.layer(evidence.block).softcap

    def capped(cap: float | None) -> Array:
        return evidence.predict(evidence.decoder.with_layer(evidence.block, softcap=cap))

    yield from _softcaps(evidence, published, "attention", capped)


@hypothesis("final_softcap", "logits")
def final_softcap(evidence: Evidence) -> Iterator[Proposal]:
    raw = evidence.predict(evidence.decoder.with_structure(final_softcap=None))
    published = evidence.decoder.structure.final_softcap
    yield from _softcaps(evidence, published, "final", lambda cap: f.softcapped(raw, cap))


def _softcaps(
    evidence: Evidence, published: float | None, which: str, capped: Callable[[float | None], Array]
) -> Iterator[Proposal]:
    if published is not None:
        yield Proposal(
            f"{evidence.candidate} lacks the {which} softcap of {published:g}",
            f"set the {which} logit softcap to {published:g}",
            capped(None),
        )

    def loss(value: float) -> float:
        return evidence.loss(capped(value))

    found = best_number(loss, _CAPS, _CAPS, evidence.useful)
    theirs = f"no {which} softcap" if published is None else f"{which} softcap {published:g}"
    yield Proposal(
        f"the published model has {theirs}, {evidence.candidate} computes as with {found:g}",
        f"take the {which} softcap away" if published is None else f"set the {which} logit softcap to {published:g}",
        capped(found),
        fitted=1,
        numbers=None if published is None else (published, found),
    )


@hypothesis("causal_mask", "attn.probs")
def causal_mask(evidence: Evidence) -> Iterator[Proposal]:
    window = evidence.decoder.layer(evidence.block).window

    def band(ahead: int, itself: bool = True) -> Mask:
        def mask(time: int) -> Array:
            lag = np.arange(time)[:, None] - np.arange(time)
            seen = (lag >= -ahead) & (lag < (window or time))
            first = np.arange(time)[:, None] == 0  # it has nothing else to see
            return np.asarray(seen if itself else seen & ((lag != 0) | first))

        return mask

    cases: dict[str, Mask] = {
        "the causal mask is missing: every position sees all others": lambda time: np.ones((time, time), bool),
        "the causal mask is off by one: every position sees the next one": band(1),
        "the causal mask is off by one: no position sees itself": band(0, itself=False),
    }
    for words, mask in cases.items():
        made, fitted = _beside_padding(evidence, evidence.predict(_with_mask(evidence, mask)))
        yield Proposal(
            f"{words} in {evidence.candidate}", "let each position see itself and those before it", made, fitted
        )


@hypothesis("mask", "attn.probs", simplicity=1)
def other_mask(evidence: Evidence) -> Iterator[Proposal]:
    """Any mask, read off the probabilities: where they are zero for every head, nothing is seen."""
    if evidence.point != "attn.probs" or not evidence.whole:
        return
    seen, right = (np.asarray((values > 0).any(1)) for values in (evidence.observed, evidence.expected))
    if (seen == right).all() or not seen.any(1).all():
        return
    if len(seen) != len(evidence.written):
        return
    more, fewer = np.argwhere(seen & ~right), np.argwhere(right & ~seen)
    ahead = int((more @ [-1, 1]).max(initial=0))
    made, fitted = _beside_padding(evidence, evidence.predict(_with_mask(evidence, lambda time: seen)))
    yield Proposal(
        f"{evidence.candidate} has another mask: {len(more)} keys are seen that should not be, up to {ahead} positions "
        f"ahead, and {len(fewer)} that should be seen are hidden",
        "compare the attention mask with the published one",
        made,
        fitted=fitted,
    )


@hypothesis("window", "attn.probs")
def window(evidence: Evidence) -> Iterator[Proposal]:
    layers = evidence.decoder.structure.layers
    published = layers[evidence.block].window
    time = len(evidence.known[TOKENS])
    others = [layer.window for layer in layers]
    sizes: list[int | None] = [None, *others]
    if published is None:
        sizes += [size for size in (4, 8, 16, 32, 64, 128, 256) if size < time]
    else:
        sizes += [published - 1, published + 1, published // 2, published * 2, published // 4, published * 4]
    for size in dict.fromkeys(sizes):
        if size == published or size == 0:
            continue
        theirs = f"a window of {published} positions" if published else "no window"
        ours = f"one of {size}" if size else "none"
        kind = ", as other layers have" if size in others else ""
        if size and published and abs(size - published) == 1:
            kind = ": it is off by one"
        yield Proposal(
            f"block {evidence.block} has {theirs}, {evidence.candidate} computes as with {ours}{kind}",
            f"give block {evidence.block} {theirs}",
            evidence.predict(evidence.decoder.with_layer(evidence.block, window=size)),
        )


@hypothesis("alibi", "attn.probs")
def alibi_biases(evidence: Evidence) -> Iterator[Proposal]:
    layer = evidence.decoder.layer(evidence.block)
    if layer.alibi is None:
        return
    heads = layer.heads
    exact = 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)
    cases = {
        "without ALiBi biases": (0.0,) * (2 * heads),
        "with ALiBi biases that are not rounded to bfloat16": tuple(exact) + tuple(exact * 255),
        "with twice the ALiBi biases": tuple(2 * np.asarray(layer.alibi)),
    }
    for words, biases in cases.items():
        yield Proposal(
            f"{evidence.candidate} computes {words}",
            "add the ALiBi biases that the published model adds",
            evidence.predict(evidence.decoder.with_layer(evidence.block, alibi=biases)),
        )


@hypothesis("kv_head_order", "attn.probs", "attn.context")
def kv_head_order(evidence: Evidence) -> Iterator[Proposal]:
    """Query head h reads KV head h // ratio. Tiled instead of repeated, it would read h % kv_heads."""
    layer = evidence.decoder.layer(evidence.block)
    if layer.kv_heads in (1, layer.heads):
        return
    order = np.arange(layer.heads) % layer.kv_heads

    def probs(walk: Walk, block: int) -> Array:
        q, k = turned(walk, block, "q"), turned(walk, block, "k")
        mask = f.causal_mask(len(q), layer.window)
        return f.probabilities(q, k[:, order], layer.query_scale, mask, layer.softcap, alibi(layer, len(q)))

    def context(walk: Walk, block: int) -> Array:
        return f.context(walk.at(block, "attn.probs"), walk.at(block, "attn.v")[:, order])

    yield Proposal(
        f"KV heads are repeated in the wrong order: query head h of {evidence.candidate} reads KV head "
        f"h % {layer.kv_heads} and not h // {layer.heads // layer.kv_heads}",
        "repeat each KV head in place (repeat_interleave), do not tile them",
        evidence.predict(evidence.decoder.with_step("attn.probs", probs).with_step("attn.context", context)),
    )


@hypothesis("transpose_as_reshape", "attn.probs")
def transpose_as_reshape(evidence: Evidence) -> Iterator[Proposal]:
    """Keys of a cache, `[cache, head_dim]`, whose bytes are read as those of the transpose."""
    layer = evidence.decoder.layer(evidence.block)
    if layer.kv_heads != 1:
        return

    def probs(walk: Walk, block: int) -> Array:
        q, k = turned(walk, block, "q"), turned(walk, block, "k")[:, 0]
        made = np.zeros((len(q), q.shape[1], len(q)))
        for end in np.unique(evidence.written):
            rows = evidence.written == end
            held = np.zeros((evidence.cache, layer.head_dim))
            held[:end] = k[:end]
            keys = held.reshape(layer.head_dim, evidence.cache).T[: len(q), None]
            mask = f.causal_mask(len(q), layer.window)[rows]
            made[rows] = f.probabilities(q[rows], f.repeated(keys, q.shape[1]), layer.query_scale, mask, layer.softcap)
        return made

    made, fitted = evidence.predict(evidence.decoder.with_step("attn.probs", probs)), 0
    beside = evidence.padded > evidence.written
    if evidence.point == "attn.probs" and len(made) == len(beside):
        # Where padding stands in the cache, its bytes are spread over all keys, and no trace holds them.
        made[beside] = evidence.observed[beside]
        fitted = made[beside].size
    yield Proposal(
        f"{evidence.candidate} reads the cached keys as if their bytes lay transposed: a transpose became a reshape",
        "convert with the transposed KV layout, or keep the transpose of the keys",
        made,
        fitted,
    )


@hypothesis("context_head_order", "attn.context")
def context_head_order(evidence: Evidence) -> Iterator[Proposal]:
    layer = evidence.decoder.layer(evidence.block)
    heads, width = layer.heads, layer.head_dim
    made = evidence.expected.reshape(-1, heads, width)
    yield Proposal(
        f"heads and their numbers are swapped in the context of {evidence.candidate}: a transpose is missing",
        "transpose the context to [time, heads, head_dim] before it is flattened",
        made.transpose(0, 2, 1).reshape(evidence.expected.shape),
    )
