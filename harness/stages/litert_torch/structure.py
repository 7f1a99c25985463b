"""The structure of the re-authored model, from its litert-torch `ModelConfig`.

In: the config and how its class wires a block. Out: a `Structure`. Values are the declared ones; whether the class
honours them is for `ignored.py` to find out. Rotary frequencies and ALiBi biases come from the functions that the
model calls.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from harness.audit.behaviour import describe_activation, describe_rope
from harness.audit.placement import Placement
from harness.audit.structure import ALIBI_POSITIONS, Layer, Norm, Rope, Structure

_GLU = {"SILU_GLU": "silu", "GE_GLU": "gelu"}
_ATTENTION = "transformer_blocks.{}.atten_func"
_MLP = "transformer_blocks.{}.ff"
_NORMS = {
    "pre_attention": "transformer_blocks.{}.pre_atten_norm",
    "post_attention": "transformer_blocks.{}.post_atten_norm",
    "pre_mlp": f"{_MLP}.pre_ff_norm",
    "post_mlp": f"{_MLP}.post_ff_norm",
    "query_norm": f"{_ATTENTION}.query_norm",
    "key_norm": f"{_ATTENTION}.key_norm",
}


def reauthored_structure(config: Any, placement: Placement) -> Structure:
    """Read a whole `ModelConfig`. placement: how the class wires a block, see `placement.py`."""
    unaudited = dict(placement.unaudited)
    layers = tuple(_layer(config, config.block_config(i), placement, unaudited) for i in range(config.num_layers))
    return Structure(
        vocabulary=config.vocab_size,
        hidden_size=config.embedding_dim,
        max_length=config.max_seq_len,
        embedding_scale=1.0 if config.embedding_scale is None else float(config.embedding_scale),
        tied_embeddings=config.lm_head_share_weight_with_embedding,
        lm_head_bias=config.lm_head_use_bias,
        final_softcap=config.final_logit_softcap,
        final_norm=_norm(config.final_norm_config),
        rope_until=None,  # one build_rope for all lengths
        layers=layers,
        modules=_module_names(placement),
        unaudited=unaudited,
    )


def _layer(config: Any, block: Any, placement: Placement, unaudited: dict[str, str]) -> Layer:
    attention, ff = block.attn_config, block.ff_config
    norms = {
        "pre_attention": block.pre_attention_norm_config,
        "post_attention": block.post_attention_norm_config,
        "pre_mlp": ff.pre_ff_norm_config,
        "post_mlp": ff.post_ff_norm_config,
        "query_norm": attention.query_norm_config,
        "key_norm": attention.key_norm_config,
    }
    activation, glu = _activation(ff.activation)
    if not activation:
        unaudited["activation"] = f"{ff.activation.type} is not known here"
    # A class that has no kinds of attention gives every block its window.
    slides = getattr(attention.attn_type, "name", "LOCAL_SLIDING") == "LOCAL_SLIDING"
    return Layer(
        heads=attention.num_heads,
        kv_heads=attention.num_query_groups or attention.num_heads,
        head_dim=attention.head_dim,
        query_scale=_query_scale(attention.head_dim, placement, unaudited),
        softcap=attention.logit_softcap,
        window=attention.sliding_window_size if slides else None,
        rope=None if attention.use_alibi else _rope(config, attention, unaudited),
        alibi=_alibi(attention) if attention.use_alibi else None,
        qkv_bias=attention.qkv_use_bias,
        output_bias=attention.output_proj_use_bias,
        activation=activation,
        gated=glu or ff.type.name == "GATED",
        intermediate_size=ff.intermediate_size,
        mlp_bias=ff.use_bias,
        parallel_residual=block.parallel_residual,
        **placement.placed({slot: _norm(norm) for slot, norm in norms.items()}),
    )


def _query_scale(head_dim: int, placement: Placement, unaudited: dict[str, str]) -> float:
    """No config has it: what the attention of the small model was heard to multiply by."""
    heard = placement.overheard.scales if placement.overheard is not None else []
    # The heads of the small model may be narrower. Either its factor follows from the width, or the width is the same.
    if heard and all(math.isclose(scale, width**-0.5, rel_tol=1e-6) for scale, width in heard):
        return float(head_dim**-0.5)
    if len(set(heard)) == 1 and heard[0][1] == head_dim:
        return heard[0][0]
    unaudited["query_scale"] = "the attention of its miniature was not heard to scale all queries by one known factor"
    return 0.0


def _norm(config: Any) -> Norm | None:
    if config is None or config.type.name == "NONE":
        return None
    if config.type.name == "LAYER_NORM":
        return Norm("layer", config.epsilon, bias=config.use_bias)
    gain = config.scale_shift if config.with_scale else 1.0
    kind = {"RMS_NORM": "rms"}.get(config.type.name, config.type.name.lower())
    return Norm(kind, config.epsilon, config.zero_centered, gain=gain)


def _activation(config: Any) -> tuple[str, bool]:
    """(name, whether it gates)."""
    return (_GLU[config.type.name], True) if config.type.name in _GLU else (_plain_activation(config.type), False)


@cache
def _plain_activation(kind: Any) -> str:
    from litert_torch.generative.layers.builder import get_activation
    from litert_torch.generative.layers.model_config import ActivationConfig

    return describe_activation(get_activation(ActivationConfig(kind)))


def _rope(config: Any, attention: Any, unaudited: dict[str, str]) -> Rope | None:
    """From the cosines and sines of position 1, whose angles are the frequencies (radians, at most 1)."""
    import torch

    try:
        dims = int(attention.rotary_percentage * attention.head_dim)
        cos, sin = config.build_rope(torch.tensor([1]), dims, attention.rotary_base)
    except Exception as error:
        unaudited["rope"] = f"build_rope fails ({type(error).__name__}: {' '.join(str(error).split())})"
        return None
    if cos is None:
        return None
    cos, sin = cos.double().flatten(), sin.double().flatten()
    amplitude = float(torch.hypot(cos, sin).median())
    return describe_rope(torch.atan2(sin, cos).tolist(), amplitude, attention.rotary_base)


def position_tables(config: Any) -> list[list[float]]:
    """What the re-authored model makes of positions, each list once: the rotary frequencies of its blocks in radians
    per position, and the ALiBi bias of each head per position."""
    tables: dict[tuple[float, ...], None] = {}
    for number in range(config.num_layers):
        attention = config.block_config(number).attn_config
        if attention.use_alibi:
            slopes = _alibi(attention)[: attention.num_heads]
            tables[tuple(slope / math.sqrt(attention.head_dim) for slope in slopes)] = None
        elif rope := _rope(config, attention, {}):
            tables[tuple(rope.base ** (-2 * i / rope.dims) / s for i, s in enumerate(rope.scaling))] = None
    return [list(table) for table in tables]


def windows_of(config: Any) -> list[int]:
    """The sliding windows of the re-authored blocks, each once, ascending."""
    blocks = [config.block_config(number).attn_config for number in range(config.num_layers)]
    return sorted({int(block.sliding_window_size) for block in blocks if block.sliding_window_size})


def _alibi(attention: Any) -> tuple[float, ...]:
    from litert_torch.generative.layers.attention_utils import build_alibi_bias

    bias = build_alibi_bias(attention.num_heads, max(ALIBI_POSITIONS) + 1)[0, :, 0]
    return tuple(float(x) for position in ALIBI_POSITIONS for x in bias[:, position])


def _module_names(placement: Placement) -> dict[str, str]:
    found = dict.fromkeys(
        ("heads", "kv_heads", "head_dim", "query_scale", "softcap", "window", "rope", "alibi"), _ATTENTION
    )
    found |= dict.fromkeys(("activation", "gated", "intermediate_size", "mlp_bias"), _MLP)
    found |= {"qkv_bias": f"{_ATTENTION}.qkv_projection", "output_bias": f"{_ATTENTION}.output_projection"}
    found |= {"embedding_scale": "tok_embedding", "final_norm": "final_norm"}
    found |= {"parallel_residual": "transformer_blocks.{}"}
    return found | placement.placed(_NORMS)
