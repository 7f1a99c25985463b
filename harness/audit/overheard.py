"""What a model that runs calls of torch: its activation, the scale of its attention, how far it turns its queries.

In: a small model that runs. Out: an `Overheard`. It serves models whose modules do not say these things, such as a
reference that computes them in plain functions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

from harness.audit.behaviour import describe_activation
from harness.stages.torch.intercept import Intercept, TorchCall

_MULTIPLIED = (torch.Tensor.__mul__, torch.Tensor.mul, torch.mul)
_PRODUCTS = (torch.Tensor.__matmul__, torch.Tensor.matmul, torch.matmul)
_ACTIVATIONS = (functional.silu, functional.gelu, functional.relu, torch.sigmoid)


class Overheard(Intercept):
    """activations: by name, each once. queries: what attention was given first, `[batch, heads, time, head_dim]`.

    scale: the factor of the products, None where no attention of torch's own was called. scales: (factor, head_dim) of
    each attention, also of those that scale their queries before a product of their own, as softcaps require.
    """

    def __init__(self) -> None:
        super().__init__()
        self.activations: list[str] = []
        self.queries: torch.Tensor | None = None
        self.scale: float | None = None
        self.scales: list[tuple[float, int]] = []
        self._scaled: tuple[Any, float] = (None, 1.0)

    def called(self, call: TorchCall) -> Any:
        func, args, kwargs = call
        if func is functional.scaled_dot_product_attention:
            scale = kwargs.get("scale") or 1 / math.sqrt(args[0].shape[-1])
            self.scales.append((scale, args[0].shape[-1]))
            if self.queries is None:
                self.queries, self.scale = args[0].clone(), scale
        elif func in _PRODUCTS and args[0] is self._scaled[0]:
            self.scales.append((self._scaled[1], args[0].shape[-1]))
        elif func in _ACTIVATIONS:
            rest = args[1:]
            name = describe_activation(lambda x: func(x, *rest, **kwargs))
            if name not in self.activations:
                self.activations.append(name)
        made = func(*args, **kwargs)
        if func in _MULTIPLIED and len(args) > 1 and isinstance(args[1], (int, float)):
            self._scaled = (made, float(args[1]))
        return made


def turns_by(before: torch.Tensor, after: torch.Tensor, base: float) -> bool:
    """Whether queries `[batch, heads, time, head_dim]` were turned by plain rotary frequencies of this base.

    The two halves of a head are the pairs (arXiv 2104.09864). Angles are good to 1e-5 radians in float32.
    """
    if before.shape != after.shape:
        return False
    half = before.shape[-1] // 2
    one, two = (torch.complex(x[..., :half].double(), x[..., half:].double()) for x in (before, after))
    positions = torch.arange(before.shape[-2], dtype=torch.float64)[:, None]
    frequencies = float(base) ** (-torch.arange(half, dtype=torch.float64) / half)
    turned = one * torch.polar(torch.ones_like(positions * frequencies), positions * frequencies)
    return bool(torch.allclose(turned, two, rtol=0, atol=1e-5 * float(one.abs().max())))
