"""The same float32 arithmetic with sums taken in another order: further samples of what rounding costs.

In: any torch code. Out: the same mathematics, rounded otherwise.

The error of one float32 run is a single draw, and it is a draw from a kind library: the one that torch calls adds up
in short pieces. The kernels of a device add term by term, in one accumulator. Each addition rounds at the size of the
sum so far, so their error over that of the library grows with the square root of the number of terms: 1.7 times at
576, 5 times at 5,632. Both are float32. Nothing else about the model changes: weights, inputs and every operator stay
as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional

from harness.stages.torch.intercept import Intercept, TorchCall

PIECES = 3  # the library's sums are added over so many pieces, last piece first
PEAKED = 0.75  # share of a position's norm that one number must have for its sums to be taken term by term
_ROWS = 1024  # of a linear layer at once
DEVICE = 2  # the order that adds as the kernels of a device do


class OtherSummation(Intercept):
    """Within it, every reduction of a decoder adds its terms in another order.

    order 1: projections and products of attention in pieces, and projections term by term, from the last to the first,
    at positions where one number outweighs the rest (`PEAKED`). What norms and softmax add up, term by term, from the
    last to the first.
    order 2, `DEVICE`: everything term by term, from the first to the last, at every position.
    """

    def __init__(self, order: int) -> None:
        super().__init__()
        self.device = order == DEVICE

    def called(self, call: TorchCall) -> Any:
        func, args, kwargs = call
        if _is_float32(args):
            if func is functional.linear:
                return self._linear(*args, **kwargs)
            if func in _ADDMM and len(args) == 3 and not kwargs:  # GPT-2's projections, whose weight is `[in, out]`
                return self._linear(args[1], args[2].T.contiguous(), args[0])
            if func in _MATMUL and args[0].ndim > 1 < args[1].ndim:
                return self._matmul(*args)
            if func in _MEAN and args[1:2] == (-1,) and set(kwargs) <= {"keepdim"}:
                mean = self._mean(args[0])
                return mean if kwargs.get("keepdim") else mean.squeeze(-1)
            if func in _SOFTMAX and (kwargs.get("dim", *args[1:2]) in (-1, args[0].ndim - 1)):
                return self._softmax(args[0])
            if func is functional.layer_norm and len(args[1]) == 1:
                return self._layer_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        add = _term_by_term if self.device else _in_pieces
        total = _by_rows(add, x, weight) if x.ndim > 1 and x.shape[-2] > _ROWS else add(x, weight)
        return total if bias is None else total + bias

    def _matmul(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """`[..., rows, terms]` by `[..., terms, columns]` -> `[..., rows, columns]`."""
        if not self.device:
            cuts = _cuts(one.shape[-1])
            return _added(torch.matmul(one[..., cut], other[..., cut, :]) for cut in cuts)
        shared = torch.broadcast_shapes(one.shape[:-2], other.shape[:-2])  # type: ignore[no-untyped-call]
        left, right = (each.expand(*shared, *each.shape[-2:]).reshape(-1, *each.shape[-2:]) for each in (one, other.mT))
        made = torch.stack([_term_by_term(x, columns) for x, columns in zip(left, right, strict=True)])
        return made.reshape(*shared, *made.shape[-2:])

    def _sum(self, x: torch.Tensor) -> torch.Tensor:
        """Over the last axis, which stays with a length of one."""
        from harness.stages.torch.one_accumulator import sums

        out = torch.empty(x.numel() // x.shape[-1])
        sums(x.reshape(-1, x.shape[-1]).contiguous().numpy(), out.numpy(), not self.device)
        return out.reshape(*x.shape[:-1], 1)

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        return self._sum(x) / x.shape[-1]

    def _softmax(self, x: torch.Tensor) -> torch.Tensor:
        powers = torch.exp(x - x.amax(-1, keepdim=True))
        return powers / self._sum(powers)

    def _layer_norm(
        self, x: torch.Tensor, shape: Any, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None,
        eps: float = 1e-5,
    ) -> torch.Tensor:  # fmt: skip
        centred = x - self._mean(x)
        made = centred * torch.rsqrt(self._mean(centred * centred) + eps)
        made = made if weight is None else made * weight
        return made if bias is None else made + bias


_MATMUL = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)
_ADDMM = (torch.addmm, torch.Tensor.addmm)
_MEAN = (torch.mean, torch.Tensor.mean)
_SOFTMAX = (functional.softmax, torch.softmax, torch.Tensor.softmax)


def _is_float32(args: tuple[Any, ...]) -> bool:
    return bool(args) and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float32 and args[0].ndim > 0


def _in_pieces(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`[..., terms]` by `[columns, terms]` -> `[..., columns]`."""
    total = _added(functional.linear(x[..., cut], weight[:, cut]) for cut in _cuts(weight.shape[1]))
    flat = x.reshape(-1, x.shape[-1])
    peaked = (flat.abs().amax(-1) > PEAKED * flat.norm(dim=-1)).nonzero()[:, 0]
    if len(peaked):
        total.reshape(-1, total.shape[-1])[peaked] = _term_by_term(flat[peaked], weight, backwards=True)
    return total


def _by_rows(
    add: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """`add` of some rows after the other: logits over a long input are in memory once, and not with their parts."""
    flat = x.reshape(-1, x.shape[-1])
    out = torch.empty(flat.shape[0], weight.shape[0])
    for start in range(0, flat.shape[0], _ROWS):
        out[start : start + _ROWS] = add(flat[start : start + _ROWS], weight)
    return out.reshape(*x.shape[:-1], -1)


def _term_by_term(x: torch.Tensor, weight: torch.Tensor, backwards: bool = False) -> torch.Tensor:
    """`[..., terms]` by `[columns, terms]` -> `[..., columns]`, each sum in one float32 accumulator."""
    from harness.stages.torch.one_accumulator import products

    flat = x.reshape(-1, x.shape[-1]).contiguous()
    out = torch.empty(flat.shape[0], weight.shape[0])
    products(flat.numpy(), weight.contiguous().numpy(), out.numpy(), backwards)
    return out.reshape(*x.shape[:-1], -1)


def _cuts(terms: int) -> list[slice]:
    pieces = PIECES + 1
    bounds = sorted({terms * i // pieces for i in range(pieces + 1)})
    return [slice(a, b) for a, b in pairwise(bounds)][::-1]


def _added(pieces: Iterable[torch.Tensor]) -> torch.Tensor:
    total: torch.Tensor | None = None
    for piece in pieces:
        total = piece if total is None else total.add_(piece)
    assert total is not None
    return total
