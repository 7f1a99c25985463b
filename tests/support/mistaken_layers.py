"""Layers of torch, each beside the same function with a mistake in it, as an engineer who writes a layer makes it.

In: nothing. Out: `MISTAKES`: by name, a function that makes (candidate, reference, inputs).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from attention_layers import angles, attend, causal, qkv, turned_by_rope
from layers import Case, Maker, normal
from torch import nn
from torch.nn import functional

MISTAKES: dict[str, Maker] = {}


def _mistake(name: str) -> Callable[[Maker], Maker]:
    def add(make: Maker) -> Maker:
        MISTAKES[name] = make
        return make

    return add


@_mistake("attention without its scale")
def attention_without_its_scale() -> Case:
    return (
        lambda q, k, v: attend(q, k, v, 1.0, causal()),
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        qkv(),
    )


@_mistake("attention scaled by the width of all heads")
def attention_scaled_by_all_heads() -> Case:
    return lambda q, k, v: attend(q, k, v, 0.125, None), lambda q, k, v: attend(q, k, v, 0.25, None), qkv()


@_mistake("rope one position off")
def rope_one_off() -> Case:
    return lambda x: turned_by_rope(x, 1), turned_by_rope, (normal(2, 4, 12, 16),)


@_mistake("rope of neighbours in place of halves")
def rope_of_neighbours() -> Case:
    def candidate(x: torch.Tensor) -> torch.Tensor:
        turned = torch.view_as_complex(x.reshape(2, 4, 12, 8, 2)) * torch.polar(torch.ones(12, 8), angles())
        return torch.view_as_real(turned).reshape(x.shape)

    return candidate, turned_by_rope, (normal(2, 4, 12, 16),)


@_mistake("rope the other way")
def rope_the_other_way() -> Case:
    def candidate(x: torch.Tensor) -> torch.Tensor:
        turns = torch.cat([angles()] * 2, -1)
        return x * turns.cos() - torch.cat([-x[..., 8:], x[..., :8]], -1) * turns.sin()

    return candidate, turned_by_rope, (normal(2, 4, 12, 16),)


@_mistake("rope with a base of 10,000.1")
def rope_base() -> Case:
    def candidate(x: torch.Tensor) -> torch.Tensor:
        turns = torch.cat([angles(base=10_000.1)] * 2, -1)
        return x * turns.cos() + torch.cat([-x[..., 8:], x[..., :8]], -1) * turns.sin()

    return candidate, turned_by_rope, (normal(2, 4, 12, 16),)


@_mistake("gelu tanh for erf")
def gelu_tanh_for_erf() -> Case:
    return lambda x: functional.gelu(x, approximate="tanh"), functional.gelu, (normal(4, 9, 48),)


@_mistake("gelu for silu")
def gelu_for_silu() -> Case:
    return functional.gelu, functional.silu, (normal(4, 9, 48),)


@_mistake("epsilon 1e-5 for 1e-6")
def epsilon() -> Case:
    layer = nn.RMSNorm(96, eps=1e-6)
    return lambda x: functional.rms_norm(x, (96,), layer.weight, 1e-5), layer, (normal(4, 9, 96),)


@_mistake("epsilon outside of the root")
def epsilon_outside() -> Case:
    return (
        lambda x: x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-5),
        lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt(),
        (normal(4, 9, 96),),
    )


@_mistake("norm without the one of 1 + weight")
def norm_without_one() -> Case:
    weight = normal(96) * 0.2

    def reference(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1.0 + weight)

    return lambda x: functional.rms_norm(x, (96,), weight, 1e-6), reference, (normal(4, 9, 96),)


@_mistake("layer norm for RMS norm")
def layer_norm_for_rms_norm() -> Case:
    return (
        lambda x: functional.layer_norm(x, (96,), eps=1e-6),
        lambda x: functional.rms_norm(x, (96,), eps=1e-6),
        (normal(4, 9, 96),),
    )


@_mistake("unbiased variance in a norm")
def unbiased_variance() -> Case:
    return (
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt(),
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt(),
        (normal(4, 9, 96),),
    )


@_mistake("transposed weight")
def transposed_weight() -> Case:
    layer = nn.Linear(64, 64)
    return lambda x: x @ layer.weight + layer.bias, layer, (normal(2, 11, 64),)


@_mistake("missing bias")
def missing_bias() -> Case:
    layer = nn.Linear(64, 96)
    return lambda x: x @ layer.weight.T, layer, (normal(2, 11, 64),)


@_mistake("missing bias deep inside")
def missing_bias_inside() -> Case:
    one, other = nn.Linear(64, 96), nn.Linear(96, 64)
    return (
        lambda x: other(functional.silu(x @ one.weight.T)),
        nn.Sequential(one, nn.SiLU(), other),
        (normal(2, 11, 64),),
    )


@_mistake("grouped heads in another order")
def grouped_heads() -> Case:
    return (
        lambda q, k, v: attend(q, k.repeat(1, 4, 1, 1), v.repeat(1, 4, 1, 1), 0.25, None),
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        qkv(8, 2),
    )


@_mistake("grouped heads in another order, by expand")
def grouped_heads_by_expand() -> Case:
    def repeat_kv(x: torch.Tensor) -> torch.Tensor:
        return x[:, :, None].expand(2, 2, 4, 12, 16).reshape(2, 8, 12, 16)

    return (
        lambda q, k, v: attend(q, k.repeat(1, 4, 1, 1), v.repeat(1, 4, 1, 1), 0.25, None),
        lambda q, k, v: attend(q, repeat_kv(k), repeat_kv(v), 0.25, None),
        qkv(8, 2),
    )


@_mistake("mask one position off")
def mask_one_off() -> Case:
    def masked(diagonal: int) -> Callable[..., torch.Tensor]:
        return lambda q, k, v: attend(q, k, v, 0.25, torch.ones(12, 12, dtype=torch.bool).tril(diagonal))

    return masked(1), masked(0), qkv()


@_mistake("no mask")
def no_mask() -> Case:
    return (
        lambda q, k, v: attend(q, k, v, 0.25, None),
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        qkv(),
    )


@_mistake("softcap missed")
def softcap_missed() -> Case:
    return (
        lambda q, k, v: attend(q, k, v, 0.25, None),
        lambda q, k, v: attend(q, k, v, 0.25, None, softcap=5.0),
        qkv(),
    )


@_mistake("softcap of 31 for 30")
def softcap_of_31() -> Case:
    return lambda x: 31 * torch.tanh(x / 31), lambda x: 30 * torch.tanh(x / 30), (normal(4, 9, 48),)


@_mistake("gate and up exchanged")
def gate_and_up() -> Case:
    both, down = nn.Linear(64, 344, bias=False), nn.Linear(172, 64, bias=False)

    def mlp(swapped: bool) -> Callable[..., Any]:
        def run(x: torch.Tensor) -> Any:
            gate, up = both(x).chunk(2, -1)[:: -1 if swapped else 1]
            return down(functional.silu(gate) * up)

        return run

    return mlp(True), mlp(False), (normal(2, 11, 64),)


@_mistake("residual left out")
def residual() -> Case:
    layer = nn.Linear(64, 64)
    return layer, lambda x: x + layer(x), (normal(2, 11, 64),)


@_mistake("embedding without its scale")
def embedding_scale() -> Case:
    layer = nn.Embedding(50, 64)
    return layer, lambda i: layer(i) * math.sqrt(64), (torch.randint(50, (3, 17)),)


@_mistake("embedding scale rounded to bfloat16")
def embedding_scale_rounded() -> Case:
    layer = nn.Embedding(50, 48)
    rounded = torch.tensor(48**0.5).bfloat16().float()
    return lambda i: layer(i) * rounded, lambda i: layer(i) * math.sqrt(48), (torch.randint(50, (3, 17)),)


@_mistake("weights rounded to bfloat16")
def weights_rounded() -> Case:
    layer = nn.Linear(64, 96)
    return lambda x: functional.linear(x, layer.weight.bfloat16().float(), layer.bias), layer, (normal(2, 11, 64),)


@_mistake("one weight off by a thousandth")
def one_weight() -> Case:
    layer = nn.Linear(64, 96)
    weight = layer.weight.detach().clone()
    weight[17, 5] += 1e-3
    return lambda x: functional.linear(x, weight, layer.bias), layer, (normal(2, 11, 64),)


@_mistake("heads transposed")
def heads_transposed() -> Case:
    return (
        lambda x: x.reshape(2, 12, 16, 4).transpose(2, 3).reshape(2, 12, 64),
        lambda x: x.reshape(2, 12, 4, 16).reshape(2, 12, 64) * 1.0,
        (normal(2, 12, 64),),
    )


@_mistake("sign of the second half")
def sign_of_second_half() -> Case:
    return (
        lambda x: torch.cat([x[..., 8:], x[..., :8]], -1),
        lambda x: torch.cat([-x[..., 8:], x[..., :8]], -1),
        (normal(2, 12, 16),),
    )


@_mistake("the last row is not a number")
def not_a_number() -> Case:
    def candidate(x: torch.Tensor) -> torch.Tensor:
        made = torch.softmax(x, -1)
        made[-1, -1, 3] = math.nan
        return made

    return candidate, lambda x: torch.softmax(x, -1), (normal(4, 9, 48),)


@_mistake("keys shifted by one")
def keys_shifted() -> Case:
    return (
        lambda q, k, v: attend(q, k.roll(1, 2), v.roll(1, 2), 0.25, causal()),
        lambda q, k, v: attend(q, k, v, 0.25, causal()),
        qkv(),
    )


@_mistake("padding on the wrong side")
def padding_side() -> Case:
    layer = nn.Conv1d(24, 24, 4, groups=24)
    return lambda x: layer(functional.pad(x, (0, 3))), lambda x: layer(functional.pad(x, (3, 0))), (normal(2, 24, 20),)


@_mistake("largest token by another rule")
def largest_token() -> Case:
    return lambda x: x.flip(-1).argmax(-1), lambda x: x.argmax(-1), (normal(4, 48),)
