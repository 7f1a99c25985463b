"""Steps of a loaded re-authored model done otherwise: a norm, an MLP, a block's wiring, a shared function.

In: what to do instead. Out: a `Change` of the network, or a context within which litert-torch's function is another.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from harness.bench.breaking import Change
from harness.system.attributes import set_within


def block(network: Any, number: int = 1) -> Any:
    return network.transformer_blocks[number]


class Changed(torch.nn.Module):
    """A module with something done to its output."""

    def __init__(self, module: Any, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.module = module
        self.change = change
        self.weight = getattr(module, "weight", None)

    def forward(self, x: Any) -> Any:
        return self.change(self.module(x))


def after(owner: Callable[[Any], Any], name: str, change: Callable[[Any], Any]) -> Change:
    """Something done to the output of a module: the attribute `name` of what `owner` finds."""
    return lambda network: setattr(owner(network), name, Changed(getattr(owner(network), name), change))


def rms(x: Any, eps: float = 1e-5) -> Any:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def first_norm(forward: Callable[[Any, Any], Any]) -> Change:
    """Block 1's first norm computed otherwise: `forward(x, weight)`."""

    def change(network: Any) -> None:
        norm = block(network).pre_atten_norm
        norm.forward = lambda x: forward(x, norm.weight)

    return change


def mlp(forward: Callable[[Any, Any, Any], Any]) -> Change:
    """`forward(act, gate, up)` makes what the down projection reads."""

    def change(network: Any) -> None:
        ff = block(network).ff
        ff.forward = lambda x: ff.post_ff_norm(
            ff.w2(forward(ff.act, ff.w1(ff.pre_ff_norm(x)), ff.w3(ff.pre_ff_norm(x))))
        )

    return change


def wired(forward: Callable[[Any, Any, Any, Any], Any]) -> Change:
    """`forward(x, attended, norm, mlp)` gives the block's output; norm and mlp are functions."""

    def change(network: Any) -> None:
        layer = block(network)

        def run(x: Any, rope: Any, mask: Any, input_pos: Any, kv_cache: Any, *_: Any) -> Any:
            attended, kv = layer.atten_func(layer.pre_atten_norm(x), rope, mask, input_pos, kv_cache)
            return forward(x, attended, layer.post_atten_norm, layer.ff), kv

        layer.forward = run

    return change


@contextmanager
def patched(module: str, name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """A function of litert-torch's layers replaced by `change(function)`."""
    owner = importlib.import_module(f"litert_torch.generative.layers.{module}")
    with set_within(owner, name, change(getattr(owner, name))):
        yield


def attention_called(change: Callable[..., dict[str, Any]]) -> Callable[[], AbstractContextManager[None]]:
    """Attention of every block with other arguments: `change(q, k, v, mask)` gives those to replace."""

    def wrap(original: Any) -> Any:
        def call(q: Any, k: Any, v: Any, head_size: int, **rest: Any) -> Any:
            given = {"q": q, "k": k, "v": v, "head_size": head_size, **rest}
            return original(**{**given, **change(q, k, v, rest.get("mask"))})

        return call

    return lambda: patched("scaled_dot_product_attention", "scaled_dot_product_attention_with_hlfb", wrap)


def interleaved(original: Any) -> Any:
    def apply(x: Any, cos: Any, sin: Any) -> Any:
        one, other = x[..., 0::2], x[..., 1::2]
        cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
        return torch.stack((one * cos - other * sin, other * cos + one * sin), -1).flatten(-2)

    return apply


def tiled(heads: Any, like: Any) -> Any:
    return heads.repeat(1, 1, like.shape[2] // heads.shape[2], 1)
