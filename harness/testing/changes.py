"""Mistakes in a layer as changes of single functions of torch: each makes one call another one.

In: a call. Out: what it gives with the mistake, or NotImplemented where that mistake cannot be made in it. The
commonest first.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from harness.stages.torch.intercept import TorchCall

_EPSILONS = (1e-5, 1e-6, 1e-8, 1e-12, 1e-3, 0.0)
_TINY = 2e-3  # scalars up to this that are added are taken for an epsilon
_APPROXIMATIONS = {'"tanh"': "tanh", '"none"': "none"}
_ACTIVATIONS: Mapping[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "gelu": ("gelu", functional.gelu),
    "silu": ("silu", functional.silu),
    "relu": ("relu", functional.relu),
    "gelu with tanh": ("", partial(functional.gelu, approximate="tanh")),
}
_STEPS = {"higher": 1, "lower": -1}
_FACTORS = {"doubled": 2.0, "halved": 0.5, "times sqrt(2)": math.sqrt(2), "over sqrt(2)": 0.5**0.5}
_NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}
Change = Callable[[TorchCall], Any]  # returns NotImplemented for a call that it does not change


@dataclass(frozen=True)
class Intervention:
    """words: what is then true, after `with` or `once`. epsilon: that it makes of another, if it is one of those."""

    words: str
    change: Change
    epsilon: float | None = None


def interventions() -> Iterator[Intervention]:
    """Commonest first."""
    yield from _each("gelu(approximate={})", _gelu, _APPROXIMATIONS)
    yield from _each("{} as the activation", _activation, _ACTIVATIONS)
    for eps in _EPSILONS:
        yield Intervention(f"an epsilon of {eps:g}", _epsilon(eps), eps)
    yield Intervention("no scale in attention", _attention(scale=1.0))
    yield Intervention("attention that is not causal", _attention(is_causal=False))
    yield Intervention("causal attention", _attention(is_causal=True))
    yield Intervention("no bias in linear layers", _no_bias)
    yield Intervention("no softcap (tanh)", lambda call: call.args[0] if _is(call, "tanh") else NotImplemented)
    yield Intervention("weight in place of 1 + weight", _without_one)
    yield Intervention("1 + weight in place of weight", _with_one)
    yield Intervention("a factor left out", _without_factor)
    yield Intervention("a constant left out of a sum", _without_constant)
    yield Intervention("the weight of linear layers transposed", _turned_weight)
    yield Intervention("repeat in place of repeat_interleave (the order of KV heads)", _tiled)
    yield Intervention("repeat_interleave in place of repeat (the order of KV heads)", _interleaved)
    yield from _each("positions one {} (arange)", _moved_arange, _STEPS)
    yield from _each("the mask's diagonal one {}", _moved_diagonal, _STEPS)
    yield Intervention("the rotation the other way (sin negative)", _minus_sine)
    yield Intervention("the parts of chunk or split in reverse order", _reversed_parts)
    yield Intervention("the parts of cat in reverse order", _reversed_cat)
    yield Intervention("a layer norm in place of an RMS norm", _layer_norm)
    yield Intervention("an RMS norm in place of a layer norm", _rms_norm)
    yield Intervention("the other correction of the variance (n or n - 1)", _other_variance)
    yield Intervention("padding on the other side", _other_padding)
    yield from _each("a factor {}", _other_factor, _FACTORS)
    yield from _each("the scale of attention {}", _other_attention_scale, _FACTORS)
    yield from _each("matrices of weights rounded to {}", partial(_rounded, dimensions=2), _NARROW)
    yield from _each("weights rounded to {}", partial(_rounded, dimensions=1), _NARROW)
    yield from _each("everything rounded to {}", partial(_rounded, dimensions=0), _NARROW)


def _each(words: str, make: Callable[[Any], Change], values: Mapping[str, Any]) -> Iterator[Intervention]:
    """One change for each value. words: with a place for what the value is called."""
    return (Intervention(words.format(said), make(value)) for said, value in values.items())


def _is(call: TorchCall, *names: str) -> bool:
    return getattr(call.func, "__name__", "") in names


def _gelu(approximate: str) -> Change:
    def change(call: TorchCall) -> Any:
        if not _is(call, "gelu") or call.kwargs.get("approximate", "none") == approximate:
            return NotImplemented
        return functional.gelu(call.args[0], approximate=approximate)

    return change


def _activation(named: tuple[str, Callable[[torch.Tensor], torch.Tensor]]) -> Change:
    """named: the function of torch that is left as it is, and what the others become."""
    kind, function = named

    def change(call: TorchCall) -> Any:
        return function(call.args[0]) if _is(call, "gelu", "silu", "relu") and not _is(call, kind) else NotImplemented

    return change


def _epsilon(eps: float) -> Change:
    places = {"layer_norm": 4, "rms_norm": 3, "group_norm": 4, "batch_norm": 7, "instance_norm": 7}

    def change(call: TorchCall) -> Any:
        for name, place in places.items():
            if _is(call, name):
                args, kwargs = call.args[:place], {k: v for k, v in call.kwargs.items() if k != "eps"}
                return call.func(*args, **kwargs, eps=eps)
        if _is(call, "add", "__add__", "__radd__", "add_") and _scalar(call) is not None and 0 < _scalar(call) <= _TINY:  # type: ignore[operator]
            held = _tensor(call)
            # An epsilon keeps off zero what is a size: a variance, a norm. Added to other numbers it is a constant.
            return held + eps if not held.is_complex() and bool((held >= 0).all()) else NotImplemented
        if _is(call, "clamp", "clamp_min") and _scalar(call) is not None and 0 < _scalar(call) <= _TINY:  # type: ignore[operator]
            return _tensor(call).clamp(min=eps)
        return NotImplemented

    return change


def _attention(**changes: Any) -> Change:
    def change(call: TorchCall) -> Any:
        if not _is(call, "scaled_dot_product_attention"):
            return NotImplemented
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
        given = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
        if changes.get("is_causal"):
            given["attn_mask"] = None
        if changes.get("is_causal") is False:
            given["attn_mask"] = None
        return call.func(**{**given, **changes})

    return change


def _no_bias(call: TorchCall) -> Any:
    if _is(call, "linear", "conv1d", "conv2d") and (len(call.args) > 2 or call.kwargs.get("bias") is not None):
        kwargs = {key: value for key, value in call.kwargs.items() if key != "bias"}
        if _is(call, "linear"):
            return call.func(*call.args[:2], **kwargs)
        return call.func(*call.args[:2], None, *call.args[3:], **kwargs)
    if _is(call, "addmm"):
        return torch.mm(*call.args[1:3])
    return NotImplemented


def _scalar(call: TorchCall) -> float | None:
    """The number that a call combines a tensor with; a tensor of one number that is not a weight counts."""
    for value in (*call.args[:2], *call.kwargs.values()):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, torch.Tensor) and value.dim() == 0 and not isinstance(value, torch.nn.Parameter):
            return float(value)
    return None


def _tensor(call: TorchCall) -> torch.Tensor:
    """The tensor that a call combines a number with."""
    found = [value for value in call.args if isinstance(value, torch.Tensor) and value.dim()]
    return found[0]


_WRITING = ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__")
_ADD = ("add", "__add__", "__radd__", "add_", "__iadd__")
_MUL = ("mul", "__mul__", "__rmul__", "mul_", "__imul__", "multiply")
_DIV = ("div", "__truediv__", "div_", "true_divide", "__itruediv__")


def _without_one(call: TorchCall) -> Any:
    return _tensor(call) if _is(call, *_ADD) and _scalar(call) == 1 and _weight(call) else NotImplemented


def _with_one(call: TorchCall) -> Any:
    if not _is(call, *_MUL) or len(call.args) != 2 or not _weight(call):
        return NotImplemented
    one, other = call.args
    return one * (1 + other) if _is_weight(other) else (1 + one) * other


def _weight(call: TorchCall) -> bool:
    return any(map(_is_weight, call.args))


def _is_weight(value: Any) -> bool:
    """One number for each channel. Converted weights (`weight.float()`) are not parameters any more."""
    return isinstance(value, torch.Tensor) and value.dim() == 1 and value.is_floating_point() and len(value) > 1


def _without_factor(call: TorchCall) -> Any:
    if not _is(call, *_MUL, *_DIV) or _scalar(call) in (None, 0.0, 1.0):
        return NotImplemented
    with contextlib.suppress(IndexError):
        return _tensor(call)
    return NotImplemented


def _without_constant(call: TorchCall) -> Any:
    if not _is(call, *_ADD) or _scalar(call) is None:
        return NotImplemented
    with contextlib.suppress(IndexError):
        return _tensor(call)
    return NotImplemented


def _turned_weight(call: TorchCall) -> Any:
    if _is(call, "linear") and call.args[1].shape[0] == call.args[1].shape[1]:
        return call.func(call.args[0], call.args[1].mT, *call.args[2:], **call.kwargs)
    if _is(call, "matmul", "__matmul__", "mm", "bmm") and call.args[1].shape[-1] == call.args[1].shape[-2]:
        return call.func(call.args[0], call.args[1].mT, *call.args[2:], **call.kwargs)
    return NotImplemented


def _tiled(call: TorchCall) -> Any:
    if _is(call, "repeat_interleave"):
        tensor, times = call.args[:2]
        dim = call.kwargs.get("dim", call.args[2] if len(call.args) > 2 else None)
        if isinstance(times, int) and dim is not None:
            return torch.cat([tensor] * times, dim=dim)
    if _is(call, "scaled_dot_product_attention") and call.kwargs.get("enable_gqa"):
        query, key, value, *rest = call.args
        times = query.shape[-3] // key.shape[-3]
        key, value = (torch.cat([each] * times, dim=-3) for each in (key, value))
        return call.func(query, key, value, *rest, **{**call.kwargs, "enable_gqa": False})
    if _is(call, "reshape", "view", "flatten") and isinstance(call.args[0], torch.Tensor):
        tensor = call.args[0]
        repeated = [d for d in range(1, tensor.dim()) if tensor.stride(d) == 0 and tensor.shape[d] > 1]
        if len(repeated) == 1 and not tensor.is_contiguous():  # `expand`, as transformers' repeat_kv has it
            return torch.Tensor.reshape(tensor.transpose(repeated[0] - 1, repeated[0]), *call.args[1:], **call.kwargs)
    return NotImplemented


def _interleaved(call: TorchCall) -> Any:
    if _is(call, "repeat", "tile"):
        sizes = call.args[1] if isinstance(call.args[1], (tuple, list, torch.Size)) else call.args[1:]
        repeated = [axis for axis, times in enumerate(sizes) if times > 1]
        if len(repeated) == 1 and len(sizes) == call.args[0].dim():
            return call.args[0].repeat_interleave(sizes[repeated[0]], dim=repeated[0])
    if _is(call, "cat", "concat") and len({id(part) for part in call.args[0]}) == 1 < len(call.args[0]):
        dim = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else 0)
        return call.args[0][0].repeat_interleave(len(call.args[0]), dim=dim)
    return NotImplemented


def _moved_arange(step: int) -> Change:
    def change(call: TorchCall) -> Any:
        return call.func(*call.args, **call.kwargs) + step if _is(call, "arange") else NotImplemented

    return change


def _moved_diagonal(step: int) -> Change:
    def change(call: TorchCall) -> Any:
        if not _is(call, "tril", "triu", "tril_", "triu_"):
            return NotImplemented
        now = call.kwargs.get("diagonal", call.args[1] if len(call.args) > 1 else 0)
        return call.func(call.args[0], diagonal=now + step)

    return change


def _minus_sine(call: TorchCall) -> Any:
    return -call.func(*call.args, **call.kwargs) if _is(call, "sin") else NotImplemented


def _reversed_parts(call: TorchCall) -> Any:
    if not _is(call, "chunk", "split", "unbind"):
        return NotImplemented
    parts = call.func(*call.args, **call.kwargs)
    return tuple(parts[::-1]) if len({part.shape for part in parts}) == 1 else NotImplemented


def _reversed_cat(call: TorchCall) -> Any:
    if not _is(call, "cat", "concat", "stack"):
        return NotImplemented
    return call.func(tuple(call.args[0])[::-1], *call.args[1:], **call.kwargs)


def _layer_norm(call: TorchCall) -> Any:
    if not _is(call, "rms_norm"):
        return NotImplemented
    x, shape, *rest = call.args
    weight = rest[0] if rest else call.kwargs.get("weight")
    eps = rest[1] if len(rest) > 1 else call.kwargs.get("eps")
    return functional.layer_norm(x, shape, weight, None, torch.finfo(x.dtype).eps if eps is None else eps)


def _rms_norm(call: TorchCall) -> Any:
    if not _is(call, "layer_norm"):
        return NotImplemented
    x, shape, *rest = call.args
    weight = rest[0] if rest else call.kwargs.get("weight")
    bias = rest[1] if len(rest) > 1 else call.kwargs.get("bias")
    eps = rest[2] if len(rest) > 2 else call.kwargs.get("eps", 1e-5)
    axes = tuple(range(-len(shape), 0))
    made = x / (x.square().mean(axes, keepdim=True) + eps).sqrt()
    made = made if weight is None else made * weight
    return made if bias is None else made + bias


def _other_variance(call: TorchCall) -> Any:
    if not _is(call, "var", "std", "var_mean", "std_mean"):
        return NotImplemented
    kwargs = dict(call.kwargs)
    now = kwargs.pop("correction", 1 if kwargs.pop("unbiased", True) else 0)
    args = [value for value in call.args if not isinstance(value, bool)]
    if len(args) != len(call.args):
        now = int(next(value for value in call.args if isinstance(value, bool)))
    return call.func(*args, **kwargs, correction=1 - int(now))


def _other_padding(call: TorchCall) -> Any:
    if not _is(call, "pad"):
        return NotImplemented
    x, sizes, *rest = call.args
    return call.func(x, [sizes[i ^ 1] for i in range(len(sizes))], *rest, **call.kwargs)


def _other_factor(factor: float) -> Change:
    def change(call: TorchCall) -> Any:
        if not _is(call, *_MUL, *_DIV) or _scalar(call) in (None, 0.0, 1.0):
            return NotImplemented
        return call.func(*call.args, **call.kwargs) * factor

    return change


def _other_attention_scale(factor: float) -> Change:
    def change(call: TorchCall) -> Any:
        if not _is(call, "scaled_dot_product_attention"):
            return NotImplemented
        return call.func(call.args[0] * factor, *call.args[1:], **call.kwargs)

    return change


def _rounded(dtype: torch.dtype, dimensions: int) -> Change:
    """dimensions: of the weights that are rounded, at least; 0 for everything, whether a weight or not."""

    def rounded(value: Any) -> Any:
        wide = isinstance(value, torch.Tensor) and value.dtype in (torch.float32, torch.float64)
        taken = wide and (not dimensions or (isinstance(value, torch.nn.Parameter) and value.dim() >= dimensions))
        return value.to(dtype).to(value.dtype) if taken else value

    def change(call: TorchCall) -> Any:
        name = getattr(call.func, "__name__", "")
        # Into a rounded copy nothing would be written.
        writes = name in _WRITING or (name.endswith("_") and not name.endswith("__"))
        if name == "__get__" or writes or not any(rounded(value) is not value for value in call.args):
            return NotImplemented
        return call.func(*map(rounded, call.args), **{key: rounded(value) for key, value in call.kwargs.items()})

    return change
