"""Faults of the flatbuffer: its constants, its operators, and runtimes that differ.

A runtime that differs is made by giving one of the two runtimes a broken file, and the other one the right one: what
a run then sees is what it would see of a delegate that packs a weight wrongly or computes an operator in another way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from harness.bench.breaking import jiggled, typical_element, with_flip
from harness.bench.graph import (
    Edit,
    attribute,
    become,
    constant,
    earlier,
    everywhere,
    exchange,
    inside,
    only,
    option,
    rewire,
    turn,
)
from harness.bench.mistake import Array, AsShipped, Constant, Exchange, Mistake, Operators, Site
from harness.bench.workbench import BUILTIN, XNNPACK
from harness.explain.functions import to_bfloat16, to_float16
from harness.names import stages

GATE, UP, DOWN = (f"model.layers.{{}}.mlp.{part}_proj.weight" for part in ("gate", "up", "down"))
NORM, OUTPUT = "model.layers.{}.input_layernorm.weight", "model.layers.{}.self_attn.o_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
XNNPACK_ALONE, BUILTIN_ALONE = (stages.XNNPACK,), (stages.BUILTIN,)
RELU, RELU6 = 1, 3  # of `ActivationFunctionType`


def one_bit(values: Array) -> Array:
    return with_flip(values, typical_element(values))


def low_bit(values: Array) -> Array:
    """A bit in the middle of a typical number's fraction: off by 1e-3 of itself."""
    return with_flip(values, typical_element(values), bit=13)


def lowest_bit(values: Array) -> Array:
    """The last bit of a typical number: off by 1e-7 of itself."""
    return with_flip(values, typical_element(values), bit=0)


def last_bits(values: Array) -> Array:
    """The last bit of every number."""
    return (values.view(np.uint32) ^ np.uint32(1)).view(np.float32)


def first_flipped(values: Array) -> Array:
    """The sign of the first 300 numbers: rows of an embedding that no input of the bench reads."""
    return np.where(np.arange(values.size) < 300, -values, values)


def element(relative: float) -> Any:
    def change(values: Array) -> Array:
        changed = values.copy()
        changed[typical_element(values)] *= np.float32(1 + relative)
        return changed

    return change


def off(relative: float) -> Any:
    return lambda values: jiggled(torch.tensor(values), relative).numpy()


def one_channel(values: Array) -> Array:
    return values * np.where(np.arange(len(values)) == 9, 2, 1)[:, None]


def turned_round(values: Array) -> Array:
    return np.ascontiguousarray(values.T).reshape(values.shape)


def constants(name: str, model: str, what: str, site: Site, tap: str, *causes: str) -> Mistake:
    return Mistake(name, "flatbuffer constants", model, what, site, XNNPACK, (tap,), causes)


def operators(name: str, model: str, what: str, change: Any, taps: tuple[str, ...], *causes: str) -> Mistake:
    return Mistake(name, "flatbuffer ops", model, what, Operators(change), XNNPACK, taps, causes)


def in_decode(name: str, model: str, what: str, *edits: Edit, taps: tuple[str, ...]) -> Mistake:
    """Made in the decode signature alone."""
    site = Operators(only("decode", *edits))
    return Mistake(f"decode-{name}", "flatbuffer ops", model, what, site, XNNPACK, taps, only_in="decode")


def runtime(name: str, model: str, what: str, site: Site, taps: tuple[str, ...], *causes: str) -> Mistake:
    hop = BUILTIN if isinstance(site, AsShipped) or site.stages == BUILTIN_ALONE else XNNPACK  # type: ignore[union-attr]
    return Mistake(name, "runtime", model, what, site, hop, taps, causes)


NORM_OUT, MLP_OUT = "block.1.attn.norm", "block.1.mlp.out"
CONSTANTS = (
    constants("bit-of-down", "tiny_llama", "an exponent bit of one number", Constant(DOWN.format(1), one_bit), MLP_OUT,
              "single_weight"),
    constants("bit-of-qkv", "qwen3", "an exponent bit of one number", Constant("qkv.1", one_bit), "block.1.attn.q",
              "single_weight"),
    constants("bit-of-head", "deepseek", "an exponent bit of one number", Constant(HEAD, one_bit), "logits",
              "single_weight"),
    constants("bit-of-norm", "tiny_llama", "an exponent bit of one number of a norm",
              Constant(NORM.format(1), one_bit), NORM_OUT, "channel_scale"),
    constants("low-bit-of-down", "tiny_llama", "bit 13 of one number", Constant(DOWN.format(1), low_bit), MLP_OUT,
              "single_weight"),
    constants("last-bit-of-down", "tiny_llama", "the last bit of one number", Constant(DOWN.format(1), lowest_bit),
              MLP_OUT, "single_weight"),
    constants("number-1e-5", "smollm2", "one number off by 1e-5", Constant(DOWN.format(1), element(1e-5)), MLP_OUT,
              "single_weight"),
    constants("bfloat16", "tiny_llama", "rounded to bfloat16", Constant(DOWN.format(1), to_bfloat16), MLP_OUT,
              "weight_rounded"),
    constants("float16", "qwen2_5", "rounded to float16", Constant(OUTPUT.format(1), to_float16), "block.1.attn.out",
              "weight_rounded"),
    constants("bfloat16-tied", "smollm2", "tied embedding rounded to bfloat16", Constant(EMBEDDING, to_bfloat16),
              "embed", "weight_rounded"),
    constants("zeroed", "llama3_2", "zeroed", Constant(DOWN.format(1), np.zeros_like), MLP_OUT, "weight_zeroed",
              "zeroed"),
    constants("channel-scale", "tiny_llama", "one channel's scale doubled", Constant(DOWN.format(1), one_channel),
              MLP_OUT, "channel_scale"),
    constants("scaled", "smollm2", "all of it times 1.01", Constant(DOWN.format(1), lambda w: w * 1.01), MLP_OUT,
              "constant_scale"),
    constants("transposed", "llama3_2", "output projection stored transposed",
              Constant(OUTPUT.format(1), turned_round), "block.1.attn.out", "weight_transposed"),
    constants("gate-up", "tiny_llama", "gate and up exchanged", Exchange(GATE.format(1), UP.format(1)),
              "block.1.mlp.gate", "gate_up_swapped"),
    constants("blocks", "qwen3", "down projections of the blocks exchanged", Exchange(DOWN.format(0), DOWN.format(1)),
              "block.0.mlp.out", "weight_of_another_block"),
    constants("matrix-1e-4", "qwen2_5", "every number off by 1e-4", Constant(DOWN.format(1), off(1e-4)), MLP_OUT,
              "weight_differs"),
    constants("matrix-1e-5", "deepseek", "every number off by 1e-5", Constant(DOWN.format(1), off(1e-5)), MLP_OUT,
              "weight_differs"),
)  # fmt: skip

FC, COMPOSITE = "FULLY_CONNECTED", "STABLEHLO_COMPOSITE"
MASK = ("block.0.attn.probs", "block.0.attn.context")
OPERATORS = (
    operators("rope-subtracted", "tiny_llama", "the halves of the rotation subtracted the other way round",
              everywhere(turn("SUB", 0)), ("block.0.attn.q_rope",), "channel_scale"),
    operators("rope-joined", "smollm2", "the halves of the rotation joined the other way round",
              everywhere(turn("CONCATENATION", 0)), ("block.0.attn.q_rope",), "channel_permutation"),
    operators("rope-sine", "tiny_llama", "sine for cosine", everywhere(become("COS", 0, "SIN")),
              ("block.0.attn.q_rope",)),
    operators("gate-up-read", "tiny_llama", "gate and up read each other's weights", everywhere(exchange(FC, 2, 3, 1)),
              # The same graph, told as the activation on the wrong side.
              ("block.0.mlp.gate", "block.0.mlp.act"), "gate_up_swapped", "activation_on_up"),
    operators("weight-of-block-0", "llama3_2", "block 1 reads block 0's down projection",
              everywhere(rewire(FC, 9, 1, (FC, 4, "inputs", 1))), (MLP_OUT,), "weight_of_another_block"),
    operators("norm-of-block-0", "tiny_llama", "block 1 reads block 0's norm",
              everywhere(rewire(COMPOSITE, 3, 1, (COMPOSITE, 0, "inputs", 1))), (NORM_OUT,), "weight_of_another_block"),
    operators("activation-on-up", "smollm2", "the activation on up and not on gate", everywhere(
              earlier(FC, 3, ("LOGISTIC", 0)), rewire("LOGISTIC", 0, 0, (FC, 3, "outputs", 0))),
              ("block.0.mlp.act",), "activation_on_up"),
    operators("tanh", "llama3_2", "tanh for the logistic function", everywhere(become("LOGISTIC", 0, "TANH")),
              ("block.0.mlp.act",)),
    operators("fused-relu", "tiny_llama", "a ReLU fused into the gate projection",
              everywhere(option(FC, 2, fusedActivationFunction=RELU)), ("block.0.mlp.gate",), "clamped"),
    operators("norm-skipped", "tiny_llama", "the gate projection reads what the norm reads",
              # What the gate projection reads is the output of the norm, as far as a graph can tell.
              everywhere(rewire(FC, 2, 0, (COMPOSITE, 2, "inputs", 0))), ("block.0.mlp.norm", "block.0.mlp.gate"),
              "norm_missing"),
    operators("keys-for-values", "smollm2", "attention reads keys as values",
              everywhere(rewire(COMPOSITE, 1, 2, (COMPOSITE, 1, "inputs", 1))), ("block.0.attn.context",)),
    operators("cache-of-values", "tiny_llama", "values written into the cache of keys",
              everywhere(rewire("DYNAMIC_UPDATE_SLICE", 0, 1, ("DYNAMIC_UPDATE_SLICE", 1, "inputs", 1))),
              ("block.0.cache.k",)),
    operators("residual-not-read", "llama3_2", "the second norm reads the block's input",
              everywhere(rewire(COMPOSITE, 2, 0, (COMPOSITE, 0, "inputs", 0))), ("block.0.mlp.norm",)),
    in_decode("embedding", "tiny_llama", "decode's own embedding, the sign of the first rows flipped",
              constant("EMBEDDING_LOOKUP", 0, 1, first_flipped), taps=("embed",)),
    in_decode("last-bits", "tiny_llama", "decode's own down projection, the last bit of every number",
              constant(FC, 9, 1, last_bits), taps=(MLP_OUT,)),
    in_decode("cache-of-block-0", "tiny_llama", "in decode block 1 reads the cache of block 0",
              rewire(COMPOSITE, 4, 1, (COMPOSITE, 1, "inputs", 1)),
              rewire(COMPOSITE, 4, 2, (COMPOSITE, 1, "inputs", 2)), taps=("block.1.attn.context",)),
    in_decode("rotation-of-keys", "tiny_llama", "in decode the halves of the rotation of keys the other way round",
              turn("SUB", 1), taps=("block.0.attn.k_rope",)),
    operators("head-clamped", "tiny_llama", "a ReLU fused into the head", everywhere(
              option(FC, 10, fusedActivationFunction=RELU)), ("logits",), "clamped"),
    operators("final-norm-skipped", "smollm2", "the head reads what the final norm reads",
              everywhere(rewire(FC, 10, 0, (COMPOSITE, 6, "inputs", 0))), ("final_norm", "logits"), "norm_missing"),
)  # fmt: skip

RUNTIMES = (
    runtime("scale-of-delegate", "tiny_llama", "XNNPACK: attention scale 0.1 for 0.125",
            Operators(everywhere(attribute(1, 0.125, 0.1)), XNNPACK_ALONE), ("block.0.attn.context",),
            "attention_scale"),
    runtime("half-precision-weights", "smollm2", "XNNPACK: weights packed as float16",
            Constant(DOWN.format(1), to_float16, XNNPACK_ALONE), (MLP_OUT,), "weight_rounded"),
    runtime("bfloat16-head", "llama3_2", "XNNPACK: embedding and head packed as bfloat16",
            Constant(EMBEDDING, to_bfloat16, XNNPACK_ALONE), ("embed",), "weight_rounded"),
    runtime("packed-row", "qwen3", "XNNPACK: one number packed wrongly", Constant("qkv.1", one_bit, XNNPACK_ALONE),
            ("block.1.attn.q",), "single_weight"),
    runtime("clamped", "tiny_llama", "XNNPACK: a ReLU6 fused into the up projection",
            Operators(everywhere(option(FC, 3, fusedActivationFunction=RELU6)), XNNPACK_ALONE), ("block.0.mlp.up",),
            "clamped"),
    runtime("softmax-sharper", "tiny_llama", "builtin: softmax of 1.01 times the scores",
            Operators(everywhere(inside(1, option("SOFTMAX", 0, beta=1.01))), BUILTIN_ALONE), ("block.0.attn.probs",),
            "attention_scale"),
    runtime("norm-eps-inside", "smollm2", "builtin: norm eps 1e-3 inside the composite",
            Operators(everywhere(inside(3, constant("ADD", 0, 1, lambda eps: eps * 100))), BUILTIN_ALONE), (NORM_OUT,),
            "norm_eps"),
    runtime("one-weight-builtin", "tiny_llama", "builtin: one channel doubled",
            Constant(DOWN.format(1), one_channel, BUILTIN_ALONE), (MLP_OUT,), "channel_scale"),
    runtime("one-kv-head", "gemma3", "builtin, as it ships: K with one KV head reshaped and not transposed",
            AsShipped(), ("block.0.attn.probs",), "transpose_as_reshape"),
    runtime("one-kv-head-gemma1", "gemma1", "builtin, as it ships: K with one KV head reshaped and not transposed",
            AsShipped(), ("block.0.attn.probs",), "transpose_as_reshape"),
)  # fmt: skip

FAULTS = (*CONSTANTS, *OPERATORS, *RUNTIMES)
