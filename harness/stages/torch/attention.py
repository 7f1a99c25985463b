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


def probabilities(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """softmax(q k^T * scale + mask), from the arguments of `F.scaled_dot_product_attention`."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1) if enable_gqa else key
    scores = query @ key.transpose(-1, -2) * (scale if scale is not None else 1 / math.sqrt(query.shape[-1]))
    if attn_mask is not None:
        scores = scores + attn_mask
    elif is_causal:
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~causal, -math.inf)
    return torch.softmax(scores, dim=-1)


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
        weights = probabilities(query, key, *args[2:], **kwargs)
        self.capture.put(block_tap(self.block.current, "attn.probs"), weights.transpose(1, 2))
        return weights @ value.repeat_interleave(weights.shape[1] // value.shape[1], dim=1)
