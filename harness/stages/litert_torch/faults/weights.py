"""Faults of weights: names that lead to the wrong tensor, loaders that put it in the wrong place, wrong values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from harness.bench.breaking import Tensors, jiggled, set_weight
from harness.bench.mistake import Loader, Mistake, Names, Network, Site, Stored
from harness.bench.workbench import FIRST
from harness.stages.litert_torch.faults.rewiring import block

Values = Callable[[torch.Tensor], torch.Tensor]
BLOCK = "transformer_blocks.{}."
PARTS = ("atten_func.qkv_projection", "atten_func.output_projection", "ff.w1", "ff.w2", "ff.w3")
QKV, OUT, W1, W2, W3 = (f"{BLOCK}{part}.weight" for part in PARTS)
FIRST_NORM = BLOCK + "pre_atten_norm.weight"


def exchanged(one: str, other: str) -> Callable[[Any], dict[str, Any]]:
    """Two entries of `TensorNames` in each other's place."""
    return lambda names: {one: getattr(names, other), other: getattr(names, one)}


def named(entry: str, path: str | None) -> Callable[[Any], dict[str, Any]]:
    return lambda names: {entry: path}


def put(target: str, values: Values, source: str = "") -> Loader:
    """`values` of what the right loader makes of `source`, or of the target itself, under the name of the target."""
    return Loader(lambda made: made.update({target: values(made[source or target])}))


def same(values: torch.Tensor) -> torch.Tensor:
    return values


def edited(find: Callable[[Any], Any], edit: Values) -> Network:
    return Network(lambda network: set_weight(find(network), edit(find(network).weight)))


def element(relative: float) -> Values:
    """One number of a matrix, the largest, off by a share of itself."""

    def edit(values: torch.Tensor) -> torch.Tensor:
        changed = values.clone().flatten()
        changed[values.abs().argmax()] *= 1 + relative
        return changed.view_as(values)

    return edit


def stored(value: float) -> Stored:
    """One number of the checkpoint's last down projection."""

    def change(tensors: Tensors) -> None:
        name = max(name for name in tensors if name.endswith("mlp.down_proj.weight"))
        tensors[name][3, 5] = value

    return Stored(change)


def row(weight: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(weight))[:, None]


def shuffled(weight: torch.Tensor) -> torch.Tensor:
    return weight[torch.randperm(len(weight), generator=torch.manual_seed(1))]


def bias_zeroed(network: Any) -> None:
    block(network).atten_func.qkv_projection.bias.zero_()


def exchange_key_heads(network: Any) -> None:
    """In the fused projection, [Q ... Q K V] per KV group."""
    projection = block(network).atten_func.qkv_projection
    config = network.config.block_config(1).attn_config
    groups = projection.weight.clone().view(config.num_query_groups, -1, config.head_dim, projection.in_features)
    groups[:, -2] = groups[:, -2].flip(0)
    set_weight(projection, groups.view_as(projection.weight))


def w1(network: Any) -> Any:
    return block(network).ff.w1


def w2(network: Any) -> Any:
    return block(network).ff.w2


def output(network: Any) -> Any:
    return block(network).atten_func.output_projection


def qkv(network: Any) -> Any:
    return block(network).atten_func.qkv_projection


def head(network: Any) -> Any:
    return network.lm_head


def embedding(network: Any) -> Any:
    return network.tok_embedding


def final_norm(network: Any) -> Any:
    return network.final_norm


def first_norm(network: Any) -> Any:
    return block(network).pre_atten_norm


def by(relative: float) -> Values:
    """Every number off by a share of itself."""
    return lambda values: jiggled(values, relative)


MAPPING: tuple[tuple[str, str, str, Site, tuple[str, ...], tuple[str, ...]], ...] = (
    ("gate-up-names", "tiny_llama", "names of gate and up exchanged", Names(exchanged("ff_gate_proj", "ff_up_proj")),
     ("block.0.mlp.gate", "block.0.mlp.act"), ("gate_up_swapped", "activation_on_up")),
    ("norm-names", "smollm2", "names of the two norms exchanged", Names(exchanged("pre_attn_norm", "post_attn_norm")),
     ("block.0.attn.norm",), ()),
    ("key-value-names", "qwen2_5", "names of keys and values exchanged",
     Names(exchanged("attn_key_proj", "attn_value_proj")), ("block.0.attn.k", "block.0.attn.q_rope",
     "block.0.attn.k_rope"), ("weight_of_another_module",)),
    ("post-norm-names", "gemma2", "names of the norms around the MLP exchanged",
     Names(exchanged("pre_ff_norm", "post_ff_norm")), ("block.0.mlp.norm",), ()),
    ("head-unnamed", "tiny_llama", "lm_head not named, so it stays as it was made", Names(named("lm_head", None)),
     ("logits",), ("weight_differs",)),
    # What has no name is not compared, so that the next tap is the first that can be.
    ("final-norm-unnamed", "qwen2_5", "final norm not named", Names(named("final_norm", None)),
     ("final_norm", "logits"), ("norm_weight_default",)),
    ("gate-up-loaded", "smollm2", "gate loaded as up", put(W3.format(1), same, W1.format(1)), ("block.1.mlp.up",),
     ("gate_up_swapped", "weight_of_another_module")),
    ("blocks-off-by-one", "tiny_llama", "block 1 loaded with block 0's down projection",
     put(W2.format(1), same, W2.format(0)), ("block.1.mlp.out",), ("weight_of_another_block",)),
    ("norms-off-by-one", "llama3_2", "block 1 loaded with block 0's norm",
     put(FIRST_NORM.format(1), same, FIRST_NORM.format(0)), ("block.1.attn.norm",), ("weight_of_another_block",)),
    ("output-transposed", "phi2", "output projection loaded transposed",
     put(OUT.format(1), lambda w: w.T.reshape(w.shape).contiguous()), ("block.1.attn.out",), ("weight_transposed",)),
    ("output-heads-mixed", "qwen3", "channels of the output projection in another order", put(OUT.format(0), shuffled),
     ("block.0.attn.out",), ("channel_permutation",)),
    ("fused-plain", "phi3", "q, k, v of block 1 loaded from block 0", put(QKV.format(1), same, QKV.format(0)),
     ("block.1.attn.q",), ("weight_of_another_block",)),
)  # fmt: skip

VALUES: tuple[tuple[str, str, str, Network | Stored, tuple[str, ...], tuple[str, ...]], ...] = (
    ("zeroed", "qwen3", "down projection all zeros", edited(w2, torch.zeros_like), ("block.1.mlp.out",),
     ("weight_zeroed", "zeroed")),
    ("bfloat16", "tiny_llama", "down projection rounded to bfloat16", edited(w2, lambda w: w.bfloat16().float()),
     ("block.1.mlp.out",), ("weight_rounded",)),
    ("bfloat16-head", "phi2", "lm_head rounded to bfloat16", edited(head, lambda w: w.bfloat16().float()), ("logits",),
     ("weight_rounded",)),
    ("float16", "smollm2", "gate projection rounded to float16", edited(w1, lambda w: w.half().float()),
     ("block.1.mlp.gate",), ("weight_rounded",)),
    ("bfloat16-embedding", "deepseek", "embedding rounded to bfloat16",
     edited(embedding, lambda w: w.bfloat16().float()), ("embed",), ("weight_rounded",)),
    ("channel-scales", "llama3_2", "each channel's scale off by 1 %",
     edited(w2, lambda w: w * (1 + 0.01 * torch.randn(len(w), 1, generator=torch.manual_seed(1)))),
     ("block.1.mlp.out",), ("channel_scale",)),
    ("one-channel", "tiny_llama", "one channel's scale off by a half",
     edited(w2, lambda w: w * (1 + 0.5 * (row(w) == 5))), ("block.1.mlp.out",), ("channel_scale",)),
    ("column", "tiny_llama", "one column of the down projection lost",
     edited(w2, lambda w: torch.where(row(w.T)[:, 0] == 7, 0.0, w)), ("block.1.mlp.out",), ("weight_column",)),
    ("row", "qwen2_5", "one row of the down projection turned by three",
     edited(w2, lambda w: torch.where(row(w) == 7, w.roll(3, 1), w)), ("block.1.mlp.out",), ("weight_rows",)),
    ("key-heads", "tiny_llama", "two key heads exchanged", Network(exchange_key_heads), ("block.1.attn.k",),
     ("head_permutation",)),
    ("bias-zeroed", "qwen2_5", "biases of q, k, v lost", Network(bias_zeroed), ("block.1.attn.q",), ("bias_missing",)),
    ("final-norm-ones", "smollm2", "final norm left at ones", edited(final_norm, torch.ones_like), ("final_norm",),
     ("norm_weight_default",)),
    ("nan", "tiny_llama", "one row that is not a number", edited(w2, lambda w: torch.where(row(w) == 7, math.nan, w)),
     ("block.1.mlp.out",), ("weight_rows",)),
    ("stored-nan", "tiny_llama", "one number of the checkpoint's down projection is NaN", stored(math.nan),
     ("block.1.mlp.out",), ()),
    ("stored-inf", "tiny_llama", "one number of the checkpoint's down projection is infinite", stored(math.inf),
     ("block.1.mlp.out",), ()),
    ("scaled", "gemma2", "down projection times 1.001", edited(w2, lambda w: w * 1.001), ("block.1.mlp.out",),
     ("constant_scale",)),
    ("matrix-1e-4", "tiny_llama", "every number of q, k, v off by 1e-4", edited(qkv, by(1e-4)), ("block.1.attn.q",),
     ("weight_differs",)),
    ("matrix-1e-5", "tiny_llama", "every number of the output projection off by 1e-5", edited(output, by(1e-5)),
     ("block.1.attn.out",), ("weight_differs",)),
    ("matrix-1e-5-qwen3", "qwen3", "every number of the down projection off by 1e-5", edited(w2, by(1e-5)),
     ("block.1.mlp.out",), ("weight_differs",)),
    ("matrix-1e-6", "smollm2", "every number of the down projection off by 1e-6", edited(w2, by(1e-6)),
     ("block.1.mlp.out",), ("weight_differs",)),
    ("norm-1e-4", "llama3_2", "every number of a norm off by 1e-4", edited(first_norm, by(1e-4)),
     ("block.1.attn.norm",), ("channel_scale",)),
    ("number-1e-2", "tiny_llama", "the largest number of the down projection off by 1e-2", edited(w2, element(1e-2)),
     ("block.1.mlp.out",), ("single_weight",)),
    ("number-1e-3", "smollm2", "the largest number of the down projection off by 1e-3", edited(w2, element(1e-3)),
     ("block.1.mlp.out",), ("single_weight",)),
    ("number-1e-4", "qwen2_5", "the largest number of the down projection off by 1e-4", edited(w2, element(1e-4)),
     ("block.1.mlp.out",), ("single_weight",)),
    ("number-1e-5", "tiny_llama", "the largest number of the down projection off by 1e-5", edited(w2, element(1e-5)),
     ("block.1.mlp.out",), ("single_weight",)),
    ("number-1e-5-head", "phi2", "the largest number of lm_head off by 1e-5", edited(head, element(1e-5)), ("logits",),
     ("single_weight",)),
)  # fmt: skip


FAULTS = (
    *(Mistake(name, "weight mapping", model, what, site, FIRST, *rest) for name, model, what, site, *rest in MAPPING),
    *(Mistake(name, "weights", model, what, site, FIRST, *rest) for name, model, what, site, *rest in VALUES),
)
