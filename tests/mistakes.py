"""Mistakes that people make, each with the hypothesis that names it: in code, weights, configs and constants.

In: nothing. Out: tables of changes, for the tests that break a miniature with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from test_sees_faults import LAYER, block, exchange_key_heads, jiggle, swap_gate_and_up

from harness.bench.breaking import jiggled, set_weight, typical_element, with_flip
from harness.bench.reseed import patch
from harness.bench.workbench import Bench
from harness.explain.functions import to_bfloat16, to_float16
from harness.stages.litert_torch.faults.rewiring import (
    Changed,
    attention_called,
    first_norm,
    interleaved,
    mlp,
    patched,
    rms,
    tiled,
    wired,
)

Change = Callable[[Any], Any]


def attention(network: Any, number: int = 1) -> Any:
    return block(network, number).atten_func


def feed_forward(network: Any, number: int = 1) -> Any:
    return block(network, number).ff


def row(weight: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(weight))[:, None]


def edited(find: Callable[[Any], Any], edit: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda network: set_weight(find(network), edit(find(network).weight))


CODE: dict[str, tuple[Change, str]] = {
    "norm_kind": (first_norm(lambda x, w: torch.nn.functional.layer_norm(x, x.shape[-1:], w, None, 1e-5)), "norm_kind"),
    "norm_zero_centred": (first_norm(lambda x, w: rms(x) * (1 + w)), "norm_zero_centred"),
    "norm_missing": (first_norm(lambda x, w: x), "norm_missing"),
    "norm_weight_default": (first_norm(lambda x, w: rms(x)), "norm_weight_default"),
    "norm_eps": (first_norm(lambda x, w: rms(x, 1e-3) * w), "norm_eps"),
    "activation gelu": (mlp(lambda act, g, u: torch.nn.functional.gelu(g) * u), "activation"),
    "activation tanh": (
        mlp(lambda act, g, u: torch.nn.functional.gelu(g, approximate="tanh") * u), "activation"),
    "activation quick": (mlp(lambda act, g, u: g * torch.sigmoid(1.702 * g) * u), "activation"),
    "activation relu": (mlp(lambda act, g, u: torch.relu(g) * u), "activation"),
    "activation_on_up": (mlp(lambda act, g, u: g * act(u)), "activation_on_up"),
    "zeroed": (mlp(lambda act, g, u: g * 0), "zeroed"),
    "gate_missing": (mlp(lambda act, g, u: act(g)), "gate_missing"),
    "residual_missing": (wired(lambda x, a, norm, ff: (r := x + a) * 0 + ff(norm(r))), "residual_missing"),
    "branch_missing": (wired(lambda x, a, norm, ff: x + ff(norm(x))), "branch_missing"),
    "residual_of_block_input": (wired(lambda x, a, norm, ff: x + ff(norm(x + a))), "residual_of_block_input"),
    "bias_extra": (
        lambda n: setattr(attention(n).output_projection, "bias", torch.nn.Parameter(0.1 * torch.ones(128).cumsum(0))),
        "bias_extra",
    ),
    "constant_scale": (
        lambda n: setattr(block(n, 1), "post_atten_norm", Changed(block(n, 1).post_atten_norm, lambda x: x * 1.25)),
        "constant_scale",
    ),
    "constant_offset": (
        lambda n: setattr(block(n, 1), "post_atten_norm", Changed(block(n, 1).post_atten_norm, lambda x: x + 0.01)),
        "constant_offset",
    ),
    "clamped": (
        lambda n: setattr(block(n, 1), "post_atten_norm", Changed(block(n, 1).post_atten_norm, torch.relu)),
        "clamped",
    ),
    "value_rounded": (
        lambda n: setattr(block(n, 1), "post_atten_norm", Changed(
            block(n, 1).post_atten_norm, lambda x: x.bfloat16().float())),
        "value_rounded",
    ),
}  # fmt: skip

WEIGHTS: dict[str, tuple[Change, str]] = {
    "gate_up_swapped": (swap_gate_and_up, "gate_up_swapped"),
    "weight_transposed": (
        edited(lambda n: attention(n).output_projection, lambda w: w.T.reshape(w.shape)), "weight_transposed"),
    "weight_of_another_module": (lambda n: set_weight(n.lm_head, n.tok_embedding.weight), "weight_of_another_module"),
    "embedding_token_offset": (edited(lambda n: n.tok_embedding, lambda w: w.roll(-1, 0)), "embedding_token_offset"),
    "weight_zeroed": (edited(lambda n: feed_forward(n).w2, torch.zeros_like), "weight_zeroed"),
    "weight_rounded bf16": (edited(lambda n: feed_forward(n).w2, lambda w: w.bfloat16().float()), "weight_rounded"),
    "weight_rounded fp16": (edited(lambda n: feed_forward(n).w1, lambda w: w.half().float()), "weight_rounded"),
    "weight_of_another_block": (
        lambda n: set_weight(feed_forward(n).w2, feed_forward(n, 0).w2.weight), "weight_of_another_block"),
    "norm of another block": (
        lambda n: set_weight(block(n, 1).pre_atten_norm, block(n, 0).pre_atten_norm.weight), "weight_of_another_block"),
    "channel_permutation": (
        edited(lambda n: feed_forward(n).w2, lambda w: w[torch.randperm(len(w), generator=torch.manual_seed(1))]),
        "channel_permutation",
    ),
    "channel_scale": (
        edited(lambda n: feed_forward(n).w2, lambda w: w * (1 + 0.01 * torch.randn(len(w), 1,
               generator=torch.manual_seed(1)))),
        "channel_scale",
    ),
    "one channel's scale": (
        edited(lambda n: feed_forward(n).w2, lambda w: w * (1 + 0.5 * (torch.arange(len(w)) == 5))[:, None]),
        "channel_scale",
    ),
    "weight_column": (
        edited(lambda n: feed_forward(n).w2, lambda w: torch.where(torch.arange(w.shape[1]) == 7, 0.0, w)),
        "weight_column",
    ),
    "weight_rows": (
        edited(lambda n: feed_forward(n).w2, lambda w: torch.where(row(w) == 7, w.roll(3, 1), w)),
        "weight_rows",
    ),
    "weight_differs": (jiggle(lambda n: feed_forward(n).w2), "weight_differs"),
    "head_permutation": (exchange_key_heads, "head_permutation"),
    "bias_missing": (lambda n: attention(n).qkv_projection.bias.zero_(), "bias_missing"),
    "not a number": (
        edited(lambda n: feed_forward(n).w2, lambda w: torch.where(row(w) == 7, math.nan, w)),
        "weight_rows",
    ),
}  # fmt: skip


def every_attention(**changes: Any) -> Callable[[Any], None]:
    """Fields of all blocks' attention in the re-authored config."""

    def change(config: Any) -> None:
        blocks = config.block_configs if isinstance(config.block_configs, list) else [config.block_configs]
        for one in blocks:
            for name, value in changes.items():
                setattr(one.attn_config, name, value)

    return change


def other_positions(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Rotary tables built for other positions."""

    def with_positions(config: Any) -> None:
        build = config.build_rope
        config.build_rope = lambda positions, dims, base: build(change(positions), dims, base)

    return with_positions


def rope_without_scaling(config: Any) -> None:
    from litert_torch.generative.layers.rotary_position_embedding import build_rope

    config.build_rope = build_rope


def field(**changes: Any) -> Callable[[Any], None]:
    return lambda config: [setattr(config, name, value) for name, value in changes.items()]  # type: ignore[return-value]


def all_local(config: Any) -> None:
    config.block_configs[1].attn_config.attn_type = config.block_configs[0].attn_config.attn_type


CONFIG: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "rope base": ("tiny_llama", every_attention(rotary_base=500_000), "rope_base"),
    "rope base, slightly": ("tiny_llama", every_attention(rotary_base=10_010), "rope_base"),
    "rope scaling lost": ("llama3_2", rope_without_scaling, "rope_scaling"),
    "rope scaling, linear": ("tiny_llama", other_positions(lambda p: p / 4), "rope_scaling"),
    "rope percentage": ("tiny_llama", every_attention(rotary_percentage=0.5), "rope_percentage"),
    "rope percentage of phi2": ("phi2", every_attention(rotary_percentage=1.0), "rope_percentage"),
    "position offset": ("tiny_llama", other_positions(lambda p: p + 1), "position_offset"),
    "rope of the other layers": ("gemma3", every_attention(rotary_base=10_000), "rope_base_of_another_layer"),
    "rope missing": ("tiny_llama", other_positions(lambda p: p * 0), "rope_missing"),
    "attention softcap missing": ("gemma2", every_attention(logit_softcap=None), "attention_softcap"),
    "attention softcap wrong": ("gemma2", every_attention(logit_softcap=30.0), "attention_softcap"),
    "attention softcap extra": ("tiny_llama", every_attention(logit_softcap=20.0), "attention_softcap"),
    "final softcap": ("gemma2", field(final_logit_softcap=50.0), "final_softcap"),
    "embedding scale lost": ("gemma2", field(embedding_scale=None), "embedding_scale"),
    "embedding scale": ("gemma2", field(embedding_scale=10.0), "embedding_scale"),
    # 4096 positions are 16 in the miniature.
    "window off by one": ("gemma2", every_attention(sliding_window_size=4096 + 256), "window"),
    "window twice": ("gemma2", every_attention(sliding_window_size=8192), "window"),
    "window on the wrong layer": ("gemma2", all_local, "window"),
    "fused q, k, v": ("tiny_llama", every_attention(qkv_fused_interleaved=False), "qkv_order"),
    "norm eps of gemma2": (
        "gemma2", lambda c: setattr(c.block_configs[0].pre_attention_norm_config, "epsilon", 1e-5), "norm_eps"),
    "query norm eps": (
        "qwen3", lambda c: setattr(c.block_config(0).attn_config.query_norm_config, "epsilon", 1e-3), "norm_eps"),
}  # fmt: skip


def without_key(mask: torch.Tensor, key: int) -> torch.Tensor:
    """A mask that hides one key from every position after it."""
    mask = mask.clone()
    mask[..., key] = -torch.inf
    return mask


def across(original: Any) -> Any:
    def call(*args: Any, **rest: Any) -> Any:
        made = original(*args, **rest)
        return made.transpose(2, 3).reshape(made.shape)

    return call


FUNCTIONS: dict[str, tuple[Any, str]] = {
    "attention scale": (attention_called(lambda q, k, v, mask: {"scale": 0.1}), "attention_scale"),
    "causal mask": (attention_called(lambda q, k, v, mask: {"mask": torch.zeros_like(mask)}), "causal_mask"),
    "repeated KV heads": (
        attention_called(lambda q, k, v, mask: {"k": tiled(k, q), "v": tiled(v, q)}), "kv_head_order"),
    "values alone": (attention_called(lambda q, k, v, mask: {"k": k.repeat_interleave(q.shape[2] // k.shape[2], 2),
                                                 "v": tiled(v, q)}), "kv_head_order"),
    "another mask": (attention_called(lambda q, k, v, mask: {"mask": without_key(mask, 3)}), "mask"),
    "heads across": (
        lambda: patched("scaled_dot_product_attention", "scaled_dot_product_attention_with_hlfb", across),
        "context_head_order",
    ),
    "interleaved rope": (
        lambda: patched("rotary_position_embedding", "apply_rope", interleaved), "rope_interleaved"),
    "rope the other way": (
        lambda: patched("rotary_position_embedding", "apply_rope", lambda f: lambda x, cos, sin: f(x, cos, -sin)),
        "rope_direction",
    ),
}  # fmt: skip


def of_constant(name: str, change: Callable[[np.ndarray[Any, Any]], Any]) -> Callable[[Bench, Path], None]:
    def edit(model: Bench, file: Path) -> None:
        values = model.constant(name)
        patch(file, values, np.asarray(change(values), np.float32))

    return edit


def one_bit(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return with_flip(values, typical_element(values))


DOWN = LAYER.format(1) + "mlp.down_proj.weight"
NORM = LAYER.format(1) + "input_layernorm.weight"
CONSTANTS: dict[str, tuple[Callable[[Bench, Path], None], str]] = {
    "a bit of a weight": (of_constant(DOWN, one_bit), "single_weight"),
    "a bit of q, k, v": (of_constant("qkv.1", one_bit), "single_weight"),
    "a bit of the head": (of_constant("lm_head.weight", one_bit), "single_weight"),
    "a bit of a norm": (of_constant(NORM, one_bit), "channel_scale"),
    "rounded to bfloat16": (of_constant(DOWN, to_bfloat16), "weight_rounded"),
    "rounded to float16": (of_constant(DOWN, to_float16), "weight_rounded"),
    "zeroed": (of_constant(DOWN, np.zeros_like), "weight_zeroed"),
    "of block 0": (
        lambda model, file: patch(file, model.constant(DOWN), model.constant(DOWN.replace(".1.", ".0."))),
        "weight_of_another_block",
    ),
    "a wrong scale of one channel": (
        of_constant(DOWN, lambda w: w * np.where(np.arange(len(w)) == 9, 2, 1)[:, None]), "channel_scale"),
    "scaled": (of_constant(DOWN, lambda w: w * 1.01), "constant_scale"),
    "all of it a little off": (of_constant(DOWN, lambda w: jiggled(torch.tensor(w)).numpy()), "weight_differs"),
}  # fmt: skip
