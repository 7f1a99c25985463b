"""Faults of the re-authored config: a number or a choice that is not the published one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from harness.bench.breaking import Change
from harness.bench.mistake import Config, Mistake
from harness.bench.workbench import FIRST


def blocks(config: Any) -> list[Any]:
    return list(config.block_configs) if isinstance(config.block_configs, (list, tuple)) else [config.block_configs]


def attention(**values: Any) -> Change:
    """Fields of every block's attention."""

    def change(config: Any) -> None:
        for block in blocks(config):
            for name, value in values.items():
                setattr(block.attn_config, name, value)

    return change


def norm(path: str, **values: Any) -> Change:
    """Fields of one norm of every block, or of the model: a copy, since examples share one object for all norms."""

    def change(config: Any) -> None:
        *parents, name = path.split(".")
        for owner in [config] if path == "final_norm_config" else blocks(config):
            for parent in parents:
                owner = getattr(owner, parent)
            setattr(owner, name, dataclasses.replace(getattr(owner, name), **values))

    return change


def model(**values: Any) -> Change:
    def change(config: Any) -> None:
        for name, value in values.items():
            setattr(config, name, value)

    return change


def activation(name: str) -> Change:
    def change(config: Any) -> None:
        from litert_torch.generative.layers import model_config as cfg

        for block in blocks(config):
            block.ff_config.activation = dataclasses.replace(
                block.ff_config.activation, type=getattr(cfg.ActivationType, name)
            )

    return change


def positions(of: Callable[[Any], Any]) -> Change:
    """Rotary tables built for other positions."""

    def change(config: Any) -> None:
        build = config.build_rope
        config.build_rope = lambda given, dims, base: build(of(given), dims, base)

    return change


def plain_rope(config: Any) -> None:
    from litert_torch.generative.layers.rotary_position_embedding import build_rope

    config.build_rope = build_rope


def one_kind_of_layer(config: Any) -> None:
    config.block_configs[1].attn_config.attn_type = config.block_configs[0].attn_config.attn_type


EMBED, NORM, ROPE, PROBS, ACT = (
    ("embed",),
    ("block.0.attn.norm",),
    ("block.0.attn.q_rope",),
    ("block.0.attn.probs", "block.0.attn.context"),
    ("block.0.mlp.act",),
)

_TABLE: tuple[tuple[str, str, str, Change, tuple[str, ...], str], ...] = (
    ("rope-base", "tiny_llama", "rope base 500000 for 10000", attention(rotary_base=500_000), ROPE, "rope_base"),
    ("rope-base-slightly", "tiny_llama", "rope base 10010 for 10000", attention(rotary_base=10_010), ROPE, "rope_base"),
    ("rope-base-qwen3", "qwen3", "rope base 10000 for 1000000", attention(rotary_base=10_000), ROPE, "rope_base"),
    ("rope-base-smollm2", "smollm2", "rope base 10000 for 100000", attention(rotary_base=10_000), ROPE, "rope_base"),
    ("rope-scaling-lost", "llama3_2", "Llama 3's rope scaling left out", plain_rope, ROPE, "rope_scaling"),
    ("rope-scaling-linear", "tiny_llama", "positions divided by 4", positions(lambda p: p / 4), ROPE, "rope_scaling"),
    ("rope-half", "tiny_llama", "half of each head rotated", attention(rotary_percentage=0.5), ROPE, "rope_percentage"),
    ("rope-whole", "phi2", "all of each head rotated, not 40 %", attention(rotary_percentage=1.0), ROPE,
     "rope_percentage"),
    ("position-offset", "smollm2", "positions counted from 1", positions(lambda p: p + 1), ROPE, "position_offset"),
    ("rope-missing", "qwen2_5", "no rotation", positions(lambda p: p * 0), ROPE, "rope_missing"),
    ("norm-eps", "tiny_llama", "norm eps 1e-6 for 1e-5", norm("pre_attention_norm_config", epsilon=1e-6), NORM,
     "norm_eps"),
    ("norm-eps-gemma2", "gemma2", "norm eps 1e-5 for 1e-6", norm("pre_attention_norm_config", epsilon=1e-5), NORM,
     "norm_eps"),
    ("norm-eps-post", "llama3_2", "second norm's eps 1e-6 for 1e-5", norm("post_attention_norm_config", epsilon=1e-6),
     ("block.0.mlp.norm",), "norm_eps"),
    ("norm-eps-final", "smollm2", "final norm's eps 1e-6 for 1e-5", norm("final_norm_config", epsilon=1e-6),
     ("final_norm",), "norm_eps"),
    ("norm-eps-final-slightly", "qwen2_5", "final norm's eps 1.1e-6 for 1e-6",
     norm("final_norm_config", epsilon=1.1e-6), ("final_norm",), "norm_eps"),
    ("query-norm-eps", "qwen3", "query norm's eps 1e-3 for 1e-6", norm("attn_config.query_norm_config", epsilon=1e-3),
     ROPE, "norm_eps"),
    ("norm-not-zero-centred", "gemma2", "norm weight w for 1 + w",
     norm("pre_attention_norm_config", zero_centered=False), NORM, "norm_zero_centred"),
    ("activation-gelu", "smollm2", "GELU for SiLU", activation("GELU"), ACT, "activation"),
    ("activation-exact", "phi2", "exact GELU for its tanh form", activation("GELU"), ACT, "activation"),
    ("activation-relu", "phi2", "ReLU for GELU", activation("RELU"), ACT, "activation"),
    ("attention-softcap-missing", "gemma2", "no attention softcap", attention(logit_softcap=None), PROBS,
     "attention_softcap"),
    ("attention-softcap-wrong", "gemma2", "attention softcap 30 for 50", attention(logit_softcap=30.0), PROBS,
     "attention_softcap"),
    ("attention-softcap-extra", "tiny_llama", "an attention softcap of 20", attention(logit_softcap=20.0), PROBS,
     "attention_softcap"),
    ("final-softcap", "gemma2", "final softcap 50 for 30", model(final_logit_softcap=50.0), ("logits",),
     "final_softcap"),
    ("embedding-scale-lost", "gemma2", "no embedding scale", model(embedding_scale=None), EMBED, "embedding_scale"),
    ("embedding-scale", "gemma2", "embedding scale 10", model(embedding_scale=10.0), EMBED, "embedding_scale"),
    ("embedding-scale-slightly", "qwen3", "an embedding scale of 1.0001", model(embedding_scale=1.0001), EMBED,
     "embedding_scale"),
    # 4096 positions are 16 in the miniature.
    ("window-off-by-one", "gemma2", "a window one position wider", attention(sliding_window_size=4096 + 256), PROBS,
     "window"),
    ("window-twice", "gemma2", "a window twice as wide", attention(sliding_window_size=8192), PROBS, "window"),
    ("window-everywhere", "gemma2", "the window on every layer", one_kind_of_layer,
     ("block.1.attn.probs", "block.1.attn.context"), "window"),
    ("qkv-order", "llama3_2", "q, k, v fused in another order", attention(qkv_fused_interleaved=False),
     ("block.0.attn.q",), "qkv_order"),
)  # fmt: skip

FAULTS = tuple(
    Mistake(name, "re-authored config", of, what, Config(change), FIRST, taps, (cause,))
    for name, of, what, change, taps, cause in _TABLE
)
