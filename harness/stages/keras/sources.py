"""Which tensors of a checkpoint each variable of a KerasHub GPT-2 is made of.

In: sizes. Out: a `ParameterSource` for each variable. Pure, and independent of KerasHub's loader: which columns of the
fused projection are queries follows from how the published model splits it. So a loader that takes others is found out.

A variable is called by its Keras path. Keras stores a kernel as the published `Conv1D` does, `[in, out]`, with heads
apart, `[in, heads, head_dim]`: the same numbers in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.align.modules import ModuleNames
from harness.stages.keras.points import ATTENTION, BLOCK, EMBEDDING, FINAL, POSITIONS
from harness.weights.families import Sizes
from harness.weights.parameters import ParameterSource

# Variable of a block -> entry of the names.
_NORMS = {"self_attention_layer_norm": "pre_attn_norm", "feedforward_layer_norm": "post_attn_norm"}
_DENSE = {
    "self_attention/attention_output": "attn_output_proj",
    "feedforward_intermediate_dense": "ff_up_proj",
    "feedforward_output_dense": "ff_down_proj",
}
_KINDS = (("kernel", "weight"), ("bias", "bias"))


def gpt2_sources(names: ModuleNames, sizes: Sizes) -> list[ParameterSource]:
    """names: of the published model."""
    return list(_sources(names, sizes))


def _sources(names: ModuleNames, sizes: Sizes) -> Iterator[ParameterSource]:
    yield ParameterSource(parameter=f"{EMBEDDING}/embeddings", keys=[f"{names.embedding}.weight"])
    yield ParameterSource(parameter=f"{POSITIONS}/embeddings", keys=[f"{names.position_embedding}.weight"])
    for block in range(sizes.layers):
        for layer, entry in _NORMS.items():
            yield from _norm(f"{BLOCK.format(block)}/{layer}", str(getattr(names, entry)).format(block))
        for layer, entry in _DENSE.items():
            module = str(getattr(names, entry)).format(block)
            for own, kind in _KINDS:
                yield ParameterSource(parameter=f"{BLOCK.format(block)}/{layer}/{own}", keys=[f"{module}.{kind}"])
        yield from _projections(str(names.attn_fused_qkv_proj).format(block), block, sizes)
    yield from _norm(FINAL, str(names.final_norm))


def _norm(layer: str, module: str) -> Iterator[ParameterSource]:
    yield ParameterSource(parameter=f"{layer}/gamma", keys=[f"{module}.weight"])
    yield ParameterSource(parameter=f"{layer}/beta", keys=[f"{module}.bias"])


def _projections(module: str, block: int, sizes: Sizes) -> Iterator[ParameterSource]:
    """Columns of the fused projection: queries, keys, values. The model scales its queries afterwards."""
    width = sizes.heads * sizes.head_dim
    for at, part in enumerate(("query", "key", "value")):
        for own, kind in _KINDS:
            yield ParameterSource(
                parameter=f"{ATTENTION.format(block)}/{part}/{own}",
                keys=[f"{module}.{kind}"],
                columns=(at * width, (at + 1) * width),
                scale=sizes.head_dim**-0.5 if part == "query" else None,
            )
