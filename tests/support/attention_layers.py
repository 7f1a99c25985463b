"""Attention and rotary embeddings, each beside the same function written otherwise: they join `REWRITTEN`.

In: nothing. Out: the parts of which others make mistakes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from layers import Case, normal, rewritten
from torch import nn
from torch.nn import functional


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, mask: torch.Tensor | None, softcap: float = 0.0
) -> torch.Tensor:
    scores = (q * scale) @ k.mT
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1) @ v


def qkv(heads: int = 4, kv: int = 4, time: int = 12, dim: int = 16) -> tuple[torch.Tensor, ...]:
    return normal(2, heads, time, dim), normal(2, kv, time, dim), normal(2, kv, time, dim)


def causal(time: int = 12) -> torch.Tensor:
    return torch.ones(time, time, dtype=torch.bool).tril()


@rewritten("attention")
def attention() -> Case:
    return (
        lambda q, k, v: attend(q, k, v, 0.25, causal()),
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        qkv(),
    )


@rewritten("attention with grouped heads")
def attention_with_grouped_heads() -> Case:
    return (
        lambda q, k, v: attend(q, k.repeat_interleave(4, 1), v.repeat_interleave(4, 1), 0.25, None),
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        qkv(8, 2),
    )


@rewritten("attention that is split over the keys")
def attention_split_over_the_keys() -> Case:
    def candidate(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        top = torch.full(q.shape[:-1], -math.inf)
        total, made = torch.zeros(q.shape[:-1]), torch.zeros(q.shape)
        for start in range(0, 12, 4):  # as flash attention does
            scores = q @ k[..., start : start + 4, :].mT * 0.25
            higher = torch.maximum(top, scores.amax(-1))
            powers, kept = torch.exp(scores - higher[..., None]), torch.exp(top - higher)
            total, top = total * kept + powers.sum(-1), higher
            made = made * kept[..., None] + powers @ v[..., start : start + 4, :]
        return made / total[..., None]

    return candidate, functional.scaled_dot_product_attention, qkv()


@rewritten("multi-head attention")
def multi_head_attention() -> Case:
    layer = nn.MultiheadAttention(64, 4, batch_first=True)

    def candidate(x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.reshape(2, 10, 4, 16).transpose(1, 2)
            for part in functional.linear(x, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
        )
        mixed = attend(q, k, v, 0.25, None).transpose(1, 2).reshape(2, 10, 64)
        return layer.out_proj(mixed)  # type: ignore[no-any-return]

    return candidate, lambda x: layer(x, x, x, need_weights=False)[0], (normal(2, 10, 64),)


def angles(time: int = 12, dim: int = 16, base: float = 10_000.0, start: int = 0) -> torch.Tensor:
    frequencies = base ** (-torch.arange(0, dim, 2).float() / dim)
    return torch.arange(start, start + time).float()[:, None] * frequencies


def turned_by_rope(x: torch.Tensor, start: int = 0) -> torch.Tensor:
    turns = torch.cat([angles(start=start)] * 2, -1)
    half = torch.cat([-x[..., 8:], x[..., :8]], -1)
    return x * turns.cos() + half * turns.sin()


@rewritten("rope")
def rope() -> Case:
    def candidate(x: torch.Tensor) -> torch.Tensor:
        turned = torch.view_as_complex(torch.stack([x[..., :8], x[..., 8:]], -1).contiguous())
        turned = turned * torch.polar(torch.ones(12, 8), angles())
        return torch.cat([turned.real, turned.imag], -1)

    return candidate, turned_by_rope, (normal(2, 4, 12, 16),)


@rewritten("rope by angles of its own")
def rope_by_angles_of_its_own() -> Case:
    def candidate(x: torch.Tensor) -> torch.Tensor:
        inverse = torch.exp(torch.arange(0, 16, 2).float() * (-math.log(10_000.0) / 16))
        turns = torch.arange(12).float()[:, None] * inverse
        one, other = x[..., :8], x[..., 8:]
        return torch.cat([one * turns.cos() - other * turns.sin(), other * turns.cos() + one * turns.sin()], -1)

    return candidate, turned_by_rope, (normal(2, 4, 12, 16),)


@rewritten("attention in numpy")
def attention_in_numpy() -> Case:
    def candidate(q: Any, k: Any, v: Any) -> Any:
        scores = np.einsum("bhqd,bhkd->bhqk", q, k) / np.float32(4)
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        return np.einsum("bhqk,bhkd->bhqd", powers, v) / powers.sum(-1, keepdims=True)

    return candidate, functional.scaled_dot_product_attention, qkv()
