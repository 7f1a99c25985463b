"""Align the two PyTorch versions with the taps: which module's input or output is `mlp.gate`.

In: `ModuleNames`, what the modules of the published model are called. Out: a `ModuleTap` per point. The other version
is the route's to map, or what the model declares as its alignment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.errors import UsageError
from harness.names.taps import BLOCK_POINTS

Side = Literal["input", "output"]
View = Literal["plain", "heads", "kv_heads", "split_q", "split_k", "split_v", "split_gate", "split_up"]

_INPUT = "input of "


@dataclass(frozen=True)
class ModuleNames:
    """What the modules of the published model are called: a path each, with `{}` where the block's number goes.

    None for a module that it has not. Queries, keys and values have a module each or one for all three.
    litert-torch's `TensorNames`, which its models declare, has the same entries and stands for one.
    """

    embedding: str | None = None
    attn_query_proj: str | None = None
    attn_key_proj: str | None = None
    attn_value_proj: str | None = None
    attn_fused_qkv_proj: str | None = None
    attn_output_proj: str | None = None
    attn_query_norm: str | None = None
    attn_key_norm: str | None = None
    ff_up_proj: str | None = None
    ff_down_proj: str | None = None
    ff_gate_proj: str | None = None
    pre_attn_norm: str | None = None
    post_attn_norm: str | None = None
    pre_ff_norm: str | None = None
    post_ff_norm: str | None = None
    final_norm: str | None = None
    lm_head: str | None = None
    position_embedding: str | None = None


@dataclass(frozen=True)
class ModuleTap:
    """A point read off a module. `path` holds `{}` where the block's number goes."""

    point: str
    path: str
    side: Side = "output"
    view: View = "plain"


@dataclass(frozen=True)
class ModuleMap:
    """How to read one PyTorch version. `layer`: path of a block; its input is what `embed` is for block 0."""

    layer: str
    block: tuple[ModuleTap, ...]
    final_norm: str | None

    @property
    def points(self) -> frozenset[str]:
        return frozenset(tap.point for tap in self.block)

    def describe(self, block: int | None, point: str) -> str | None:
        """The module a person should look at for a tap."""
        if block is None:
            return {"embed": self.layer.format(0), "final_norm": self.final_norm}.get(point)
        for tap in self.block:
            if tap.point == point:
                return tap.path.format(block)
        return f"{self.layer.format(block)} (attention)" if point.startswith(("attn", "cache")) else None


def hf_modules(names: ModuleNames, *, fused_gate: bool = False) -> ModuleMap:
    """Module paths of the HF model.

    fused_gate: `ff_up_proj` holds the gate as well.
    Raises ValueError when no per-block name is declared.
    """
    taps: list[ModuleTap] = []

    def add(point: str, path: str | None, side: Side = "output", view: View = "plain") -> None:
        if path:
            taps.append(ModuleTap(point, path, side, view))

    add("attn.norm", names.pre_attn_norm)
    if names.attn_fused_qkv_proj:
        for part in ("q", "k", "v"):
            add(f"attn.{part}", names.attn_fused_qkv_proj, view=f"split_{part}")  # type: ignore[arg-type]
    else:
        add("attn.q", names.attn_query_proj, view="heads")
        add("attn.k", names.attn_key_proj, view="kv_heads")
        add("attn.v", names.attn_value_proj, view="kv_heads")
    add("attn.context", names.attn_output_proj, "input")
    add("attn.out", names.attn_output_proj)
    # Where the MLP has a norm of its own, the norm after attention stands before the residual (Gemma 2).
    before_mlp = names.pre_ff_norm or names.post_attn_norm
    add("residual", before_mlp, "input")
    add("mlp.norm", before_mlp)
    if fused_gate:
        add("mlp.gate", names.ff_up_proj, view="split_gate")
        add("mlp.up", names.ff_up_proj, view="split_up")
    else:
        add("mlp.gate", names.ff_gate_proj)
        add("mlp.up", names.ff_up_proj)
    add("mlp.act", names.ff_down_proj, "input")
    add("mlp.out", names.ff_down_proj)
    layer = _layer_path(taps)
    taps.append(ModuleTap("out", layer))
    return ModuleMap(layer, tuple(taps), names.final_norm)


def _layer_path(taps: list[ModuleTap]) -> str:
    for tap in taps:
        head, found, _ = tap.path.partition("{}")
        if found:
            return head + "{}"
    raise ValueError("the tensor names have no per-block entry such as 'model.layers.{}.self_attn.o_proj'")


_HEADS: dict[str, View] = {"attn.q": "heads", "attn.k": "kv_heads", "attn.v": "kv_heads"}
_ENDS = ("layer", "final_norm")


def declared_modules(alignment: Mapping[str, str]) -> ModuleMap:
    """Module paths that a model declares itself: `{"layer": "blocks.{}", "mlp.act": "input of blocks.{}.down", ...}`.

    alignment: point -> path of the module whose output it is, or `input of` the module that takes it, with `{}` where
    the block's number goes. `layer` is the block itself, `final_norm` the last norm. Queries, keys and values are
    outputs of projections of their own. Raises UsageError for a point or a form that is not known.
    """
    for point, path in alignment.items():
        if point not in (*_ENDS, *BLOCK_POINTS):
            known = ", ".join((*_ENDS, *BLOCK_POINTS))
            raise UsageError(f"alignment: unknown point '{point}'; the points are {known}")
        if ("{}" in path) == (point == "final_norm"):
            place = "without" if point == "final_norm" else "with"
            raise UsageError(
                f"alignment: '{point}' is '{path}'; give a module path {place} {{}} for the block's number"
            )
    lacking = [end for end in _ENDS if end not in alignment]
    if lacking:
        raise UsageError(f"alignment lacks {' and '.join(lacking)}; give the module path")
    taps = []
    for point, path in alignment.items():
        if point not in _ENDS:
            side: Side = "input" if path.startswith(_INPUT) else "output"
            taps.append(ModuleTap(point, path.removeprefix(_INPUT), side, _HEADS.get(point, "plain")))
    layer = alignment["layer"]
    return ModuleMap(layer, (*taps, ModuleTap("out", layer)), alignment["final_norm"])
