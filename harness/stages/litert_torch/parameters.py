"""Which tensors of a checkpoint each re-authored parameter is made of.

In: the tensor names and the re-authored config. Out: a `ParameterSource` for each parameter. Pure, and independent of
litert-torch's loader: where a row of a fused projection belongs follows from how attention splits it. So a loader that
puts it elsewhere is found out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.weights.parameters import Fused, ParameterSource

BLOCK = "transformer_blocks.{}"
# Re-authored module -> entry of the tensor names. A weight each, and a bias where the checkpoint has one.
_NORMS = {
    f"{BLOCK}.pre_atten_norm": "pre_attn_norm",
    f"{BLOCK}.post_atten_norm": "post_attn_norm",
    f"{BLOCK}.ff.pre_ff_norm": "pre_ff_norm",
    f"{BLOCK}.ff.post_ff_norm": "post_ff_norm",
    f"{BLOCK}.atten_func.query_norm": "attn_query_norm",
    f"{BLOCK}.atten_func.key_norm": "attn_key_norm",
}
_NORM_CONFIGS = {
    "pre_attn_norm": ("pre_attention_norm_config",),
    "post_attn_norm": ("post_attention_norm_config",),
    "pre_ff_norm": ("ff_config", "pre_ff_norm_config"),
    "post_ff_norm": ("ff_config", "post_ff_norm_config"),
    "attn_query_norm": ("attn_config", "query_norm_config"),
    "attn_key_norm": ("attn_config", "key_norm_config"),
}


def parameter_sources(names: Any, config: Any, stored: Any, own: Any) -> list[ParameterSource]:
    """A source for every parameter in `own` whose keys are all in `stored`; the audit by key reports the others.

    names: litert-torch's `TensorNames`. config: the re-authored `ModelConfig`. stored: keys of the checkpoint.
    own: names of the re-authored model's parameters.
    """
    return [
        source
        for source in _all_sources(names, config)
        if source.parameter in own and all(key in stored for key in source.keys)
    ]


def _all_sources(names: Any, config: Any) -> Iterator[ParameterSource]:
    embedding = f"{names.embedding}.weight"
    yield ParameterSource(parameter="tok_embedding.weight", keys=[embedding], scale=config.embedding_scale)
    head = f"{names.lm_head}.weight" if names.lm_head else embedding
    yield ParameterSource(parameter="lm_head.weight", keys=[head], divisor=config.final_logit_softcap)
    yield from _each("lm_head", names.lm_head, ("bias",))
    yield from _each("final_norm", names.final_norm, one_plus=config.final_norm_config.zero_centered)
    for number in range(config.num_layers):
        yield from _block(names, config.block_config(number), number)


def _block(names: Any, block: Any, number: int) -> Iterator[ParameterSource]:
    for module, entry in _NORMS.items():
        norm = block
        for part in _NORM_CONFIGS[entry]:
            norm = getattr(norm, part)
        yield from _each(module, getattr(names, entry), number=number, one_plus=norm.zero_centered)
    up = "w3" if names.ff_gate_proj else "w1"
    for module, entry in (("w1", "ff_gate_proj"), (up, "ff_up_proj"), ("w2", "ff_down_proj")):
        yield from _each(f"{BLOCK}.ff.{module}", getattr(names, entry), number=number)
    yield from _each(f"{BLOCK}.atten_func.output_projection", names.attn_output_proj, number=number)
    projection = f"{BLOCK}.atten_func.qkv_projection"
    if names.attn_fused_qkv_proj:
        yield from _each(projection, names.attn_fused_qkv_proj, number=number)
        return
    attention = block.attn_config
    fused = Fused(
        heads=attention.num_heads,
        kv_heads=attention.num_query_groups or attention.num_heads,
        head_dim=attention.head_dim,
        interleaved=not attention.qkv_transpose_before_split,
    )
    parts = (names.attn_query_proj, names.attn_key_proj, names.attn_value_proj)
    for kind in ("weight", "bias"):
        keys = [f"{part.format(number)}.{kind}" for part in parts if part]
        yield ParameterSource(parameter=f"{projection.format(number)}.{kind}", keys=keys, fused=fused)


def _each(
    module: str,
    path: str | None,
    kinds: tuple[str, ...] = ("weight", "bias"),
    *,
    number: int = 0,
    one_plus: bool = False,
) -> Iterator[ParameterSource]:
    if not path:
        return
    for kind in kinds:
        yield ParameterSource(
            parameter=f"{module.format(number)}.{kind}",
            keys=[f"{path.format(number)}.{kind}"],
            one_plus=one_plus and kind == "weight",
        )
