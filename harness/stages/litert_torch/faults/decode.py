"""Faults of the re-authored code that decode alone shows: prefill of the same model is right.

A step of one position is a decode, a longer one is a prefill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from harness.bench.breaking import unchanged
from harness.bench.mistake import Mistake, Network
from harness.bench.workbench import FIRST
from harness.stages.litert_torch.faults.rewiring import attention_called, block, patched

_SEEN = -1.0  # masks hold 0 where a position is seen, and a very low number where it is hidden


def next_position(network: Any) -> None:
    """Decode rotates by the position after its own."""
    build = network.config.build_rope
    network.config.build_rope = lambda pos, *rest, **more: build(pos + int(pos.numel() == 1), *rest, **more)


def next_slot(original: Any) -> Any:
    """Decode writes the KV cache one slot too far."""

    def update(cache: Any, pos: Any, *rest: Any, **more: Any) -> Any:
        slots = cache.k_cache.shape[1]
        return original(cache, (pos + int(pos.numel() == 1)).clamp(max=slots - 1), *rest, **more)

    return update


def decoding(change: Callable[[Any], dict[str, Any]]) -> Network:
    """Attention with other arguments in decode: `change` gets the mask, `[..., slots]`."""
    return Network(unchanged, attention_called(lambda q, k, v, mask: change(mask) if q.shape[1] == 1 else {}))


def without_own_slot(mask: Any) -> dict[str, Any]:
    """The newest position hidden from itself."""
    seen = torch.nonzero(mask.reshape(-1) > _SEEN).reshape(-1)
    other = mask.clone()
    if len(seen) > 1:
        other.reshape(-1)[seen[-1]] = -torch.inf
    return {"mask": other}


def one_slot_more(mask: Any) -> dict[str, Any]:
    """A window that is one position longer, where it cuts something off."""
    first = int(torch.nonzero(mask.reshape(-1) > _SEEN)[0])
    other = mask.clone()
    if first > 0:
        other.reshape(-1)[first - 1] = 0
    return {"mask": other}


@contextmanager
def cache_before() -> Iterator[None]:
    """In decode block 1 reads the keys and values of block 0."""
    kept: list[dict[str, Any]] = []

    def change(q: Any, k: Any, v: Any, mask: Any) -> dict[str, Any]:
        """Called for block 0 and block 1 in turn."""
        if not kept:
            kept.append({"k": k, "v": v})
            return {}
        before = kept.pop()
        return before if q.shape[1] == 1 else {}

    with attention_called(change)():
        yield


def doubled_norm(network: Any) -> None:
    """A weight of which decode has a copy of its own, with other numbers."""
    norm = block(network).pre_atten_norm
    forward = norm.forward
    norm.forward = lambda x: forward(x) * (2 if x.shape[1] == 1 else 1)


def in_decode(name: str, model: str, what: str, site: Network, taps: tuple[str, ...], *causes: str) -> Mistake:
    return Mistake(
        f"decode-{name}", "re-authored code", model, f"in decode: {what}", site, FIRST, taps, causes, only_in="decode"
    )


FAULTS = (
    in_decode("position", "tiny_llama", "rotated by the next position", Network(next_position),
              ("block.0.attn.q_rope",), "decode_position_offset"),
    in_decode("slot", "tiny_llama", "the KV cache written one slot too far",
              Network(unchanged, lambda: patched("kv_cache", "update", next_slot)), ("block.0.cache.k",),
              "decode_slot"),
    in_decode("cache-of-block-0", "tiny_llama", "block 1 reads the cache of block 0", Network(unchanged, cache_before),
              ("block.1.attn.probs",)),
    in_decode("own-slot", "smollm2", "the newest position hidden from itself", decoding(without_own_slot),
              ("block.0.attn.probs",)),
    in_decode("window", "gemma2", "a window of one position more", decoding(one_slot_more), ("block.0.attn.probs",)),
    in_decode("norm", "qwen3", "another weight in the first norm of block 1", Network(doubled_norm),
              ("block.1.attn.norm",)),
)  # fmt: skip
