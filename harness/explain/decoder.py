"""A decoder as steps from tap to tap: the reference that hypotheses change.

In: a `Structure`, weights by role, and taps that are known. Out: any other tap. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.audit.structure import ALIBI_POSITIONS, Layer, Norm, Structure
from harness.explain import functions as f
from harness.explain.functions import Array
from harness.names.taps import block_tap, split_tap

TOKENS = "tokens"
Step = Callable[["Walk", int], Array]
# Norm of a block -> the point whose step it is part of.
NORM_POINTS = {
    "pre_attention": "attn.norm",
    "query_norm": "attn.q_rope",
    "key_norm": "attn.k_rope",
    "post_attention": "residual",
    "pre_mlp": "mlp.norm",
    "post_mlp": "out",
    "final_norm": "final_norm",
}
WHOLE = -1  # the block number of what is in no block


class NotCoveredError(ValueError):
    """The reference does not know how a tap is computed."""


@dataclass(frozen=True)
class Weights:
    """Weights by role and block, in float64. read: (role, block) -> values or None, for what was not changed."""

    read: Callable[[str, int], Array | None]
    changed: Mapping[tuple[str, int], Array | None] = field(default_factory=dict)

    def get(self, role: str, block: int = WHOLE) -> Array | None:
        if (role, block) in self.changed:
            return self.changed[role, block]
        return self.read(role, block)

    def need(self, role: str, block: int = WHOLE) -> Array:
        """Raises NotCoveredError where there is none."""
        values = self.get(role, block)
        if values is None:
            raise NotCoveredError(f"the checkpoint has no {role} that is known here")
        return values


@dataclass(frozen=True)
class Decoder:
    """structure: facts. steps: point -> what computes it in place of the usual step. modules: role -> path of the
    Hugging Face module, with `{}` for the block's number."""

    structure: Structure
    weights: Weights
    steps: Mapping[str, Step] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)

    def layer(self, block: int) -> Layer:
        return self.structure.layers[block]

    def norm(self, slot: str, block: int) -> Norm | None:
        found = self.structure.final_norm if slot == "final_norm" else getattr(self.layer(block), slot)
        return found if isinstance(found, Norm) else None

    def with_norm(self, slot: str, block: int, fact: Norm | None) -> Decoder:
        if slot == "final_norm":
            return dataclasses.replace(self, structure=dataclasses.replace(self.structure, final_norm=fact))
        return self.with_layer(block, **{slot: fact})

    def with_layer(self, block: int, **changes: Any) -> Decoder:
        layers = list(self.structure.layers)
        layers[block] = dataclasses.replace(layers[block], **changes)
        return self.with_structure(layers=tuple(layers))

    def with_structure(self, **changes: Any) -> Decoder:
        return dataclasses.replace(self, structure=dataclasses.replace(self.structure, **changes))

    def with_weight(self, role: str, block: int, values: Array | None) -> Decoder:
        weights = dataclasses.replace(self.weights, changed={**self.weights.changed, (role, block): values})
        return dataclasses.replace(self, weights=weights)

    def with_step(self, point: str, step: Step) -> Decoder:
        return dataclasses.replace(self, steps={**self.steps, point: step})


class Walk:
    """Computes a tap of a decoder from taps that are known; what is not known is computed in turn.

    known: tap -> `[time, ...]`, and `TOKENS`. computed: the taps that were computed, the target among them.
    """

    def __init__(self, decoder: Decoder, known: Mapping[str, Array]) -> None:
        self.decoder = decoder
        self.known = known
        self.made: dict[str, Array] = {}

    def compute(self, tap: str) -> Array:
        """The value of a tap, whether it is known or not. Raises NotCoveredError."""
        block, point = split_tap(tap)
        step = self.decoder.steps.get(point) or _STEPS.get(point)
        if step is None:
            raise NotCoveredError(f"no step is known for {tap}")
        self.made[tap] = step(self, WHOLE if block is None else block)
        return self.made[tap]

    def value(self, tap: str) -> Array:
        if tap in self.made:
            return self.made[tap]
        return self.known[tap] if tap in self.known else self.compute(tap)

    def at(self, block: int, point: str) -> Array:
        return self.value(block_tap(block, point))

    def entering(self, block: int) -> Array:
        """What a block reads."""
        return self.value("embed") if block == 0 else self.at(block - 1, "out")

    def layer(self, block: int) -> Layer:
        return self.decoder.layer(block)

    def normed(self, slot: str, block: int, x: Array) -> Array:
        """x through a norm of the block, or as it is where there is none."""
        fact = self.decoder.norm(slot, block)
        if fact is None:
            return x
        weights = self.decoder.weights
        return f.norm(x, weights.get(slot, block), weights.get(f"{slot}.bias", block), fact)

    def projected(self, role: str, block: int, x: Array) -> Array:
        weights = self.decoder.weights
        return f.linear(x, weights.need(role, block), weights.get(f"{role}.bias", block))


def _embed(walk: Walk, block: int) -> Array:
    table = walk.decoder.weights.need("embedding")
    tokens = walk.known[TOKENS].astype(np.int64)
    positions = walk.decoder.weights.get("positions")
    rows = table[tokens] * walk.decoder.structure.embedding_scale
    return rows if positions is None else rows + positions[: len(tokens)]


def _attention_norm(walk: Walk, block: int) -> Array:
    return walk.normed("pre_attention", block, walk.entering(block))


def _attention_input(walk: Walk, block: int) -> Array:
    has_norm = walk.decoder.norm("pre_attention", block) is not None
    return walk.at(block, "attn.norm") if has_norm else walk.entering(block)


def _heads(role: str) -> Step:
    def step(walk: Walk, block: int) -> Array:
        made = walk.projected(role, block, _attention_input(walk, block))
        return made.reshape(len(made), -1, walk.layer(block).head_dim)

    return step


def _rotated(source: str, slot: str) -> Step:
    def step(walk: Walk, block: int) -> Array:
        x = walk.normed(slot, block, walk.at(block, source))
        rope = walk.layer(block).rope
        if rope is None:
            return x
        return f.rotate(x, f.angles(rope, np.arange(len(x))), rope.amplitude)

    return step


def turned(walk: Walk, block: int, part: str) -> Array:
    """Queries or keys as attention takes them; `part` is "q" or "k"."""
    if walk.layer(block).rope is None and f"attn.{part}_rope" not in walk.decoder.steps:
        return walk.normed("query_norm" if part == "q" else "key_norm", block, walk.at(block, f"attn.{part}"))
    return walk.at(block, f"attn.{part}_rope")


def alibi(layer: Layer, time: int) -> Array | None:
    """`[heads, key]`, before the scale."""
    if layer.alibi is None:
        return None
    first, far = (np.asarray(part)[:, None] for part in (layer.alibi[: layer.heads], layer.alibi[layer.heads :]))
    bias = first * np.arange(time)
    # Falcon makes its biases in bfloat16.
    linear = np.allclose(far, first * ALIBI_POSITIONS[1], rtol=1e-6)
    return np.asarray(bias if linear else f.to_bfloat16(bias))


def _probs(walk: Walk, block: int) -> Array:
    layer = walk.layer(block)
    q, k = turned(walk, block, "q"), turned(walk, block, "k")
    mask = f.causal_mask(len(q), layer.window)
    return f.probabilities(q, f.repeated(k, q.shape[1]), layer.query_scale, mask, layer.softcap, alibi(layer, len(q)))


def _context(walk: Walk, block: int) -> Array:
    return f.context(walk.at(block, "attn.probs"), f.repeated(walk.at(block, "attn.v"), walk.layer(block).heads))


def _attention_out(walk: Walk, block: int) -> Array:
    return walk.projected("o", block, walk.at(block, "attn.context"))


def attention_branch(walk: Walk, block: int) -> Array:
    """What attention adds to the residual."""
    return walk.normed("post_attention", block, walk.at(block, "attn.out"))


def _residual(walk: Walk, block: int) -> Array:
    if walk.layer(block).parallel_residual:
        return walk.entering(block)
    return walk.entering(block) + attention_branch(walk, block)


def _mlp_norm(walk: Walk, block: int) -> Array:
    return walk.normed("pre_mlp", block, walk.at(block, "residual"))


def _mlp_input(walk: Walk, block: int) -> Array:
    if walk.decoder.norm("pre_mlp", block) is not None:
        return walk.at(block, "mlp.norm")
    return _attention_input(walk, block) if walk.layer(block).parallel_residual else walk.at(block, "residual")


def _mlp(role: str) -> Step:
    return lambda walk, block: walk.projected(role, block, _mlp_input(walk, block))


def _act(walk: Walk, block: int) -> Array:
    layer = walk.layer(block)
    if not layer.activation:
        raise NotCoveredError("the published activation is not known here")
    if not layer.gated:
        return f.activation(layer.activation, walk.at(block, "mlp.up"))
    return f.activation(layer.activation, walk.at(block, "mlp.gate")) * walk.at(block, "mlp.up")


def _mlp_out(walk: Walk, block: int) -> Array:
    return walk.projected("down", block, walk.at(block, "mlp.act"))


def mlp_branch(walk: Walk, block: int) -> Array:
    """What the MLP adds to the residual."""
    return walk.normed("post_mlp", block, walk.at(block, "mlp.out"))


def _out(walk: Walk, block: int) -> Array:
    if walk.layer(block).parallel_residual:
        return walk.entering(block) + attention_branch(walk, block) + mlp_branch(walk, block)
    return walk.at(block, "residual") + mlp_branch(walk, block)


def _final_norm(walk: Walk, block: int) -> Array:
    return walk.normed("final_norm", WHOLE, walk.at(len(walk.decoder.structure.layers) - 1, "out"))


def _logits(walk: Walk, block: int) -> Array:
    return f.softcapped(
        walk.projected("lm_head", WHOLE, walk.value("final_norm")), walk.decoder.structure.final_softcap
    )


_STEPS: dict[str, Step] = {
    "embed": _embed,
    "attn.norm": _attention_norm,
    "attn.q": _heads("q"),
    "attn.k": _heads("k"),
    "attn.v": _heads("v"),
    "attn.q_rope": _rotated("attn.q", "query_norm"),
    "attn.k_rope": _rotated("attn.k", "key_norm"),
    "cache.k": lambda walk, block: turned(walk, block, "k"),
    "cache.v": lambda walk, block: walk.at(block, "attn.v"),
    "attn.probs": _probs,
    "attn.context": _context,
    "attn.out": _attention_out,
    "residual": _residual,
    "mlp.norm": _mlp_norm,
    "mlp.gate": _mlp("gate"),
    "mlp.up": _mlp("up"),
    "mlp.act": _act,
    "mlp.out": _mlp_out,
    "out": _out,
    "final_norm": _final_norm,
    "logits": _logits,
}
