"""Attention spelled out: `F.scaled_dot_product_attention` as PyTorch's documentation defines it.

In: the arguments of that function. Out: its probabilities, or a whole model run with it taken apart.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from harness.names.taps import block_tap
from harness.stages.torch.capture import BlockCounter, Capture
from harness.stages.torch.intercept import Intercept, TorchCall

_WHOLE = 1024  # positions of a step whose probabilities are made all at once
# Probabilities of a longer one at once: 17 MB in float32. What is larger than 32 MB the allocator takes from the system
# and gives back to it each time, which took as long as computing it.
_NUMBERS = 1 << 22


def probabilities(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    rows: slice | None = None,
) -> torch.Tensor:
    """softmax(q k^T * scale + mask), from the arguments of `F.scaled_dot_product_attention`. rows: of which queries."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1) if enable_gqa else key
    asked = query if rows is None else query[..., rows, :]
    scores = asked @ key.transpose(-1, -2) * (scale if scale is not None else 1 / math.sqrt(query.shape[-1]))
    if attn_mask is not None:
        of_all = rows is None or attn_mask.shape[-2] == 1
        scores = scores + (attn_mask if of_all else attn_mask[..., rows, :])
    elif is_causal:
        causal = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
        scores = scores.masked_fill(~(causal if rows is None else causal[rows]), -math.inf)
    return torch.softmax(scores, dim=-1)


def query_rows(query: torch.Tensor) -> list[slice | None]:
    """The positions of a step whose probabilities are in memory at once; None for all, of one that is not long.

    query: `[1, heads, time, head_dim]`.
    """
    with torch._C.DisableTorchFunction():  # to ask for a size is not a call of the model's
        heads, time = query.shape[1:3]
    if time <= _WHOLE:
        return [None]
    step = max(1, _NUMBERS // (heads * time))
    return [slice(start, min(start + step, time)) for start in range(0, time, step)]


def rotated(capture: Capture, tap: str, values: torch.Tensor) -> torch.Tensor:
    """Write q or k as attention receives them; returns what it goes on with. values: `[1, heads, time, head_dim]`."""
    forced = capture.exchange(tap, values.transpose(1, 2))
    return values if forced is None else forced.transpose(1, 2)


class UnfusedAttention(Intercept):
    """Within it, fused attention is its definition, step by step, and its steps are written to the trace.

    The probabilities exist that way, as true float64 for the oracle and in other orders of summation as well: the
    steps are ordinary functions of torch, which the modes around this one see.
    """

    def __init__(self, block: BlockCounter, capture: Capture) -> None:
        super().__init__()
        self.block = block
        self.capture = capture

    def called(self, call: TorchCall) -> Any:
        func, args, kwargs = call
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = args[:3]
        query = rotated(self.capture, block_tap(self.block.current, "attn.q_rope"), query)
        key = rotated(self.capture, block_tap(self.block.current, "attn.k_rope"), key)
        contexts, tap = [], block_tap(self.block.current, "attn.probs")
        for rows in query_rows(query):
            weights = probabilities(query, key, *args[2:], **{**kwargs, "rows": rows})
            self.capture.put(tap, weights.transpose(1, 2), at=rows.start if rows else 0)
            contexts.append(weights @ value.repeat_interleave(weights.shape[1] // value.shape[1], dim=1))
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=2)
