"""Layers of torch, each beside the same function written otherwise.

In: nothing. Out: `REWRITTEN`: by name, a function that makes (candidate, reference, inputs); `drawn` calls
it with a seed. Those with attention in them stand in `attention_layers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

Case = tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]
Maker = Callable[[], Case]
REWRITTEN: dict[str, Maker] = {}
NUMPY = frozenset({"linear in numpy", "softmax in numpy", "rms norm in numpy", "gelu in numpy", "attention in numpy"})


def drawn(make: Maker, seed: int) -> Case:
    torch.manual_seed(seed)
    np.random.seed(seed)
    return make()


def rewritten(name: str) -> Callable[[Maker], Maker]:
    def add(make: Maker) -> Maker:
        REWRITTEN[name] = make
        return make

    return add


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def _elementwise(name: str, reference: Callable[..., Any], candidate: Callable[..., Any], scale: float = 2.0) -> None:
    REWRITTEN[name] = lambda: (candidate, reference, (normal(4, 9, 48) * scale,))


_elementwise("silu", functional.silu, lambda x: x / (1 + torch.exp(-x)))
_elementwise("gelu", functional.gelu, lambda x: x * 0.5 * (1 + torch.erf(x * math.sqrt(0.5))))
_elementwise(
    "gelu tanh", lambda x: functional.gelu(x, approximate="tanh"),
    lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))),
)  # fmt: skip
_elementwise("sigmoid", torch.sigmoid, lambda x: 0.5 * (torch.tanh(0.5 * x) + 1), 1.0)
_elementwise("tanh", torch.tanh, lambda x: 2 * torch.sigmoid(2 * x) - 1)
_elementwise("softplus", functional.softplus, lambda x: torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0))
_elementwise("mish", functional.mish, lambda x: x * torch.tanh(torch.log1p(torch.exp(x))))
_elementwise("elu", functional.elu, lambda x: torch.where(x > 0, x, torch.expm1(x)))
_elementwise("leaky relu", functional.leaky_relu, lambda x: x.clamp(min=0) + 0.01 * x.clamp(max=0))
_elementwise("hardswish", functional.hardswish, lambda x: x * (x + 3).clamp(0, 6) / 6)
_elementwise("softsign", functional.softsign, lambda x: x * (1 / (1 + x.abs())))
_elementwise("softcap", lambda x: 30 * torch.tanh(x / 30), lambda x: torch.tanh(x * (1 / 30)) * 30, 20.0)
_elementwise("softmax", lambda x: torch.softmax(x, -1), lambda x: x.exp() / x.exp().sum(-1, keepdim=True))
_elementwise("log softmax", lambda x: torch.log_softmax(x, -1), lambda x: x - x.exp().sum(-1, keepdim=True).log())
_elementwise("logsumexp", lambda x: torch.logsumexp(x, -1), lambda x: x.exp().sum(-1).log())
_elementwise("square root", torch.sqrt, lambda x: x**0.5)
REWRITTEN["square root"] = lambda: (lambda x: x**0.5, torch.sqrt, (normal(4, 9, 48).abs(),))
_elementwise("mean", lambda x: x.mean(-1), lambda x: x.flip(-1).sum(-1) * (1 / x.shape[-1]))
_elementwise("variance", lambda x: x.var(-1), lambda x: (x - x.mean(-1, keepdim=True)).square().sum(-1) / 47)
_elementwise("norm", lambda x: x.norm(dim=-1), lambda x: (x * x).sum(-1).sqrt())
_elementwise("normalize", lambda x: functional.normalize(x, dim=-1), lambda x: x / (x * x).sum(-1, keepdim=True).sqrt())
_elementwise("cumsum", lambda x: x.cumsum(1), lambda x: torch.tril(torch.ones(9, 9)) @ x)
_elementwise("rms norm without weight", lambda x: functional.rms_norm(x, (48,), eps=1e-6),
             lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))  # fmt: skip
_elementwise("loss of a batch", lambda x: functional.cross_entropy(x[:, 0], torch.arange(4)),
             lambda x: (torch.logsumexp(x[:, 0], -1) - x[:, 0].diagonal()).mean())  # fmt: skip
_elementwise("mean squared error", lambda x: functional.mse_loss(x, x.flip(0)), lambda x: ((x - x.flip(0)) ** 2).mean())
_elementwise("huber loss", lambda x: functional.huber_loss(x, x.flip(0)), lambda x: torch.where(
    (x - x.flip(0)).abs() < 1, 0.5 * (x - x.flip(0)) ** 2, (x - x.flip(0)).abs() - 0.5).mean())  # fmt: skip
_elementwise("cosine similarity", lambda x: functional.cosine_similarity(x, x.flip(0), dim=-1),
             lambda x: (functional.normalize(x, dim=-1) * functional.normalize(x.flip(0), dim=-1)).sum(-1))  # fmt: skip
_elementwise("pairwise distance", lambda x: torch.cdist(x, x.flip(0)),
             lambda x: (x[:, :, None] - x.flip(0)[:, None]).square().sum(-1).sqrt())  # fmt: skip
_elementwise("glu", lambda x: functional.glu(x), lambda x: x[..., :24] * (1 / (1 + torch.exp(-x[..., 24:]))))


@rewritten("linear")
def linear() -> Case:
    layer = nn.Linear(96, 160)
    return lambda x: torch.einsum("bti,oi->bto", x, layer.weight) + layer.bias, layer, (normal(3, 20, 96),)


@rewritten("linear term by term")
def linear_term_by_term() -> Case:
    layer = nn.Linear(200, 64)

    def candidate(x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(*x.shape[:-1], 64)
        for i in range(200):
            total = total + x[..., i : i + 1] * layer.weight[:, i]
        return total + layer.bias

    return candidate, layer, (normal(3, 20, 200),)


@rewritten("linear of two halves")
def linear_of_two_halves() -> Case:
    layer = nn.Linear(512, 64, bias=False)
    return (
        lambda x: x[..., 256:] @ layer.weight[:, 256:].T + x[..., :256] @ layer.weight[:, :256].T,
        layer,
        (normal(3, 20, 512),),
    )


@rewritten("fused qkv")
def fused_qkv() -> Case:
    q, k, v = nn.Linear(64, 64), nn.Linear(64, 32), nn.Linear(64, 32)
    weight, bias = torch.cat([q.weight, k.weight, v.weight]), torch.cat([q.bias, k.bias, v.bias])

    def candidate(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return functional.linear(x, weight, bias).split([64, 32, 32], -1)

    return candidate, lambda x: (q(x), k(x), v(x)), (normal(2, 11, 64),)


@rewritten("bilinear")
def bilinear() -> Case:
    layer = nn.Bilinear(24, 32, 40)
    return (
        lambda x, y: torch.einsum("bi,oij,bj->bo", x, layer.weight, y) + layer.bias,
        layer,
        (normal(16, 24), normal(16, 32)),
    )


@rewritten("embedding")
def embedding() -> Case:
    layer = nn.Embedding(50, 32)
    return lambda i: functional.one_hot(i, 50).float() @ layer.weight, layer, (torch.randint(50, (3, 17)),)


@rewritten("embedding bag")
def embedding_bag() -> Case:
    layer = nn.EmbeddingBag(50, 32, mode="mean")
    return lambda i: layer.weight[i].sum(1) / i.shape[1], layer, (torch.randint(50, (5, 17)),)


@rewritten("layer norm")
def layer_norm() -> Case:
    layer = nn.LayerNorm(96)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)

    def candidate(x: torch.Tensor) -> torch.Tensor:
        mean, square = x.mean(-1, keepdim=True), x.square().mean(-1, keepdim=True)
        return (x - mean) / (square - mean * mean + 1e-5).sqrt() * layer.weight + layer.bias

    return candidate, layer, (normal(4, 9, 96),)


@rewritten("rms norm")
def rms_norm() -> Case:
    layer = nn.RMSNorm(96, eps=1e-6)
    nn.init.normal_(layer.weight)
    return (
        lambda x: layer.weight * (x / (x.pow(2).sum(-1, keepdim=True) / 96 + 1e-6).sqrt()),
        layer,
        (normal(4, 9, 96),),
    )


@rewritten("norm of one plus weight")
def norm_of_one_plus_weight() -> Case:
    weight = normal(96) * 0.2

    def reference(x: torch.Tensor) -> torch.Tensor:
        return x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6) * (1.0 + weight.float())

    return lambda x: functional.rms_norm(x, (96,), weight + 1, 1e-6), reference, (normal(4, 9, 96),)


@rewritten("group norm")
def group_norm() -> Case:
    layer = nn.GroupNorm(4, 32)

    def candidate(x: torch.Tensor) -> torch.Tensor:
        g = x.reshape(2, 4, -1)
        made = (g - g.mean(-1, keepdim=True)) / (g.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return made.reshape(x.shape) * layer.weight[:, None, None] + layer.bias[:, None, None]

    return candidate, layer, (normal(2, 32, 6, 6),)


@rewritten("batch norm that learns")
def batch_norm_that_learns() -> Case:
    layer = nn.BatchNorm1d(32)

    def candidate(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(0)) * torch.rsqrt(x.var(0, unbiased=False) + 1e-5) * layer.weight + layer.bias

    return candidate, layer, (normal(40, 32),)


@rewritten("batch norm folded")
def batch_norm_folded() -> Case:
    conv, norm = nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16).eval()
    norm.running_mean, norm.running_var = normal(16), normal(16).abs() + 0.5
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight, bias = conv.weight * gain[:, None, None, None], norm.bias - norm.running_mean * gain
    return lambda x: functional.conv2d(x, weight, bias), lambda x: norm(conv(x)), (normal(2, 8, 12, 12),)


@rewritten("convolution")
def convolution() -> Case:
    layer = nn.Conv2d(8, 16, 3, padding=1)

    def candidate(x: torch.Tensor) -> torch.Tensor:
        columns = functional.unfold(x, 3, padding=1)
        return (layer.weight.reshape(16, -1) @ columns).reshape(2, 16, 12, 12) + layer.bias[:, None, None]

    return candidate, layer, (normal(2, 8, 12, 12),)


@rewritten("depthwise convolution")
def depthwise_convolution() -> Case:
    layer = nn.Conv1d(24, 24, 4, groups=24, padding=3)

    def candidate(x: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(x, (3, 3))
        taps = [padded[..., i : i + 23] * layer.weight[:, 0, i, None] for i in range(4)]
        return taps[3] + taps[2] + taps[1] + taps[0] + layer.bias[:, None]

    return candidate, layer, (normal(2, 24, 20),)


@rewritten("transposed convolution")
def transposed_convolution() -> Case:
    layer = nn.ConvTranspose1d(12, 20, 3)
    turned = layer.weight.transpose(0, 1).flip(-1)
    return lambda x: functional.conv1d(x, turned, layer.bias, padding=2), layer, (normal(2, 12, 30),)


@rewritten("average pool")
def average_pool() -> Case:
    return (
        lambda x: x.unfold(2, 3, 3).unfold(3, 3, 3).mean((-1, -2)),
        nn.AvgPool2d(3),
        (normal(2, 8, 12, 12),),
    )


@rewritten("gru cell")
def gru_cell() -> Case:
    cell = nn.GRUCell(24, 32)

    def candidate(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        a = x @ cell.weight_ih.T + cell.bias_ih
        b = h @ cell.weight_hh.T + cell.bias_hh
        r, z = torch.sigmoid(a[:, :32] + b[:, :32]), torch.sigmoid(a[:, 32:64] + b[:, 32:64])
        n = torch.tanh(a[:, 64:] + r * b[:, 64:])
        return n + z * (h - n)

    return candidate, cell, (normal(8, 24), normal(8, 32))


@rewritten("lstm cell")
def lstm_cell() -> Case:
    cell = nn.LSTMCell(24, 32)

    def candidate(x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both, weight = torch.cat([x, h], 1), torch.cat([cell.weight_ih, cell.weight_hh], 1)
        i, f, g, o = (both @ weight.T + (cell.bias_ih + cell.bias_hh)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    return candidate, lambda x, h, c: cell(x, (h, c)), (normal(8, 24), normal(8, 32), normal(8, 32))


@rewritten("gated mlp")
def gated_mlp() -> Case:
    gate, up, down = (nn.Linear(a, b, bias=False) for a, b in ((64, 172), (64, 172), (172, 64)))
    both = torch.cat([gate.weight, up.weight])

    def candidate(x: torch.Tensor) -> torch.Tensor:
        one, other = functional.linear(x, both).chunk(2, -1)
        return (other * one * torch.sigmoid(one)) @ down.weight.T

    return candidate, lambda x: down(functional.silu(gate(x)) * up(x)), (normal(2, 11, 64),)


@rewritten("transformer layer")
def transformer_layer() -> Case:
    layer = nn.TransformerEncoderLayer(48, 4, 96, dropout=0.0, batch_first=True, norm_first=True)
    inner = layer.self_attn

    def candidate(x: torch.Tensor) -> torch.Tensor:
        normed = layer.norm1(x)
        x = x + inner(normed, normed, normed, need_weights=True)[0]
        return x + (layer.linear1(layer.norm2(x)).clamp(min=0) @ layer.linear2.weight.T + layer.linear2.bias)

    return candidate, layer, (normal(2, 10, 48),)


@rewritten("decoder block of outputs in a dict")
def decoder_block_of_outputs_in_a_dict() -> Case:
    proj, norm = nn.Linear(48, 48), nn.LayerNorm(48)

    def reference(x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = norm(x)
        return {"hidden": hidden, "out": x + proj(hidden), "top": (x + proj(hidden)).argmax(-1)}

    def candidate(x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = norm(x.clone())
        made = torch.addmm(proj.bias, hidden.reshape(-1, 48), proj.weight.T).reshape(x.shape)
        return {"hidden": hidden, "out": made + x, "top": (x + proj(hidden)).argmax(-1)}

    return candidate, reference, (normal(2, 10, 48),)


@rewritten("matrix inverse")
def matrix_inverse() -> Case:
    x = normal(24, 24) + 8 * torch.eye(24)
    return lambda x: torch.linalg.solve(x, torch.eye(24)), torch.linalg.inv, (x,)


@rewritten("determinant")
def determinant() -> Case:
    x = normal(24, 24) + 8 * torch.eye(24)
    return lambda x: 2 * torch.linalg.cholesky(x @ x.mT).diagonal().log().sum(), lambda x: torch.logdet(x @ x.mT), (x,)


@rewritten("polynomial")
def polynomial() -> Case:
    return (
        lambda x: ((x * 0.5 + 1.5) * x - 2.0) * x + 0.25,
        lambda x: 0.5 * x**3 + 1.5 * x**2 - 2.0 * x + 0.25,
        (normal(3, 200),),
    )


@rewritten("interpolation")
def interpolation() -> Case:
    return (
        lambda x: x[..., :-1] + 0.5 * (x[..., 1:] - x[..., :-1]),
        lambda x: 0.5 * x[..., :-1] + 0.5 * x[..., 1:],
        (normal(3, 200),),
    )


@rewritten("linear in numpy")
def linear_in_numpy() -> Case:
    layer = nn.Linear(96, 160)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return lambda x: np.dot(x, weight.T) + bias, layer, (normal(3, 20, 96),)


@rewritten("softmax in numpy")
def softmax_in_numpy() -> Case:
    def candidate(x: Any) -> Any:
        powers = np.exp(x - x.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    return candidate, lambda x: torch.softmax(x, -1), (normal(4, 9, 48),)


@rewritten("rms norm in numpy")
def rms_norm_in_numpy() -> Case:
    return (
        lambda x: x / np.sqrt(np.mean(np.square(x), -1, keepdims=True) + np.float32(1e-6)),
        lambda x: functional.rms_norm(x, (48,), eps=1e-6),
        (normal(4, 9, 48),),
    )


@rewritten("gelu in numpy")
def gelu_in_numpy() -> Case:
    erf = np.vectorize(math.erf, otypes=[np.float32])
    return lambda x: x * (1 + erf(x / math.sqrt(2))) / 2, functional.gelu, (normal(4, 9, 48),)
