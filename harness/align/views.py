"""Where a tap lies in a flatbuffer, and how the tensor there becomes the tap.

In: a tensor of a signature. Out: the tap's array, `[1, time, ...]`; and back. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.align.layout import (
    HeadLayout,
    canonical_cache,
    join_gate,
    join_heads,
    layout_cache,
    split_gate,
    split_heads,
)

Array = np.ndarray[Any, Any]
Move = tuple[str, tuple[int, ...]]  # "reshape" and the shape, or "transpose" and the order of the axes


@dataclass(frozen=True)
class TapSource:
    """Where a tap is in a signature."""

    tap: str
    tensor: int  # its number in the subgraph
    subgraph: int  # that of a composite when the tensor lies inside one, else the signature's own
    view: str  # how `[1, time, ...]` is made of the tensor; see `view_tensor`
    name: str  # the tensor's name in the file
    op: str  # the kind of the operator that writes it
    inner: bool = False  # whether the tensor lies inside a composite
    moves: tuple[Move, ...] = ()  # reshapes and transposes of the graph that come before the view, first to last
    scaled: bool = False  # whether the file holds it times the scale of attention, head_dim^-0.5


def view_tensor(values: Array, source: TapSource, layout: HeadLayout, kv_layout: str = "default") -> Array:
    """A tensor of a signature as a tap, `[1, time, ...]`.

    What the views make of the tensor, after its moves:
    rows: `[1, time, width]`; a linear layer may drop the first axis. heads: as it is. heads_first: any shape that
    lies in memory as `[1, heads, time, head_dim]`. rows_of_heads: rows that hold one head after the other.
    split_q, split_k, split_v: a part of a fused projection that lies as `layout` says; split_joined_q and so on: as
    `[Q | K | V]`; split_grouped_q and so on: by KV head. split_gate, split_up: a part of a projection that holds both.
    probs: any shape that lies in memory as `[1, heads, time, source]`. cache_k, cache_v: a KV cache or what is written
    to it, in the file's layout.
    """
    for move, sizes in source.moves:
        values = values.transpose(sizes) if move == "transpose" else values.reshape(sizes)
    if source.scaled:
        values = values * _unscaled(layout, values)
    view = source.view
    if view == "heads":
        return values
    if view.startswith("cache_"):
        return canonical_cache(values, view.removeprefix("cache_"), kv_layout)  # type: ignore[no-any-return]
    if view in ("probs", "heads_first"):
        return values.reshape(1, layout.heads, -1, values.shape[-1]).transpose(0, 2, 1, 3)
    rows = values.reshape(1, -1, values.shape[-1])
    if view == "rows_of_heads":
        return rows.reshape(1, rows.shape[1], -1, layout.head_dim)
    if view in ("split_gate", "split_up"):
        return split_gate(rows, view.removeprefix("split_"))  # type: ignore[no-any-return]
    if view.startswith("split_"):
        how, _, part = view.rpartition("_")
        return split_heads(rows, part, _laid(layout, how))  # type: ignore[no-any-return]
    return rows


def _unscaled(layout: HeadLayout, like: Array) -> Any:
    return like.dtype.type(layout.head_dim**0.5)


def _laid(layout: HeadLayout, how: str) -> HeadLayout:
    """how: a view of a fused projection, without its part."""
    order = {"split_joined": False, "split_grouped": True}
    return replace(layout, interleaved=order[how]) if how in order else layout


def tensor_of(
    taps: Mapping[str, Array], source: TapSource, shape: Sequence[int], layout: HeadLayout, kv_layout: str = "default"
) -> Array:
    """The tensor of a signature, made of the taps that are views of it: `view_tensor` turned round.

    taps: view -> tap, `[1, time, ...]`; all parts of a projection where the view is a part of one.
    shape: of the tensor in the file. Raises KeyError when a part is absent, ValueError when sizes do not fit.
    """
    shapes = [tuple(shape)]
    for move, sizes in source.moves:
        turned = tuple(shapes[-1][axis] for axis in sizes) if move == "transpose" else sizes
        shapes.append(turned)
    values = _before_view(taps, source.view, layout, kv_layout).reshape(shapes[-1])
    if source.scaled:
        values = values / _unscaled(layout, values)
    for (move, sizes), before in zip(reversed(source.moves), reversed(shapes[:-1]), strict=True):
        values = values.transpose(np.argsort(sizes)) if move == "transpose" else values.reshape(before)
    return np.ascontiguousarray(values)


def _before_view(taps: Mapping[str, Array], view: str, layout: HeadLayout, kv_layout: str) -> Array:
    if view in ("split_gate", "split_up"):
        return join_gate({part: taps[f"split_{part}"] for part in ("gate", "up")})  # type: ignore[no-any-return]
    if view.startswith("split_"):
        how = view.rpartition("_")[0]
        return join_heads({part: taps[f"{how}_{part}"] for part in "qkv"}, _laid(layout, how))  # type: ignore[no-any-return]
    values = taps[view]
    if view.startswith("cache_"):
        return layout_cache(values, view.removeprefix("cache_"), kv_layout)  # type: ignore[no-any-return]
    if view in ("probs", "heads_first"):
        return values.transpose(0, 2, 1, 3)
    return values
