"""How heads lie in a fused projection. Pure; works on NumPy arrays and torch tensors alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HeadLayout:
    """interleaved: `[Q Q Q K V]` per KV group (litert-torch's default) instead of plain `[Q | K | V]`."""

    heads: int
    kv_heads: int
    head_dim: int
    interleaved: bool = True

    @property
    def group(self) -> int:
        """Query heads per KV head (GQA)."""
        return self.heads // self.kv_heads


def split_heads(qkv: Any, part: str, layout: HeadLayout) -> Any:
    """The q, k or v of a fused projection.

    qkv: `[1, time, (heads + 2 * kv_heads) * head_dim]`.
    Returns `[1, time, heads or kv_heads, head_dim]`. Raises KeyError for another part.
    """
    time = qkv.shape[1]
    g, kv, d = layout.group, layout.kv_heads, layout.head_dim
    if layout.interleaved:
        grouped = qkv.reshape(1, time, kv, g + 2, d)
        stretch = {"q": slice(0, g), "k": slice(g, g + 1), "v": slice(g + 1, g + 2)}[part]
        return grouped[:, :, :, stretch].reshape(1, time, -1, d)
    plain = qkv.reshape(1, time, layout.heads + 2 * kv, d)
    stretch = {
        "q": slice(0, layout.heads),
        "k": slice(layout.heads, layout.heads + kv),
        "v": slice(layout.heads + kv, None),
    }[part]
    return plain[:, :, stretch]


def canonical_cache(values: Any, part: str, kv_layout: str) -> Any:
    """A KV cache tensor as `[1, time, kv_heads, head_dim]`.

    values: as a variant keeps it. default: so already. transposed: k as `[1, kv_heads, time, head_dim]`, v as
    `[1, kv_heads, head_dim, time]`. part: "k" or "v".
    """
    if kv_layout == "default":
        return values
    rows = values if part == "k" else values.swapaxes(2, 3)
    return rows.swapaxes(1, 2)


def split_gate(fused: Any, part: str) -> Any:
    """The gate or the up half of a projection that holds both, gate first, as Phi-3's and OpenELM's do.

    fused: `[..., 2 * intermediate]`. Raises KeyError for another part.
    """
    half = fused.shape[-1] // 2
    return fused[..., {"gate": slice(0, half), "up": slice(half, None)}[part]]


def join_heads(parts: Mapping[str, Any], layout: HeadLayout) -> Any:
    """The fused projection that q, k and v are parts of: `split_heads` turned round.

    parts: "q", "k" and "v", `[1, time, heads or kv_heads, head_dim]` each, all NumPy arrays or all torch tensors.
    Returns `[1, time, (heads + 2 * kv_heads) * head_dim]`, a copy.
    """
    time = parts["q"].shape[1]
    g, kv, d = layout.group, layout.kv_heads, layout.head_dim
    fused = _empty_like(parts["q"], (1, time, layout.heads + 2 * kv, d))
    if layout.interleaved:
        grouped = fused.reshape(1, time, kv, g + 2, d)
        grouped[:, :, :, :g] = parts["q"].reshape(1, time, kv, g, d)
        grouped[:, :, :, g] = parts["k"]
        grouped[:, :, :, g + 1] = parts["v"]
    else:
        fused[:, :, : layout.heads] = parts["q"]
        fused[:, :, layout.heads : layout.heads + kv] = parts["k"]
        fused[:, :, layout.heads + kv :] = parts["v"]
    return fused.reshape(1, time, -1)


def layout_cache(values: Any, part: str, kv_layout: str) -> Any:
    """A KV cache `[1, time, kv_heads, head_dim]` as a variant keeps it: `canonical_cache` turned round."""
    if kv_layout == "default":
        return values
    rows = values.swapaxes(1, 2)
    return rows if part == "k" else rows.swapaxes(2, 3)


def join_gate(parts: Mapping[str, Any]) -> Any:
    """The projection that "gate" and "up", `[..., intermediate]`, are halves of: `split_gate` turned round; a copy."""
    gate, up = parts["gate"], parts["up"]
    half = gate.shape[-1]
    fused = _empty_like(gate, (*gate.shape[:-1], 2 * half))
    fused[..., :half] = gate
    fused[..., half:] = up
    return fused


def _empty_like(values: Any, shape: tuple[int, ...]) -> Any:
    """Without importing the framework that the values are of."""
    import numpy as np  # here, since requests for a run know layouts as well and should not wait for it

    return values.new_empty(shape) if hasattr(values, "new_empty") else np.empty(shape, values.dtype)
