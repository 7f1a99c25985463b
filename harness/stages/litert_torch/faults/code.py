"""Faults of the re-authored code: right numbers, and something else done with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from harness.bench.breaking import Change, unchanged
from harness.bench.mistake import AsShipped, Mistake, Network
from harness.bench.workbench import FIRST
from harness.stages.litert_torch.faults.rewiring import (
    after,
    attention_called,
    block,
    first_norm,
    interleaved,
    mlp,
    patched,
    rms,
    tiled,
    wired,
)


def no_mask(network: Any) -> None:
    attend = block(network).atten_func.forward
    block(network).atten_func.forward = lambda x, rope, mask, *rest: attend(x, rope, torch.zeros_like(mask), *rest)


def biased(network: Any) -> None:
    projection = block(network).atten_func.output_projection
    projection.bias = torch.nn.Parameter(0.1 * torch.ones(len(projection.weight)).cumsum(0), requires_grad=False)


def called(change: Callable[..., dict[str, Any]]) -> Network:
    return Network(unchanged, attention_called(change))


def rotated(change: Callable[[Any], Any]) -> Network:
    return Network(unchanged, lambda: patched("rotary_position_embedding", "apply_rope", change))


def next_slot(original: Any) -> Any:
    """The KV cache written one position too far."""
    return lambda cache, pos, *rest, **more: original(cache, (pos + 1).clamp(max=255), *rest, **more)


def spread(heads: Any, like: Any) -> Any:
    return heads.repeat_interleave(like.shape[2] // heads.shape[2], 2)


def gelu(x: Any) -> Any:
    return torch.nn.functional.gelu(x)


NORM, ACT, RESIDUAL, OUT = (("block.1.attn.norm",), ("block.1.mlp.act",), ("block.1.residual",), ("block.1.out",))
MLP_NORM, PROBS, ROPE = ("block.1.mlp.norm",), ("block.0.attn.probs",), ("block.0.attn.q_rope",)


def in_code(name: str, model: str, what: str, site: Change | Network, taps: tuple[str, ...], *causes: str) -> Mistake:
    made = site if isinstance(site, Network) else Network(site)
    return Mistake(name, "re-authored code", model, what, made, FIRST, taps, causes)


FAULTS = (
    in_code("layer-norm", "tiny_llama", "layer norm for RMS norm",
            first_norm(lambda x, w: torch.nn.functional.layer_norm(x, x.shape[-1:], w, None, 1e-5)), NORM, "norm_kind"),
    in_code("norm-one-plus", "smollm2", "norm weight 1 + w for w", first_norm(lambda x, w: rms(x) * (1 + w)), NORM,
            "norm_zero_centred"),
    in_code("norm-missing", "llama3_2", "no first norm", first_norm(lambda x, w: x), NORM, "norm_missing"),
    in_code("norm-weight-unused", "deepseek", "the first norm's weight not used", first_norm(lambda x, w: rms(x, 1e-6)),
            NORM, "norm_weight_default"),
    in_code("norm-eps-outside", "tiny_llama", "eps added to the root and not under it",
            first_norm(lambda x, w: x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-5) * w), NORM, "norm_eps"),
    in_code("gelu", "tiny_llama", "GELU for SiLU", mlp(lambda act, g, u: gelu(g) * u), ACT, "activation"),
    in_code("gelu-quick", "llama3_2", "quick GELU for SiLU", mlp(lambda act, g, u: g * torch.sigmoid(1.702 * g) * u),
            ACT, "activation"),
    in_code("gelu-exact-gemma2", "gemma2", "exact GELU for its tanh form", mlp(lambda act, g, u: gelu(g) * u), ACT,
            "activation"),
    in_code("activation-on-up", "smollm2", "the activation on up and not on gate", mlp(lambda act, g, u: g * act(u)),
            ACT, "activation_on_up"),
    in_code("gate-only", "qwen2_5", "gate not multiplied with up", mlp(lambda act, g, u: act(g)), ACT, "gate_missing"),
    in_code("residual-missing", "tiny_llama", "no sum after attention",
            wired(lambda x, a, norm, ff: a + ff(norm(a))), RESIDUAL, "residual_missing"),
    in_code("second-residual-missing", "smollm2", "no sum after the MLP",
            wired(lambda x, a, norm, ff: ff(norm(x + a))), OUT, "residual_missing"),
    in_code("attention-missing", "llama3_2", "attention not added",
            wired(lambda x, a, norm, ff: x + ff(norm(x))), RESIDUAL, "branch_missing"),
    in_code("residual-of-input", "deepseek", "the MLP added to the block's input",
            wired(lambda x, a, norm, ff: x + ff(norm(x + a))), OUT, "residual_of_block_input"),
    in_code("bias-extra", "tiny_llama", "a bias where none belongs", biased, ("block.1.attn.out",), "bias_extra"),
    in_code("scale-extra", "qwen3", "the second norm times 1.25",
            after(block, "post_atten_norm", lambda x: x * 1.25), MLP_NORM, "constant_scale"),
    in_code("offset-extra", "tiny_llama", "the second norm plus 0.01",
            after(block, "post_atten_norm", lambda x: x + 0.01), MLP_NORM, "constant_offset"),
    in_code("rounded-activations", "smollm2", "the second norm rounded to bfloat16",
            after(block, "post_atten_norm", lambda x: x.bfloat16().to(x.dtype)), MLP_NORM, "value_rounded"),
    in_code("one-block-unmasked", "tiny_llama", "no causal mask in block 1", no_mask, ("block.1.attn.probs",),
            "causal_mask"),
    in_code("mask-missing", "qwen2_5", "no causal mask", called(lambda q, k, v, mask: {"mask": torch.zeros_like(mask)}),
            PROBS, "causal_mask"),
    in_code("attention-scale", "llama3_2", "attention scale 0.1",
            called(lambda q, k, v, mask: {"scale": 0.1}), PROBS, "attention_scale"),
    in_code("attention-scale-slightly", "tiny_llama", "attention scale off by 1e-4",
            called(lambda q, k, v, mask: {"scale": (1 + 1e-4) / math.sqrt(q.shape[-1])}), PROBS, "attention_scale"),
    in_code("kv-heads-tiled", "tiny_llama", "KV heads repeated 0 1 0 1 and not 0 0 1 1",
            called(lambda q, k, v, mask: {"k": tiled(k, q), "v": tiled(v, q)}), PROBS, "kv_head_order"),
    in_code("value-heads-tiled", "smollm2", "value heads alone repeated in the wrong order",
            called(lambda q, k, v, mask: {"k": spread(k, q), "v": tiled(v, q)}), ("block.0.attn.context",),
            "kv_head_order"),
    in_code("rope-interleaved", "tiny_llama", "pairs of neighbours rotated, not halves", rotated(interleaved), ROPE,
            "rope_interleaved"),
    in_code("rope-reversed", "qwen3", "rotation the other way", rotated(lambda f: lambda x, cos, sin: f(x, cos, -sin)),
            ROPE, "rope_direction"),
    in_code("cache-off-by-one", "tiny_llama", "the KV cache written one slot too far",
            Network(unchanged, lambda: patched("kv_cache", "update", next_slot)),
            ("block.0.cache.k",), "shifted_by_a_position"),
    Mistake("alibi-not-rounded", "re-authored code", "falcon", "as it ships: ALiBi slopes not rounded to bfloat16",
          AsShipped(), FIRST, ("block.0.attn.probs",), ("alibi",)),
)  # fmt: skip
