"""Which tensors of a signature can be given a reference's values, and of which taps each is made.

In: a subgraph and where its taps are. Out: a `Feed` per tensor. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from harness.align.views import TapSource
from harness.flatbuffer.reader import Subgraph

# A projection that is more than one tap is made of all of them.
_PARTS = {"split_gate": 2, "split_up": 2} | {
    f"{how}_{part}": 3 for how in ("split", "split_joined", "split_grouped") for part in "qkv"
}


@dataclass(frozen=True)
class Feed:
    """A tensor whose readers are given a reference's values."""

    tensor: int  # its number in the subgraph
    shape: tuple[int, ...]
    taps: tuple[str, ...]  # those it is made of, see `tensor_of`


def plan_feeds(graph: Subgraph, sources: Mapping[str, TapSource], present: Collection[str]) -> list[Feed]:
    """A feed for each tensor that some operator reads and that the taps in `present` give whole."""
    read = {index for op in graph.operators for index in op.inputs}
    views: dict[int, list[TapSource]] = {}
    for tap, source in sources.items():
        if tap in present and not source.inner and source.tensor in read:
            views.setdefault(source.tensor, []).append(source)
    made = {tensor: _made_of(items) for tensor, items in views.items()}
    return [Feed(tensor, graph.tensors[tensor].shape, taps) for tensor, taps in made.items() if taps]


def _made_of(views: list[TapSource]) -> tuple[str, ...]:
    whole = next((item.tap for item in views if item.view not in _PARTS), None)
    if whole is not None:
        return (whole,)
    return tuple(item.tap for item in views) if len(views) == _PARTS[views[0].view] else ()
