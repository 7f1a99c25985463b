"""A true float64 forward pass of code that hard-codes float32.

In: any torch code. Out: the same, with every float32 that it names replaced by float64.

`model.double()` is not enough: norms, rotary embeddings and softmax in transformers convert to
float32 by name, and the result is as noisy as float32. Every function that torch runs passes
through here, so no intermediate in float32 can be made or used unseen: `narrow` counts the
calls that did so all the same, and the oracle refuses to be one unless it is empty.

What code rounds to bfloat16 or float16 stays rounded. A model whose weights are float32 does that on purpose
(Falcon: its ALiBi slopes), so that it is part of what the model computes, and no cost of float32. `rounded`
counts those calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import resolve_name

from harness.stages.torch.intercept import Intercept, TorchCall

_HALF = frozenset({torch.float16, torch.bfloat16})
_METHODS = (("float", "double"), ("cfloat", "cdouble"))
_WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}
# By name: the declared type of a tensor lacks some.
_WIDENING = {getattr(torch.Tensor, one): getattr(torch.Tensor, other) for one, other in _METHODS}


class TrueFloat64(Intercept):
    """Within it, `x.float()`, `dtype=torch.float32` and the default dtype all mean float64; complex64 is complex128."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow: Counter[str] = Counter()
        self.rounded: Counter[str] = Counter()
        self.calls = 0
        self._default = torch.get_default_dtype()

    def __enter__(self) -> TrueFloat64:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        torch.set_default_dtype(self._default)

    def called(self, call: TorchCall) -> Any:
        func, args, kwargs = call
        func = _WIDENING.get(func, func)
        result = func(*_widen(args), **_widen(kwargs))
        self.calls += 1
        # Arguments too: a tensor can come from where torch does not call us, `torch.from_numpy` say, and a sum
        # of it with a float64 one is float64.
        seen = {tensor.dtype for tensor in _tensors((args, kwargs, result))}
        if torch.float32 in seen:
            self.narrow[_name(func)] += 1
        if seen & _HALF:
            self.rounded[_name(func)] += 1
        return result


def _name(func: Callable[..., Any]) -> str:
    return str(resolve_name(func) or getattr(func, "__name__", "?"))


def _widen(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return _WIDE.get(value, value)
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_widen(item) for item in value)
    if isinstance(value, dict):
        return {key: _widen(item) for key, item in value.items()}
    return value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
