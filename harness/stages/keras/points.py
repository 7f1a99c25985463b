"""Which layer of a KerasHub model is which tap: `TransformerDecoder` blocks with their norms first, as GPT-2 has them.

In: nothing. Out: a `ModuleMap` by the paths that Keras gives its layers. Pure.
"""

from __future__ import annotations

from harness.align.modules import ModuleMap, ModuleTap

BLOCK = "transformer_layer_{}"
ATTENTION = f"{BLOCK}/self_attention"
EMBEDDING, POSITIONS, FINAL = "token_embedding", "position_embedding", "layer_norm"

POINTS = (
    ModuleTap("attn.norm", f"{BLOCK}/self_attention_layer_norm"),
    ModuleTap("attn.q", f"{ATTENTION}/query", view="heads"),
    ModuleTap("attn.k", f"{ATTENTION}/key", view="kv_heads"),
    ModuleTap("attn.v", f"{ATTENTION}/value", view="kv_heads"),
    ModuleTap("attn.context", f"{ATTENTION}/attention_output", "input"),
    ModuleTap("attn.out", f"{ATTENTION}/attention_output"),
    ModuleTap("residual", f"{BLOCK}/feedforward_layer_norm", "input"),
    ModuleTap("mlp.norm", f"{BLOCK}/feedforward_layer_norm"),
    ModuleTap("mlp.up", f"{BLOCK}/feedforward_intermediate_dense"),  # before its activation
    ModuleTap("mlp.act", f"{BLOCK}/feedforward_output_dense", "input"),
    ModuleTap("mlp.out", f"{BLOCK}/feedforward_output_dense"),
    ModuleTap("out", BLOCK),
)


def keras_modules() -> ModuleMap:
    return ModuleMap(BLOCK, POINTS, FINAL)
