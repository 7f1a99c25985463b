"""The tap vocabulary: what a tensor is called, in every stage, and in which order it is computed.

In: a number of blocks and the points a model has. Out: ordered tap names.
A tap's array is `[batch, time, ...]` whatever layout its stage keeps it in, so that axis 1 is
always the token position:

| point | shape after batch and time |
|---|---|
| attn.q, attn.q_rope | [heads, head_dim] |
| attn.k, attn.v, attn.k_rope, cache.k, cache.v | [kv_heads, head_dim] |
| attn.probs | [heads, source positions] |
| attn.context | [heads * head_dim] |
| mlp.gate, mlp.up, mlp.act | [intermediate] |
| logits | [vocabulary] |
| everything else | [hidden] |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

EMBED = "embed"
FINAL_NORM = "final_norm"
LOGITS = "logits"
UNROUNDED_SUFFIX = ".unrounded"
LOCAL_SUFFIX = ".local"  # of a stage's name: its local pass

# Execution order inside one block. A cache tap is what the KV cache holds at that position when the
# run ends, so it stands after the write (after k_rope and v) and before its first use.
BLOCK_POINTS: tuple[str, ...] = (
    "attn.norm",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.q_rope",
    "attn.k_rope",
    "cache.k",
    "cache.v",
    "attn.probs",
    "attn.context",
    "attn.out",
    "residual",
    "mlp.norm",
    "mlp.gate",
    "mlp.up",
    "mlp.act",
    "mlp.out",
    "out",
)

BLOCK_INPUT = "the block's input"

# What a point is computed from. A point that a model lacks is replaced by what it is computed from itself.
SOURCES: Mapping[str, tuple[str, ...]] = {
    "attn.norm": (BLOCK_INPUT,),
    "attn.q": ("attn.norm",),
    "attn.k": ("attn.norm",),
    "attn.v": ("attn.norm",),
    "attn.q_rope": ("attn.q",),
    "attn.k_rope": ("attn.k",),
    "cache.k": ("attn.k_rope",),
    "cache.v": ("attn.v",),
    "attn.probs": ("attn.q_rope", "cache.k"),
    "attn.context": ("attn.probs", "cache.v"),
    "attn.out": ("attn.context",),
    "residual": ("attn.out", BLOCK_INPUT),
    "mlp.norm": ("residual",),
    "mlp.gate": ("mlp.norm",),
    "mlp.up": ("mlp.norm",),
    "mlp.act": ("mlp.gate", "mlp.up"),
    "mlp.out": ("mlp.act",),
    "out": ("mlp.out", "residual"),
}

_BLOCK_TAP = re.compile(r"^block\.(\d+)\.(.+)$")


def block_tap(block: int, point: str) -> str:
    """`block_tap(3, "attn.q")` is `"block.3.attn.q"`."""
    if point not in BLOCK_POINTS:
        raise ValueError(f"unknown point {point!r}; the points of a block are {', '.join(BLOCK_POINTS)}")
    return f"block.{block}.{point}"


def split_tap(tap: str) -> tuple[int | None, str]:
    """`"block.3.attn.q"` -> `(3, "attn.q")`; `"logits"` -> `(None, "logits")`."""
    match = _BLOCK_TAP.match(tap)
    return (int(match[1]), match[2]) if match else (None, tap)


def tap_order(blocks: int, points: Iterable[str] = BLOCK_POINTS) -> list[str]:
    """All taps of a model with `blocks` blocks, in execution order.

    `points` are the points its blocks have: Phi-2, say, has no `mlp.gate`.
    """
    present = [point for point in BLOCK_POINTS if point in set(points)]
    body = [block_tap(i, point) for i in range(blocks) for point in present]
    return [EMBED, *body, FINAL_NORM, LOGITS]


def reaching(point: str, passes: Callable[[str], bool]) -> set[str]:
    """The points of a block whose values reach `point` within it, other than through one that stops them.

    passes: whether what a point holds goes on as it is; another value is put in place of one that does not pass.
    """
    found: set[str] = set()
    waiting = [source for source in SOURCES.get(point, ()) if source != BLOCK_INPUT]
    while waiting:
        source = waiting.pop()
        if source in found or not passes(source):
            continue
        found.add(source)
        waiting += [further for further in SOURCES[source] if further != BLOCK_INPUT]
    return found
