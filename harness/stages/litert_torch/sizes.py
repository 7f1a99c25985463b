"""The sizes and layouts that a litert-torch `ModelConfig` says.

In: a config. Out: sizes by the engine's names for them.
"""

from __future__ import annotations

from typing import Any

from harness.jobs.job import Dimensions
from harness.weights.families import Sizes


def dimensions_of(config: Any) -> Dimensions:
    """Those of the re-authored model alone."""
    from litert_torch.generative.layers.model_config import ActivationType, FeedForwardType

    attention, feed_forward = config.block_config(0).attn_config, config.block_config(0).ff_config
    glu = feed_forward.activation.type in (ActivationType.SILU_GLU, ActivationType.GE_GLU)
    layers = [config.block_config(block).attn_config for block in range(config.num_layers)]
    layer_heads = [(layer.num_heads, layer.num_query_groups) for layer in layers]
    return Dimensions(
        blocks=config.num_layers,
        heads=attention.num_heads,
        kv_heads=attention.num_query_groups,
        head_dim=attention.head_dim,
        hidden=config.embedding_dim,
        vocab=config.vocab_size,
        interleaved=not attention.qkv_transpose_before_split,
        fused_gate=glu and feed_forward.type == FeedForwardType.SEQUENTIAL,
        layer_heads=layer_heads if len(set(layer_heads)) > 1 else [],
    )


def sizes_at(config: Any, number: int = 0) -> Sizes:
    """The sizes at one block."""
    block = config.block_config(number)
    attention = block.attn_config
    return Sizes(
        vocab=config.vocab_size,
        layers=config.num_layers,
        hidden=config.embedding_dim,
        intermediate=block.ff_config.intermediate_size,
        heads=attention.num_heads,
        kv_heads=attention.num_query_groups or attention.num_heads,
        head_dim=attention.head_dim,
    )


def row_widths(config: Any) -> dict[str, int]:
    """How long the rows of the re-authored model's weights are, by what they take."""
    widths = {"the hidden size": config.embedding_dim}
    for number in range(config.num_layers):
        block = config.block_config(number)
        widths |= {
            f"the MLP's size in block {number}": block.ff_config.intermediate_size,
            f"the attention's width in block {number}": block.attn_config.num_heads * block.attn_config.head_dim,
        }
    return widths


def has_rms_norms(config: Any) -> bool:
    """Whether the first norm of every block and the final one are RMS norms."""
    from litert_torch.generative.layers.model_config import NormalizationType

    norms = [config.block_config(block).pre_attention_norm_config for block in range(config.num_layers)]
    return all(norm.type == NormalizationType.RMS_NORM for norm in [*norms, config.final_norm_config])
