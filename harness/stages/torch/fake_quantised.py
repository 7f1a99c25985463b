"""What a quantised file's linear layers compute by definition, in PyTorch: its own weights, and inputs on their grid.

In: the input of a layer and what the file holds of its weight. Out: its output in float32. Whole numbers add up
exactly, so the sums are taken in float64, which is exact enough to round once at the end.

The runtimes quantise the input of a layer with narrow weights row by row, and do it in two ways, measured to 4e-8 on
rows of every kind (with a sign, without, zeros, one large number):
- XNNPACK: 256 steps from the least to the largest number of the row, 0 included.
- LiteRT's own kernels: 255 steps around 0, up to the largest absolute number; but as XNNPACK for weights in blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch

from harness.flatbuffer.quantised import Held

Rows = tuple[torch.Tensor, torch.Tensor]  # whole numbers, less the zero point, and the step of each row `[..., 1]`


class RowGrid(Enum):
    """How a runtime quantises the rows of a layer's input."""

    NONE = "none"  # it does not
    FROM_LEAST = "from least to largest"
    AROUND_ZERO = "around zero"


def rows_from_least(x: torch.Tensor) -> Rows:
    """On 256 steps from the least number of a row to the largest, 0 included. x: float32 `[..., width]`."""
    least = x.amin(-1, keepdim=True).clamp(max=0)
    most = x.amax(-1, keepdim=True).clamp(min=0)
    per_unit = torch.where(least == most, torch.ones_like(least), 255 / (most - least))
    low, high = -128 + least * per_unit, 127 + most * per_unit
    zero = torch.where(low + high > 0, -128 - least * per_unit, 127 - most * per_unit).clamp(-128, 127).round()
    whole = ((x * per_unit).round() + zero).clamp(-128, 127) - zero
    return whole, 1 / per_unit


def rows_around_zero(x: torch.Tensor) -> Rows:
    """On 255 steps around 0, up to the largest absolute number of a row; halves go away from 0. x: as above."""
    most = x.abs().amax(-1, keepdim=True)
    per_unit = torch.where(most > 0, 127 / most, torch.zeros_like(most))
    scaled = x * per_unit
    whole = (scaled.sign() * (scaled.abs() + 0.5).floor()).clamp(-127, 127)
    return whole, most / 127


_ROWS: dict[RowGrid, Callable[[torch.Tensor], Rows]] = {
    RowGrid.FROM_LEAST: rows_from_least,
    RowGrid.AROUND_ZERO: rows_around_zero,
}


def linear(x: torch.Tensor, weight: Held, bias: torch.Tensor | None, rows: RowGrid) -> torch.Tensor:
    """x: float32 `[..., in]`. weight: `[out, in]`. Returns float32 `[..., out]`."""
    if rows is RowGrid.NONE:
        return torch.nn.functional.linear(x, torch.from_numpy(weight.values).to(torch.float32), bias)
    whole, step = _ROWS[rows](x)
    total = torch.nn.functional.linear(whole.to(torch.float64), torch.from_numpy(weight.values))
    total *= step.to(torch.float64)
    if bias is not None:
        total += bias.to(torch.float64)
    return total.to(torch.float32)
