"""A reference in true float64 as it stands: nobody converts its weights, and nothing of it is changed.

In: torch code with float32 weights in it. Out: the same code on float64 shadows of every float32 tensor that it uses.
A function, a bound method or a closure has no weights that could be converted beforehand; a module has, but converting
one changes it, and copying it costs its memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch.nn import functional

from harness.stages.torch.float64 import TrueFloat64
from harness.stages.torch.intercept import TorchCall
from harness.testing.wide_products import FEW_ROWS, wide_products

_FLOAT32, _FLOAT64 = torch.float32, torch.float64
_WIDE = {_FLOAT32: _FLOAT64, torch.complex64: torch.complex128}
_WIDE_OF_HALVES = {**_WIDE, torch.float16: _FLOAT64, torch.bfloat16: _FLOAT64, torch.complex32: torch.complex128}
# Draws are made in float32, as the other runs make them, and widened: float64 would draw other numbers.
_DRAWS = frozenset({
    "rand", "randn", "rand_like", "randn_like", "normal", "bernoulli", "multinomial", "poisson", "bernoulli_",
    "normal_", "uniform_", "exponential_", "cauchy_", "log_normal_", "geometric_", "rrelu", "gumbel_softmax",
})  # fmt: skip
_LARGE = 1 << 22  # numbers of a weight that is not kept in float64
_PIECE = 1 << 19  # numbers that stay in the cache of a core
_DROPOUTS = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d"})


class Shadowed(TrueFloat64):
    """`TrueFloat64` in which a float32 tensor from outside counts as its float64 shadow, and what is written to it is
    written to the shadow; complex numbers likewise.

    halves: float16 and bfloat16 as well, for a reference that is of that type itself.
    """

    def __init__(self, halves: bool = False) -> None:
        super().__init__()
        self.lost: Counter[str] = Counter()  # functions that made float32 of float64 all the same
        self._from = _WIDE_OF_HALVES if halves else _WIDE
        # The tensor is kept, or another one could come to have its id.
        self._shadows: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def called(self, call: TorchCall) -> Any:
        name = getattr(call.func, "__name__", "")
        if name == "__get__" and len(call.args) == 1 and call.args[0].dtype in self._from:
            return self._property(call)
        if name in _DRAWS or name in _DROPOUTS:
            return self._drawn(call, name)
        if name == "set_" or (name == "__set__" and len(call.args) == 2):  # `x.data = y`
            return super().called(call)
        if call.func is functional.linear and not call.kwargs and self._is_large(call.args[1]):
            self.calls += 1
            return self._linear(*call.args)
        args, kwargs = self._shadow(call.args), self._shadow(dict(call.kwargs))
        result = super().called(TorchCall(call.func, args, kwargs))
        if _has(result, _WIDE.keys()) and _has((args, kwargs), _WIDE.values()):
            self.lost[name] += 1
        return result

    def _is_large(self, weight: torch.Tensor) -> bool:
        fresh = weight.dtype in self._from and id(weight) not in self._shadows
        return fresh and weight.dim() == 2 and weight.numel() >= _LARGE

    def _linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Without a float64 weight as a whole: to make all of it wide would take longer than the layer does."""
        given = self._of(x)
        rows = given.reshape(-1, given.shape[-1])
        made = _few(rows, weight) if len(rows) <= FEW_ROWS and weight.dtype == _FLOAT32 else _in_pieces(rows, weight)
        if bias is not None:
            made += self._of(bias)
        return made.reshape(*given.shape[:-1], -1)

    def _property(self, call: TorchCall) -> Any:
        """`x.dtype` and the like need no shadow; `x.T` and `x.data` are tensors, and do."""
        result = call.func(*call.args)
        if isinstance(result, torch.dtype):
            return self._from.get(result, result)
        if isinstance(result, torch.Tensor):
            return call.func(*self._shadow(call.args))
        return result

    def _drawn(self, call: TorchCall, name: str) -> Any:
        args, kwargs = self._shadow(call.args), self._shadow(dict(call.kwargs))
        torch.set_default_dtype(_FLOAT32)
        try:
            if name in _DROPOUTS:
                kept = call.func(torch.ones_like(args[0], dtype=_FLOAT32), *args[1:], **{**kwargs, "inplace": False})
                share = float(kwargs.get("p", args[1] if len(args) > 1 else 0.5)) if bool((kept == 0).any()) else 0.0
                return torch.where(kept != 0, args[0] / (1 - share), 0.0)
            if name.endswith("_"):
                drawn = call.func(args[0].float(), *_narrowed(args[1:]), **_narrowed(kwargs))
                return args[0].copy_(drawn.double())
            return _widened(call.func(*_narrowed(args), **_narrowed(kwargs)))
        finally:
            torch.set_default_dtype(_FLOAT64)

    def _shadow(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._of(value)
        if type(value) in (tuple, list):
            return type(value)(self._shadow(item) for item in value)
        if isinstance(value, dict):
            return {key: self._shadow(item) for key, item in value.items()}
        return value

    def _of(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype not in self._from:
            return tensor
        kept = self._shadows.get(id(tensor))
        if kept is None:
            kept = self._shadows[id(tensor)] = (tensor, tensor.detach().to(self._from[tensor.dtype]))
        return kept[1]


def _few(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    arrays = rows.contiguous().numpy(), weight.detach().contiguous().numpy()
    return torch.from_numpy(wide_products(*arrays, torch.get_num_threads()))


def _in_pieces(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """With a piece of the weight made wide at a time."""
    made = torch.empty(len(rows), len(weight), dtype=_FLOAT64)
    piece = torch.empty(max(1, _PIECE // weight.shape[1]), weight.shape[1], dtype=_FLOAT64)
    for start in range(0, len(weight), len(piece)):
        part = piece[: len(weight) - start].copy_(weight[start : start + len(piece)])
        torch.mm(rows, part.mT, out=made[:, start : start + len(piece)])
    return made


def _has(value: Any, dtypes: Collection[torch.dtype]) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dtype in dtypes
    if isinstance(value, dict):
        return any(_has(item, dtypes) for item in value.values())
    return isinstance(value, (tuple, list)) and any(_has(item, dtypes) for item in value)


def widened(tensor: torch.Tensor, halves: bool) -> torch.Tensor:
    """An input as the reference is given it in float64. halves: as `Shadowed` has it."""
    kinds = _WIDE_OF_HALVES if halves else _WIDE
    return tensor.to(kinds.get(tensor.dtype, tensor.dtype))


def _narrowed(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype == _FLOAT64 else value
    if isinstance(value, (tuple, list)):
        return type(value)(_narrowed(item) for item in value)
    if isinstance(value, Mapping):
        return {key: _narrowed(item) for key, item in value.items()}
    return _FLOAT32 if value is _FLOAT64 else value


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.dtype == _FLOAT32 else value
    return type(value)(_widened(item) for item in value) if isinstance(value, (tuple, list)) else value
