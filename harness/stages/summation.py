"""The same float32 arithmetic with sums taken in another order: further samples of what rounding costs.

In: any torch code. Out: the same mathematics, rounded otherwise.

The error of one float32 run is a single draw, and it is a draw from a kind library. Where few numbers decide
(an attention sink, the scale of a norm) it is now and then close to zero. And the library that torch calls
adds up in short pieces, while the kernels of a device add term by term: when one term of a sum is far larger
than the rest, each of a thousand later additions rounds anew, and the error is four times as large. Both are
float32. Nothing else about the model changes: weights, inputs and every operator stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

PIECES = 3  # the library's sums are added over so many pieces, last piece first
PEAKED = 0.75  # share of a position's norm that one number must have for its sums to be taken term by term
_LANES = 16  # columns that the sequential kernel works on at once


class OtherSummation(TorchFunctionMode):
    """Within it, linear layers and means over the last axis add their terms otherwise: in pieces, and at positions
    where one number outweighs the rest (`PEAKED`) term by term.

    order 1: term by term from the first to the last, and order 2: from the last to the first.
    Products of two activations (attention) are added in pieces under every order.
    """

    def __init__(self, order: int) -> None:
        super().__init__()
        self.order = order

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear:
            return self._linear(*args, **kwargs)
        if func in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__) and args[0].ndim > 1 < args[1].ndim:
            one, other = args
            return _added(torch.matmul(one[..., cut], other[..., cut, :]) for cut in self._cuts(one.shape[-1]))
        if func in (torch.mean, torch.Tensor.mean) and args[1:2] == (-1,) and set(kwargs) <= {"keepdim"}:
            total = self._sums(args[0], torch.ones(1, args[0].shape[-1], dtype=args[0].dtype))
            mean = total / args[0].shape[-1]
            return mean if kwargs.get("keepdim") else mean.squeeze(-1)
        return func(*args, **kwargs)

    def _linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        total = self._sums(x, weight)
        return total if bias is None else total + bias

    def _sums(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`[..., terms]` by `[columns, terms]` -> `[..., columns]`."""
        total = _added(functional.linear(x[..., cut], weight[:, cut]) for cut in self._cuts(weight.shape[1]))
        if x.dtype == torch.float32:
            flat, out = x.reshape(-1, x.shape[-1]), total.reshape(-1, total.shape[-1])
            peaked = (flat.abs().amax(-1) > PEAKED * flat.norm(dim=-1)).nonzero()[:, 0]
            if len(peaked):
                out[peaked] = self._term_by_term(flat[peaked], weight)
                total = out.reshape(total.shape)
        return total

    def _term_by_term(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`[rows, terms]` by `[columns, terms]`, each sum in one float32 accumulator."""
        out = torch.empty(x.shape[0], weight.shape[0])
        _kernel()(x.contiguous().numpy(), weight.contiguous().numpy(), out.numpy(), self.order == 2)
        return out

    def _cuts(self, terms: int) -> list[slice]:
        pieces = PIECES + self.order
        bounds = sorted({terms * i // pieces for i in range(pieces + 1)})
        return [slice(a, b) for a, b in pairwise(bounds)][::-1]


def _added(pieces: Iterable[torch.Tensor]) -> torch.Tensor:
    total: torch.Tensor | None = None
    for piece in pieces:
        total = piece if total is None else total.add_(piece)
    assert total is not None
    return total


@cache
def _kernel() -> Callable[..., None]:
    import numba
    import numpy as np

    # No fast-math: the order of the additions is the point. Columns are the vector, terms the sequence.
    @numba.njit(nogil=True, cache=True)
    def products(x: Any, weight: Any, out: Any, backwards: bool) -> None:
        rows, terms = x.shape
        columns = weight.shape[0]
        block = np.zeros((terms, _LANES), np.float32)
        total = np.zeros(_LANES, np.float32)
        for start in range(0, columns, _LANES):
            width = min(_LANES, columns - start)
            for j in range(width):
                for i in range(terms):
                    block[i, j] = weight[start + j, terms - 1 - i if backwards else i]
            for row in range(rows):
                total[:] = 0
                for i in range(terms):
                    factor = x[row, terms - 1 - i if backwards else i]
                    for j in range(_LANES):
                        total[j] += factor * block[i, j]
                out[row, start : start + width] = total[:width]

    return products
