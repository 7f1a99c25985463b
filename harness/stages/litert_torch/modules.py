"""Which module of the re-authored model is which tap.

In: a declaration. Out: a `ModuleMap`: the Generative API's own naming, or what the model declares as its alignment.
"""

from __future__ import annotations

from typing import Any

from harness.align.modules import ModuleMap, ModuleTap, declared_modules
from harness.stages.litert_torch.declaration import GenerativeModel


def reauthored_modules(names: Any, *, fused_gate: bool = False) -> ModuleMap:
    """Module paths of a Generative API decoder; `names` says which of the optional modules it has.

    fused_gate: `w1` holds gate and up, and there is no `w3`.
    """
    layer = "transformer_blocks.{}"
    attention = f"{layer}.atten_func"
    before_mlp = f"{layer}.ff.pre_ff_norm" if names.pre_ff_norm else f"{layer}.post_atten_norm"
    taps = [ModuleTap("attn.norm", f"{layer}.pre_atten_norm")] if names.pre_attn_norm else []
    taps += [
        ModuleTap("attn.q", f"{attention}.qkv_projection", view="split_q"),
        ModuleTap("attn.k", f"{attention}.qkv_projection", view="split_k"),
        ModuleTap("attn.v", f"{attention}.qkv_projection", view="split_v"),
        ModuleTap("attn.context", f"{attention}.output_projection", "input"),
        ModuleTap("attn.out", f"{attention}.output_projection"),
    ]
    if names.pre_ff_norm or names.post_attn_norm:
        taps += [ModuleTap("residual", before_mlp, "input"), ModuleTap("mlp.norm", before_mlp)]
    if fused_gate:
        taps += [
            ModuleTap("mlp.gate", f"{layer}.ff.w1", view="split_gate"),
            ModuleTap("mlp.up", f"{layer}.ff.w1", view="split_up"),
        ]
    elif names.ff_gate_proj:
        taps += [ModuleTap("mlp.gate", f"{layer}.ff.w1"), ModuleTap("mlp.up", f"{layer}.ff.w3")]
    else:
        taps += [ModuleTap("mlp.up", f"{layer}.ff.w1")]
    taps += [
        ModuleTap("mlp.act", f"{layer}.ff.w2", "input"),
        ModuleTap("mlp.out", f"{layer}.ff.w2"),
        ModuleTap("out", layer),
    ]
    return ModuleMap(layer, tuple(taps), "final_norm")


def own_modules(model: GenerativeModel, *, fused_gate: bool) -> ModuleMap:
    """Module paths of a model's re-authored version: declared, or those of the Generative API."""
    if model.alignment:
        return declared_modules(model.alignment)
    return reauthored_modules(model.tensor_names, fused_gate=fused_gate)
